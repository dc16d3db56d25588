"""The routes of a server, as an ASGI application.

    app = application(jaxlm.load("runs/reviews"))

GET  /health                  what is served, and that it answers
GET  /v1/models               the same in OpenAI's format
POST /predict                 {"records": [...]}  ->  {"predictions": [...]}
POST /v1/completions          texts that are continued, in OpenAI's format
POST /v1/chat/completions     a conversation that is answered, in OpenAI's format

A wrong request gets status 400 and one line: what is wrong, and how to fix it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from jaxlm.core.config import Config, UserError, parse
from jaxlm.core.optional import need
from jaxlm.generate import Sampling
from jaxlm.serving.batches import Batches, Work
from jaxlm.serving.requests import Chats, Completions, Records, Written

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

    from jaxlm.api.run import Run

C = TypeVar("C", bound=Config)


def application(run: Run, *, batch_size: int = 16) -> Starlette:
    """The ASGI application that serves a run.

    batch_size: items of several requests that are answered together, at most.
    """
    need("starlette", "serve", "a server")
    from starlette.applications import Starlette
    from starlette.routing import Route

    served = Served(run, batch_size)
    routes = [
        Route("/health", served.health),
        Route("/v1/models", served.models),
        Route("/predict", served.predict, methods=["POST"]),
        Route("/v1/completions", served.completions, methods=["POST"]),
        Route("/v1/chat/completions", served.chat_completions, methods=["POST"]),
    ]

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(served.batches.close)

    handlers: Any = {UserError: _wrong_request}
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)


class Served:
    """A run, and the answers to requests for it."""

    def __init__(self, run: Run, batch_size: int) -> None:
        self._run = run
        self._name = run.path.name
        self._created = int(time.time())
        self.batches = Batches(size=batch_size)

    async def health(self, request: Request) -> Any:
        return _json({"status": "ok", "run": self._name, "step": self._run.step})

    async def models(self, request: Request) -> Any:
        model = {"id": self._name, "object": "model", "created": self._created, "owned_by": "jaxlm"}
        return _json({"object": "list", "data": [model]})

    async def predict(self, request: Request) -> Any:
        asked = await _read(request, Records)
        return _json({"predictions": await self._ask(self._run.predict, asked.records)})

    async def completions(self, request: Request) -> Any:
        asked = await _read(request, Completions)
        texts = await self._ask(Writing.of(self._run, asked, chat=False), asked.prompt)
        choices = [
            {"index": n, "text": text, "logprobs": None, "finish_reason": None}
            for n, text in enumerate(texts)
        ]
        return _json(self._written("cmpl", "text_completion", choices))

    async def chat_completions(self, request: Request) -> Any:
        asked = await _read(request, Chats)
        conversation = json.dumps(list(asked.messages), ensure_ascii=False)
        (text,) = await self._ask(Writing.of(self._run, asked, chat=True), [conversation])
        message = {"role": "assistant", "content": text}
        choices = [{"index": 0, "message": message, "finish_reason": None}]
        return _json(self._written("chatcmpl", "chat.completion", choices))

    async def _ask(self, work: Work, items: Sequence[Any]) -> list[Any]:
        return await asyncio.wrap_future(self.batches.ask(work, items))

    def _written(self, prefix: str, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": self._name,
            "choices": choices,
        }


@dataclass(frozen=True)
class Writing:
    """Writes a text after each prompt. seed: None draws another one each time."""

    run: Run
    sampling: Sampling
    seed: int | None
    chat: bool

    @classmethod
    def of(cls, run: Run, asked: Written, chat: bool) -> Writing:
        return cls(run, asked.sampling, 0 if asked.temperature == 0 else asked.seed, chat)

    def __call__(self, prompts: list[str]) -> list[str]:
        seed = secrets.randbits(31) if self.seed is None else self.seed
        return self.run.generate(prompts, seed=seed, chat=self.chat, **vars(self.sampling))


async def _read(request: Request, kind: type[C]) -> C:
    """The body of a request. Raises `UserError` where it is not what is asked for."""
    try:
        values = json.loads(await request.body())
    except ValueError as error:
        raise UserError(f"the body is not JSON ({error}); send an object") from None
    return parse(kind, values)


async def _wrong_request(request: Request, error: Exception) -> Any:
    message = {"message": str(error), "type": "invalid_request_error"}
    return _json({"error": message}, status=400)


def _json(values: Any, status: int = 200) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse(values, status_code=status)
