"""The application of the real servers, for those that speak ASGI."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

ETAG = b'"hello"'


async def app(scope: Event, receive: Receive, send: Send) -> None:
    """Answer by path."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])

    async def answer(status: int, fields: dict[bytes, bytes], *body: bytes) -> None:
        await send({"type": "http.response.start", "status": status, "headers": list(fields.items())})
        for piece in body:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    match scope["path"]:
        case "/hello" if (b"if-none-match", ETAG) in scope["headers"]:
            await answer(304, {b"etag": ETAG})
        case "/hello":
            is_head = scope["method"] == "HEAD"
            await answer(200, {b"content-length": b"5", b"etag": ETAG}, *([] if is_head else [b"hello"]))
        case "/chunked/":
            await answer(200, {}, b"one", b"two" * 10_000, b"three")
        case "/none":
            await answer(204, {})
        case "/moved":
            await answer(302, {b"location": b"/hello", b"content-length": b"0"})
        case "/limited":
            await answer(413, {b"content-length": b"0"})
        case "/size":
            size, more = 0, True
            while more:
                event = await receive()
                size, more = size + len(event.get("body", b"")), event.get("more_body", False)
            text = b"%d" % size
            await answer(200, {b"content-length": b"%d" % len(text)}, text)
