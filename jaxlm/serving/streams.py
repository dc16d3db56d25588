"""Texts that are sent while they are written: server-sent events in OpenAI's format.

    data: {"id": "cmpl-1f", "choices": [{"index": 0, "text": " upon a", ...}], ...}
    data: {"id": "cmpl-1f", "choices": [{"index": 0, "text": "", "finish_reason": "stop"}], ...}
    data: [DONE]

A client that leaves ends its text: `Pieces.close` makes what writes it stop at the next piece.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from jaxlm.core.errors import UserError
from jaxlm.generate import Text

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

log = logging.getLogger("jaxlm")

Piece = tuple[int, str]  # the number of a prompt, and what is new of its text
Event = Callable[[int, str, str | None], dict[str, Any]]  # (number, text, why it ends)
FAILED = "the server failed while it wrote the text; its log says why"


class _NobodyReads(Exception):
    """Ends the writing of a text whose client has left."""


class Pieces:
    """The pieces that a thread writes, for a coroutine of the running event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Piece | None] = asyncio.Queue()
        self._written: Future[Any] | None = None
        self.closed = False

    def add(self, number: int, text: str) -> None:
        """Called by the thread; after `close` it raises what ends the writing."""
        if self.closed:
            raise _NobodyReads
        self._put((number, text))

    def end_with(self, future: Future[Any]) -> None:
        """No piece comes after `future`, what is written as a whole, is done."""
        self._written = future
        future.add_done_callback(lambda _: self._put(None))

    def close(self) -> None:
        """Nobody reads any more: what is not begun is not written, and what is begun ends."""
        self.closed = True
        if self._written is not None:
            self._written.cancel()

    async def first(self, request: Request) -> Piece | None:
        """The first piece. If the client of the request, whose body is read, leaves before, this
        closes.
        """
        begun, gone = asyncio.create_task(self.next()), asyncio.create_task(left(request))
        try:
            await asyncio.wait((begun, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not begun.done():
                self.close()
            begun.cancel()
            gone.cancel()
        return None if self.closed else begun.result()

    async def next(self) -> Piece | None:
        """The next piece; None: that was all."""
        return await self._queue.get()

    def _put(self, piece: Piece | None) -> None:
        self._loop.call_soon_threadsafe(self._queue.put_nowait, piece)


async def events(
    first: Piece | None, pieces: Pieces, written: Future[list[Text]], event: Event
) -> AsyncIterator[str]:
    """The lines of the answer: each piece, why each text ends, and that this is all.

    first: the piece before those of `pieces`. written: the texts as a whole; one that fails ends
    the answer with an error, without [DONE]: what the user can fix, or that the server failed, and
    then its log says why.
    """
    piece = first
    while piece is not None:
        yield _line(event(*piece, None))
        piece = await pieces.next()
    try:
        texts = written.result()
    except UserError as error:
        yield _line({"error": {"message": str(error), "type": "invalid_request_error"}})
        return
    except Exception:
        log.exception("a stream failed")
        yield _line({"error": {"message": FAILED, "type": "server_error"}})
        return
    for number, text in enumerate(texts):
        yield _line(event(number, "", reason(text.ended)))
    yield "data: [DONE]\n\n"


async def left(request: Request) -> None:
    """Returns when the client of a request, whose body is read, has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def reason(ended: bool) -> str:
    """OpenAI's word for why a text ends."""
    return "stop" if ended else "length"


def response(lines: AsyncIterator[str], pieces: Pieces) -> Response:
    """The answer of these lines; `pieces` are closed when it ends, and when its client leaves."""
    from starlette.responses import StreamingResponse

    class Stream(StreamingResponse):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await super().__call__(scope, receive, send)
            finally:
                pieces.close()

    return Stream(lines, media_type="text/event-stream")


def _line(values: dict[str, Any]) -> str:
    return f"data: {json.dumps(values, ensure_ascii=False)}\n\n"
