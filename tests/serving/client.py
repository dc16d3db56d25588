"""A client of an ASGI application, without a network."""

from __future__ import annotations

import asyncio
import json
from typing import Any

Asked = tuple[str, str, Any]  # method, path, body


def ask(app: Any, *requests: Asked) -> list[tuple[int, Any]]:
    """(status, JSON) of each request; all are sent at the same time, while the server lives."""

    async def all_of_them() -> list[tuple[int, Any]]:
        async with app.router.lifespan_context(app):
            return await asyncio.gather(*(one(app, *request) for request in requests))

    return asyncio.run(all_of_them())


async def one(
    app: Any, method: str, path: str, body: Any, leaving: asyncio.Event | None = None
) -> tuple[int, Any]:
    """(status, JSON or text) of a request. leaving: the client leaves when it is set."""
    sent: list[dict[str, Any]] = []
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    parts = [data]

    async def receive() -> dict[str, Any]:
        if not parts:  # a client that listens to a stream sends nothing, until it leaves
            await (leaving or asyncio.Event()).wait()
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": parts.pop(), "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "server": ("test", 80),
        "client": ("test", 1),
    }
    await app(scope, receive, send)
    answer = b"".join(m.get("body", b"") for m in sent)
    return sent[0]["status"], json.loads(answer) if answer[:1] in (b"{", b"[") else answer.decode()
