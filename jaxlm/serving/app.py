"""The routes of a server, as an ASGI application.

    app = application(jaxlm.load("runs/reviews"))

GET  /health                  what is served, and that it answers
GET  /v1/models               the same in OpenAI's format
POST /predict                 {"records": [...]}  ->  {"predictions": [...]}
POST /v1/completions          texts that are continued, in OpenAI's format
POST /v1/chat/completions     a conversation that is answered, in OpenAI's format

With `stream` texts are sent while they are written (`jaxlm.serving.streams`). A wrong request gets
status 400 and one line: what is wrong, and how to fix it. A client that leaves ends its work.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.core.config import UserError, parse
from jaxlm.core.optional import need
from jaxlm.generate import Sampling, Text
from jaxlm.generate.generator import Wanted
from jaxlm.serving.batches import Batches, Work
from jaxlm.serving.requests import Chats, Completions, Records, split
from jaxlm.serving.streams import Event, Pieces, events, left, reason, response

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

    from jaxlm.api.run import Run

CLIENT_LEFT = 499  # nginx's status of a request whose client did not wait; nobody reads it


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

    handlers: Any = {UserError: _wrong_request, ClientLeft: _nobody_waits}
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)


class ClientLeft(Exception):
    """Nobody waits for the answer to a request."""


class Served:
    """A run, and the answers to requests for it."""

    def __init__(self, run: Run, batch_size: int) -> None:
        self._run = run
        self._name = run.path.name
        self._created = int(time.time())
        self._batch_size = batch_size
        self.batches = Batches(size=batch_size)

    async def health(self, request: Request) -> Any:
        return _json({"status": "ok", "run": self._name, "step": self._run.step})

    async def models(self, request: Request) -> Any:
        model = {"id": self._name, "object": "model", "created": self._created, "owned_by": "jaxlm"}
        return _json({"object": "list", "data": [model]})

    async def predict(self, request: Request) -> Any:
        asked = parse(Records, await _body(request))
        return _json({"predictions": await self._ask(request, self._predicted, asked.records)})

    async def completions(self, request: Request) -> Any:
        asked, options = split(Completions, await _body(request))
        work, head = self._writing(options, asked.seed, chat=False), self._head("cmpl")
        head |= {"object": "text_completion"}

        def answer(*choices: tuple[int, str, str | None]) -> dict[str, Any]:
            made = [
                {"index": n, "text": text, "logprobs": None, "finish_reason": why}
                for n, text, why in choices
            ]
            return {**head, "choices": made}

        if asked.stream:
            return await self._streamed(request, work, asked.prompt, lambda *x: answer(x))
        texts = await self._ask(request, work, asked.prompt)
        return _json(answer(*((n, x.text, reason(x.ended)) for n, x in enumerate(texts))))

    async def chat_completions(self, request: Request) -> Any:
        asked, options = split(Chats, await _body(request))
        conversation = json.dumps(list(asked.messages), ensure_ascii=False)
        work = self._writing(options, asked.seed, chat=True)
        head = self._head("chatcmpl")

        def event(number: int, text: str, why: str | None) -> dict[str, Any]:
            delta = {} if why else {"role": "assistant", "content": text}
            choices = [{"index": number, "delta": delta, "finish_reason": why}]
            return {**head, "object": "chat.completion.chunk", "choices": choices}

        if asked.stream:
            return await self._streamed(request, work, [conversation], event)
        (said,) = await self._ask(request, work, [conversation])
        message = {"role": "assistant", "content": said.text}
        choices = [{"index": 0, "message": message, "finish_reason": reason(said.ended)}]
        return _json({**head, "object": "chat.completion", "choices": choices})

    @cached_property
    def _predicted(self) -> Work:
        return self._run.predictor(self._batch_size)

    def _writing(self, options: Any, seed: int | None, *, chat: bool) -> Writing:
        sampling = self._run.config.sample.asked(options)
        wanted = self.batches.wanted
        return Writing(self._run, sampling, self._batch_size, seed, chat, wanted)

    async def _ask(self, request: Request, work: Work, items: Sequence[Any]) -> list[Any]:
        """Raises `ClientLeft` where the client does not wait for the answers: what is not begun is
        then not done, and texts that are begun end.
        """
        answers = self.batches.ask(work, items)
        done, gone = asyncio.wrap_future(answers), asyncio.create_task(left(request))
        try:
            await asyncio.wait((done, gone), return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                raise ClientLeft
            return done.result()
        finally:
            gone.cancel()
            if not done.done():
                answers.leave()
                done.cancel()

    async def _streamed(
        self, request: Request, work: Writing, prompts: Sequence[str], event: Event
    ) -> Any:
        """Raises what goes wrong before a text begins: the request then has its status. A client
        that leaves, at any time, ends its text.
        """
        from starlette.responses import Response

        pieces = Pieces()
        written = self.batches.ask(dataclasses.replace(work, on_text=pieces.add), prompts)
        pieces.end_with(written)
        first = await pieces.first(request)
        if pieces.closed:
            return Response(status_code=CLIENT_LEFT)
        if first is None:
            written.result()
        return response(events(first, pieces, written, event), pieces)

    def _head(self, prefix: str) -> dict[str, Any]:
        name = f"{prefix}-{secrets.token_hex(12)}"
        return {"id": name, "created": int(time.time()), "model": self._name}


@dataclass(frozen=True)
class Writing:
    """Writes a text after each prompt.

    seed: one that is given makes equal texts of equal requests, which therefore share no batch
    with others: a text depends on its place in the batch. None: another one each time. wanted: of
    each prompt, whether somebody waits for its text. on_text: gets (the number of a prompt, what is
    new of its text) while it is written, of one request.
    """

    run: Run
    sampling: Sampling
    batch_size: int
    seed: int | None
    chat: bool
    wanted: Wanted
    on_text: Callable[[int, str], object] | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Writing) or self._alone or other._alone:
            return self is other
        return (self.sampling, self.chat) == (other.sampling, other.chat)

    @property
    def _alone(self) -> bool:
        return self.seed is not None or self.on_text is not None

    def __hash__(self) -> int:
        return hash((self.sampling, self.chat))

    def __call__(self, prompts: list[str]) -> list[Text]:
        """In parts, each of a number of rows that is a power of two: few programs are compiled.
        No part is written where a prompt of another one is wrong.
        """
        writer = self.run.writer(self.sampling, self.chat)
        writer.check(prompts)
        seed = secrets.randbits(31) if self.seed is None else self.seed
        found: list[Text] = []
        for start in range(0, len(prompts), self.batch_size):
            some = prompts[start : start + self.batch_size]
            if not any(self.wanted()[start : start + len(some)]):
                found += [Text("", 0.0, False)] * len(some)
                continue
            full = some + some[-1:] * ((1 << (len(some) - 1).bit_length()) - len(some))
            own = seed if start == 0 else np.random.SeedSequence([seed, start]).generate_state(1)[0]
            seed_of_part = int(own) % 2**31
            if self.on_text is None:
                wanted = self._waiting(start, len(some), len(full))
                written = writer.with_scores(
                    self.run.params, full, seed=seed_of_part, wanted=wanted
                )
            else:
                written = writer.streamed(
                    self.run.params, full, self._heard(start, len(some)), seed=seed_of_part
                )
            found += written[: len(some)]
        return found

    def _waiting(self, start: int, count: int, rows: int) -> Wanted:
        """`wanted` of a batch: the `count` prompts from number `start`, and rows that fill it."""
        return lambda: [*self.wanted()[start : start + count], *[False] * (rows - count)]

    def _heard(self, start: int, count: int) -> Callable[[int, str], None]:
        """`on_text` for the `count` prompts from number `start`; rows after them fill the batch."""

        def heard(number: int, text: str) -> None:
            if self.on_text is not None and number < count:
                self.on_text(start + number, text)

        return heard


async def _body(request: Request) -> Any:
    """Raises `UserError` where it is not JSON."""
    try:
        return json.loads(await request.body())
    except ValueError as error:
        raise UserError(f"the body is not JSON ({error}); send an object") from None


async def _wrong_request(request: Request, error: Exception) -> Any:
    message = {"message": str(error), "type": "invalid_request_error"}
    return _json({"error": message}, status=400)


async def _nobody_waits(request: Request, error: Exception) -> Any:
    from starlette.responses import Response

    return Response(status_code=CLIENT_LEFT)


def _json(values: Any, status: int = 200) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse(values, status_code=status)
