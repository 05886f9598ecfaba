"""Any text for a request is refused by its constructor, or goes over the wire byte for byte; no exception escapes."""

import httpx2
import pytest
from hypothesis import given

from requeuest_trio import InvalidRequest, Request, TrioTransport
from requeuest_trio._http.sender import open_sender
from requeuest_trio._http.wire.message import _target, target_of
from requeuest_trio._model.ecosystem import URL
from tests.http.fuzzing import URLS, accepted, all_to, answer, assert_exact
from tests.http.hostile import SMALL, send_request
from tests.http.recording import recorder


async def test_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    async with recorder() as record:
        origins = all_to(record, monkeypatch)
        requests = accepted()
        assert len(requests) > 100
        assert any(request.headers for request in requests)
        async with TrioTransport(keepalive=0) as transport, open_sender(transport, SMALL) as sender:
            for request in requests:
                record.answer = answer
                delivery = await send_request(sender, request)
                assert delivery.error is None, (request, delivery)
                assert_exact(request, record.wire.pop())
                assert record.wire == []
                assert origins.pop() == _target(URL(request.url)).origin


@given(URLS)
def test_urls_are_taken_apart_as_httpx2_does(url: str) -> None:
    """By whichever way is shorter."""
    try:
        kept = Request.get(url).url
    except InvalidRequest:
        return
    assert target_of(kept) == _target(httpx2.URL(kept))
