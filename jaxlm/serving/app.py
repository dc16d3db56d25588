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
from typing import TYPE_CHECKING, Any

from jaxlm.core.config import UserError, parse
from jaxlm.core.optional import need
from jaxlm.generate import Sampling, Text
from jaxlm.serving.batches import Batches, Work
from jaxlm.serving.requests import Chats, Completions, Records, split

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

    from jaxlm.api.run import Run


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
        asked = parse(Records, await _body(request))
        return _json({"predictions": await self._ask(self._run.predict, asked.records)})

    async def completions(self, request: Request) -> Any:
        asked, options = split(Completions, await _body(request))
        work = Writing(self._run, self._sampling(options), asked.seed, chat=False)
        choices = [
            {"index": n, "text": text, "logprobs": None, "finish_reason": _reason(ended)}
            for n, (text, _, ended) in enumerate(await self._ask(work, asked.prompt))
        ]
        return _json(self._written("cmpl", "text_completion", choices))

    async def chat_completions(self, request: Request) -> Any:
        asked, options = split(Chats, await _body(request))
        conversation = json.dumps(list(asked.messages), ensure_ascii=False)
        work = Writing(self._run, self._sampling(options), asked.seed, chat=True)
        ((text, _, ended),) = await self._ask(work, [conversation])
        message = {"role": "assistant", "content": text}
        choices = [{"index": 0, "message": message, "finish_reason": _reason(ended)}]
        return _json(self._written("chatcmpl", "chat.completion", choices))

    def _sampling(self, options: Any) -> Sampling:
        return self._run.config.sample.asked(options)

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

    def __call__(self, prompts: list[str]) -> list[Text]:
        seed = secrets.randbits(31) if self.seed is None else self.seed
        writer = self.run.writer(self.sampling, self.chat)
        return writer.with_scores(self.run.params, prompts, seed=seed)


def _reason(ended: bool) -> str:
    return "stop" if ended else "length"


async def _body(request: Request) -> Any:
    """Raises `UserError` where it is not JSON."""
    try:
        return json.loads(await request.body())
    except ValueError as error:
        raise UserError(f"the body is not JSON ({error}); send an object") from None


async def _wrong_request(request: Request, error: Exception) -> Any:
    message = {"message": str(error), "type": "invalid_request_error"}
    return _json({"error": message}, status=400)


def _json(values: Any, status: int = 200) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse(values, status_code=status)
