"""Whatever a constructor refuses, what it was given is in no frame's locals, in no cause and in no text."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from requeuest_trio import Config, InvalidRequest, Request
from requeuest_trio._model.frames import without_locals
from tests.unit.test_dsn import everything

SECRET = "s3cret"
URL = f"https://user:{SECRET}@h/{SECRET}?a={SECRET}"


class Raising:
    def __iter__(self) -> Iterator[tuple[str, str]]:
        yield "X-Own", SECRET
        raise ValueError("of the application")


def shows_it(error: BaseException) -> bool:
    return SECRET in everything(error)


HOLDING: dict[str, Any] = {"headers": {"X-Own": SECRET, "X-Other": SECRET}, "params": {"a": SECRET}}
"""What is fine, and holds the secret too."""
REFUSED: dict[str, dict[str, Any]] = {
    "method": {"method": SECRET},
    "method of a wrong type": {"method": [SECRET]},
    "url of a wrong type": {"url": SECRET.encode()},
    "url without a host": {"url": f"https:///{SECRET}?token={SECRET}"},
    "url of another scheme": {"url": f"ftp://{SECRET}:{SECRET}@h/?token={SECRET}"},
    "url with a space": {"url": f"https://h/?a= {SECRET}"},
    "url with a surrogate": {"url": f"https://h/\ud800?a={SECRET}"},
    "url with a backslash": {"url": f"https://h\\{SECRET}"},
    "url with a wrong port": {"url": f"https://u:{SECRET}@h:99999/{SECRET}"},
    "url whose port is none": {"url": f"https://u:{SECRET}/@h"},
    "url that is too long": {"url": f"https://h/{SECRET * 2_000}"},
    "user with a colon": {"url": f"https://a%3Ab:{SECRET}@h/"},
    "user beside Authorization": {"url": f"https://a:{SECRET}@h/", "headers": {"Authorization": SECRET}},
    "headers of a wrong type": {"headers": SECRET},
    "headers that are no pairs": {"headers": [SECRET]},
    "headers of three": {"headers": [("a", SECRET, "b")]},
    "headers that raise": {"headers": Raising()},
    "header that is no str": {"headers": {"X-Own": SECRET.encode()}},
    "header with a line end": {"headers": {"X-Own": f"{SECRET}\r\n"}},
    "header that is not Latin-1": {"headers": {"X-Own": f"{SECRET}\u20ac"}},
    "header that is reserved": {"headers": {"Host": SECRET}},
    "headers that are too large": {"headers": {"X-Own": SECRET * 20_000}},
    "json": {"json": {"a": SECRET, "b": object()}},
    "json that is not finite": {"json": [SECRET, float("nan")]},
    "json with a surrogate": {"json": [SECRET, "\ud800"]},
    "form": {"form": {"a": [SECRET, object()]}},
    "form of a wrong type": {"form": SECRET},
    "form with a surrogate": {"form": {"a": f"{SECRET}\ud800"}},
    "params": {"params": [("a", SECRET), ("b", object())]},
    "content": {"content": [SECRET]},
    "content with a surrogate": {"content": f"{SECRET}\ud800"},
    "two bodies": {"content": SECRET, "json": SECRET},
    "accept": {"accept": [1, SECRET]},
    "accept that is empty": {"accept": []},
    "timeout": {"timeout": SECRET},
    "timeout that is negative": {"timeout": -1},
    "follow_redirects": {"follow_redirects": SECRET},
    "an unknown option": {"option": SECRET},
}  # fmt: skip


def calls(given: dict[str, Any]) -> Iterator[Callable[[], object]]:
    arguments = {"url": URL, **HOLDING, **given}
    method = arguments.pop("method", None)
    url = arguments.pop("url")
    if method is None:
        for maker in (Request.post, Request.get, Request.put, Request.patch, Request.delete, Request.head):
            yield lambda: maker(url, **arguments)  # noqa: B023 - called at once
    arguments.pop("params")
    if not {"json", "form", "content", "params"} & given.keys():
        yield lambda: Request(method or "POST", url, body=SECRET.encode(), **arguments)


@pytest.mark.parametrize("given", REFUSED.values(), ids=REFUSED.keys())
def test_a_refused_argument_of_a_request_is_nowhere(given: dict[str, Any]) -> None:
    tried = 0
    for call in calls(given):
        with pytest.raises((InvalidRequest, TypeError)) as caught:
            call()
        assert not shows_it(caught.value)
        tried += 1
    assert tried


def test_a_request_of_another_library_is_nowhere_either() -> None:
    for request in [
        httpx2.Request("POST", URL, headers={"Authorization": SECRET}, content=iter([SECRET.encode()])),
        httpx2.Request("GET", URL, headers={"Host": SECRET}),
        httpx2.Request("GET", URL, extensions={"trace": SECRET}),
        httpx2.Request(SECRET, URL),
        httpx2.Request("GET", f"ftp://h/{SECRET}"),
    ]:
        with pytest.raises(InvalidRequest) as caught:
            Request.from_httpx(request)
        assert not shows_it(caught.value)


@pytest.mark.parametrize(
    "given",
    [{"pool_size": 0}, {"sensitive": 5}, {"redirect_bodies_to": [f"https://u:{SECRET}/@h"]}, {"notifications": 1}],
)
def test_a_refused_configuration_shows_no_connection_string(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Config(listen_dsn=f"postgresql://u:{SECRET}@h/db", **given)
    assert not shows_it(caught.value)


def test_an_error_of_somebody_else_keeps_its_frames() -> None:
    @without_locals
    def outer(secret: str) -> None:
        inner(secret)

    def inner(secret: str) -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise LookupError("second") from error

    with pytest.raises(LookupError, match="second") as caught:
        outer(SECRET)
    names = [entry.name for entry in caught.traceback]
    assert names[-2:] == ["outer", "inner"]
    for link in (caught.value, caught.value.__cause__):
        assert link is not None
        frame = link.__traceback__ and link.__traceback__.tb_next
        while frame is not None:
            assert SECRET not in frame.tb_frame.f_locals.values()
            frame = frame.tb_next


def test_what_the_caller_was_handling_keeps_its_locals() -> None:
    def fails() -> None:
        clue = "a clue"
        raise KeyError(clue.upper())

    def refuses_meanwhile() -> None:
        try:
            fails()
        except KeyError:
            with pytest.raises(InvalidRequest):
                Request.get("no URL")
            raise

    with pytest.raises(KeyError) as handled:
        refuses_meanwhile()
    assert handled.traceback[-1].locals == {"clue": "a clue"}
