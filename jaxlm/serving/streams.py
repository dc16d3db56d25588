"""Texts that are sent while they are written: server-sent events in OpenAI's format.

data: {"id": "cmpl-1f", "choices": [{"index": 0, "text": " upon a", ...}], ...}
data: {"id": "cmpl-1f", "choices": [{"index": 0, "text": "", "finish_reason": "stop"}], ...}
data: [DONE]
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import Any

from jaxlm.generate import Text

Piece = tuple[int, str]  # the number of a prompt, and what is new of its text
Event = Callable[[int, str, str | None], dict[str, Any]]  # (number, text, why it ends)


class Pieces:
    """The pieces that a thread writes, for a coroutine of the running event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Piece | None] = asyncio.Queue()

    def add(self, number: int, text: str) -> None:
        self._put((number, text))

    def end_with(self, future: Future[Any]) -> None:
        """No piece comes after `future` is done."""
        future.add_done_callback(lambda _: self._put(None))

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
    the answer with what went wrong, without [DONE].
    """
    piece = first
    while piece is not None:
        yield _line(event(*piece, None))
        piece = await pieces.next()
    try:
        texts = written.result()
    except Exception as error:
        yield _line({"error": {"message": str(error), "type": "server_error"}})
        return
    for number, text in enumerate(texts):
        yield _line(event(number, "", reason(text.ended)))
    yield "data: [DONE]\n\n"


def reason(ended: bool) -> str:
    """OpenAI's word for why a text ends."""
    return "stop" if ended else "length"


def _line(values: dict[str, Any]) -> str:
    return f"data: {json.dumps(values, ensure_ascii=False)}\n\n"
