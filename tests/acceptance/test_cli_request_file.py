"""Reading requests from JSON lines: what is taken, and what is said about the rest."""

import json

import pytest

from requeuest_trio.cli.request_file import BadLines, Entry, read_requests

URL = "https://api.example.com/"


def read(*lines: object) -> list[Entry]:
    return read_requests(json.dumps(line).encode() + b"\n" for line in lines)


def problem(line: bytes) -> str:
    with pytest.raises(BadLines) as caught:
        read_requests([line])
    [(number, text)] = caught.value.problems
    assert number == 1
    return text


def test_the_least_there_can_be() -> None:
    [entry] = read({"method": "get", "url": URL})
    assert entry == Entry(line=1, channel="default", ordering_key=None, request=entry.request)
    assert (entry.request.method, entry.request.url, entry.request.headers, entry.request.body) == ("GET", URL, (), b"")


def test_everything_there_can_be() -> None:
    [entry] = read({
        "method": "POST", "url": URL, "headers": [["X-Tag", "a"], ["x-tag", "b"]], "json": {"ä": [1, None]},
        "channel": "mail", "ordering_key": "k", "accept": [409, "2xx", "300-302"], "timeout": 1.5,
        "follow_redirects": True,
    })  # fmt: skip
    request = entry.request
    assert (entry.channel, entry.ordering_key) == ("mail", "k")
    assert request.headers == (("X-Tag", "a"), ("x-tag", "b"), ("Content-Type", "application/json"))
    assert request.body == '{"ä":[1,null]}'.encode()
    assert request.accept == (range(200, 303), range(409, 410))
    assert (request.timeout, request.follow_redirects) == (1.5, True)


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({"body": "zwölf\r\n"}, "zwölf\r\n".encode()),
        ({"body_base64": "AP8K"}, b"\x00\xff\n"),
        ({"json": [None]}, b"[null]"),
    ],
)
def test_bodies(fields: dict[str, object], body: bytes) -> None:
    [entry] = read({"method": "PUT", "url": URL} | fields)
    assert entry.request.body == body


def test_lines_are_numbered_as_in_an_editor() -> None:
    lines = [b"\xef\xbb\xbf" + json.dumps({"method": "GET", "url": URL}).encode() + b"\r\n", b"\n", b"  \n", b"{}"]
    assert [entry.line for entry in read_requests(lines[:3])] == [1]
    with pytest.raises(BadLines) as caught:
        read_requests([*lines, b"x"])
    assert [number for number, _ in caught.value.problems] == [4, 5]


def test_the_channel_of_lines_that_name_none() -> None:
    lines = [b'{"method":"GET","url":"http://a/"}', b'{"method":"GET","url":"http://a/","channel":"own"}']
    assert [entry.channel for entry in read_requests(lines, channel="given")] == ["given", "own"]


def test_no_requests() -> None:
    assert read_requests([]) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "is no JSON: Expecting property name enclosed in double quotes at column"),
        (b'{"method": "GET",\r\n', "in double quotes at column 18"),
        (b"[1]", "must be a JSON object"),
        (b"\xff", "is no UTF-8 text: invalid start byte at byte 1"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"method": "GET"}', "url: is missing"),
        (b'{"url": "http://a/"}', "method: is missing"),
        (b'{"method": "GET", "url": "http://a/", "bdy": 1}', "unknown field 'bdy'"),
        (b'{"method": "GET", "url": "http://a/", "url": "http://b/"}', "'url' is there twice"),
        (b'{"method": "GET", "url": "http://a/", "json": {"a": [{"b": 1, "b": 2}]}}', "'b' is there twice"),
        (b'{"method": "TRACE", "url": "http://a/"}', "method: must be one of"),
        (b'{"method": 7, "url": "http://a/"}', "method: must be one of"),
        (b'{"method": "GET", "url": "/relative"}', "url: must be absolute"),
        (b'{"method": "GET", "url": "http://user:geheim@a:x/"}', "url: "),
        (b'{"method": "GET", "url": "http://a/", "headers": ["ab"]}', "headers: must be an object, or a list of pairs"),
        (b'{"method": "GET", "url": "http://a/", "headers": null}', "headers: must be an object, or a list of pairs"),
        (b'{"method": "GET", "url": "http://a/", "headers": {"Host": "b"}}', "headers: Host is set by the library"),
        (b'{"method": "GET", "url": "http://a/", "headers": {"X-A": "\\r\\n"}}', "headers: the value of X-A"),
        (b'{"method": "GET", "url": "http://a/", "headers": {"X-A": 1}}', "headers: the value of 'X-A' must be a str"),
        (b'{"method": "PUT", "url": "http://a/", "body": "a", "json": 1}', "body: is given together with json"),
        (b'{"method": "PUT", "url": "http://a/", "body": {"a": 1}}', "body: must be a text"),
        (b'{"method": "PUT", "url": "http://a/", "body": "\\ud800"}', "body: must not have lone surrogates"),
        (b'{"method": "PUT", "url": "http://a/", "json": "\\ud800"}', "json: "),
        (b'{"method": "PUT", "url": "http://a/", "json": null}', "json: must not be null: leave it out for no body"),
        (b'{"method": "PUT", "url": "http://a/", "body": null}', "body: must not be null: leave it out for no body"),
        (b'{"method": "PUT", "url": "http://a/", "json": NaN}', "is no JSON: NaN"),
        (b'{"method": "PUT", "url": "http://a/", "json": 1e999}', "json: "),
        (b'{"method": "PUT", "url": "http://a/", "body_base64": "?"}', "body_base64: is no base64"),
        (b'{"method": "GET", "url": "http://a/", "channel": ""}', "channel: must have 1 to 200 characters"),
        (b'{"method": "GET", "url": "http://a/", "channel": 7}', "channel: must be a str"),
        (b'{"method": "GET", "url": "http://a/", "ordering_key": ""}', "ordering_key: must have 1 to 200 characters"),
        (b'{"method": "GET", "url": "http://a/", "accept": "fine"}', "accept: must have statuses such as"),
        (b'{"method": "GET", "url": "http://a/", "accept": []}', "accept: must have at least one status"),
        (b'{"method": "GET", "url": "http://a/", "accept": true}', "accept: must have statuses such as"),
        (b'{"method": "GET", "url": "http://a/", "accept": 1000}', "accept: "),
        (b'{"method": "GET", "url": "http://a/", "timeout": 0}', "timeout: must be more than 0"),
        (b'{"method": "GET", "url": "http://a/", "timeout": "1"}', "timeout: must be seconds"),
        (b'{"method": "GET", "url": "http://a/", "follow_redirects": 1}', "follow_redirects: must be a bool"),
    ],
)
def test_bad_lines(line: bytes, said: str) -> None:
    text = problem(line)
    assert said in text
    assert "geheim" not in text


def test_a_body_over_the_limit() -> None:
    line = json.dumps({"method": "PUT", "url": URL, "body": "x" * 11}).encode()
    assert len(read_requests([line], max_body=11)) == 1
    with pytest.raises(BadLines, match="body: must have at most 10 bytes, not 11"):
        read_requests([line], max_body=10)
