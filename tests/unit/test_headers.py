"""Header fields on their way out: found, masked."""

import pytest

from requeuest_trio._model.headers import find, is_secret, masked, masked_url


def test_find_ignores_case_and_takes_the_first() -> None:
    headers = (("X-A", "1"), ("x-a", "2"))
    assert find(headers, "x-A") == "1"
    assert find(headers, "X-B") is None


@pytest.mark.parametrize(
    "name", ["Accept", "Content-Type", "Idempotency-Key", "idempotency-key", "User-Agent", "X-Author", "Keyword"]
)
def test_ordinary_field_is_no_secret(name: str) -> None:
    assert not is_secret(name, "value")


@pytest.mark.parametrize("value", ["Bearer abc", "basic dTpw", "Token\tx", "Digest username=x"])
def test_credentials_are_known_by_their_value_too(value: str) -> None:
    assert is_secret("X-Whatever", value)


def test_masked_keeps_order_and_repeats() -> None:
    assert masked((("A", "1"), ("Cookie", "x"), ("A", "2"), ("cookie", "y"))) == (
        ("A", "1"),
        ("Cookie", "***"),
        ("A", "2"),
        ("cookie", "***"),
    )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/p?page=2", "https://h/p?page=2"),
        ("https://user:pass@h/p", "https://***@h/p"),
        ("https://user:p@ss@h/p", "https://***@h/p"),
        ("https://token@h", "https://***@h"),
        ("https://h/@ada/p@q?mail=a@b", "https://h/@ada/p@q?mail=a@b"),
        ("https://h/?api_key=x&page=2&sig=y", "https://h/?api_key=***&page=2&sig=***"),
        ("https://h/?X-Amz-Credential=x&X-Amz-Signature=y", "https://h/?X-Amz-Credential=***&X-Amz-Signature=***"),
        ("https://h/?ACCESS_TOKEN=", "https://h/?ACCESS_TOKEN=***"),
        ("https://h/?jwt=a=b&x", "https://h/?jwt=***&x"),
        ("no URL at all", "no URL at all"),
        ("got https://u:p@h/?pwd=x and http://v:q@i", "got https://***@h/?pwd=*** and http://***@i"),
    ],
)
def test_masked_url(url: str, shown: str) -> None:
    assert masked_url(url) == shown
