"""Header fields on their way out: found, masked."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requeuest_trio._model.headers import find, is_secret, masked
from requeuest_trio._model.masking import masked_url, masked_url_for_logs


def test_find_ignores_case_and_takes_the_first() -> None:
    headers = (("X-A", "1"), ("x-a", "2"))
    assert find(headers, "x-A") == "1"
    assert find(headers, "X-B") is None


@pytest.mark.parametrize(
    "name", ["Accept", "Content-Type", "Idempotency-Key", "idempotency-key", "User-Agent", "X-Author", "Keyword"]
)
def test_ordinary_field_is_no_secret(name: str) -> None:
    assert not is_secret(name, "value")


@pytest.mark.parametrize(
    "name",
    ["AccessKey", "X-Authentication", "X-Sig", "X-HMAC-Sha256", "X-Pin", "userPin", "X-OTP", "X-Functions-Key", "Sid"],
)
def test_credentials_are_known_by_their_name(name: str) -> None:
    assert is_secret(name, "value")


def test_users_name_more_in_any_case() -> None:
    assert is_secret("X-Tenant", "value", {"x-tenant"})
    assert not is_secret("X-Tenant", "value")
    assert is_secret("User-Agent", "value", {"user-agent"})
    assert masked_url("https://h/?Tenant=x&b=y", {"tenant"}) == "https://h/?Tenant=***&b=y"


@pytest.mark.parametrize(
    "value", ["Bearer abc", "basic dTpw", "Token\tx", "Digest username=x", "ApiKey x", "0123456789abcdef0123456789"]
)
def test_credentials_are_known_by_their_value_too(value: str) -> None:
    assert is_secret("X-Whatever", value)


@pytest.mark.parametrize(
    "name",
    ["kunden+nr", "kunden%20nr", "Kunden%2520Nr", "tenant[]", "tenant%5B0%5D", "a[tenant]", "a[b][Tenant][]",
     "tenant+[]", "tenant%25255B%25255D", "a[kunden+nr]", "a+b"],
)  # fmt: skip
def test_a_named_parameter_is_known_however_forms_write_it(name: str) -> None:
    assert masked_url(f"https://h/?{name}=v&page=2", {"tenant", "kunden nr", "a+b"}) == f"https://h/?{name}=***&page=2"


def test_a_name_that_is_encoded_too_often_may_be_anything() -> None:
    assert is_secret("%25252561", "v")
    assert not is_secret("%252561", "v")


@pytest.mark.parametrize("name", ["tenants[]", "a[tenants]", "ten[ant]", "kunden", "nr", "a[]", "[]"])
def test_other_parameters_are_shown(name: str) -> None:
    assert masked_url(f"https://h/?{name}=v", {"tenant", "kunden nr"}) == f"https://h/?{name}=v"


@pytest.mark.parametrize("name", ["a[token]", "a[sig][]", "auth[0]", "a%5Bpass%5D", "pass+word[pin]"])
def test_an_entry_with_the_name_of_a_credential_is_one(name: str) -> None:
    assert masked_url(f"https://h/?{name}=v") == f"https://h/?{name}=***"


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
        (
            "https://h/?code=a&pass=b&pin=c&otp=d&hmac=e&sig=f",
            "https://h/?code=***&pass=***&pin=***&otp=***&hmac=***&sig=***",
        ),
        ("https://h/?%74oken=x&%2574oken=y", "https://h/?%74oken=***&%2574oken=***"),
        ("https://h/a;token=x/b?c=d", "https://h/a;token=***?c=d"),
        ("https://h/#access_token=x&state=y", "https://h/#access_token=***&state=y"),
        ("https://h/?next=https%3A%2F%2Fi%2F%3Ftoken%3Dx&page=2", "https://h/?next=***&page=2"),
        ("https://h/?q=0123456789abcdef0123456789abcdef", "https://h/?q=***"),
        ("https://hooks.slack.com/services/T0/B0/XXXX", "https://hooks.slack.com/***/***/***/***"),
        (
            "https://api.telegram.org/bot12:A-B/sendMessage?chat_id=7",
            "https://api.telegram.org/***/sendMessage?chat_id=7",
        ),
        ("https://discord.com/api/webhooks/7/abc_d-E", "https://discord.com/api/webhooks/***/***"),
        ("https://maker.ifttt.com/trigger/x/with/key/abc", "https://maker.ifttt.com/trigger/x/with/key/***"),
        (
            "https://h/orders/01a20355-869e-7290-a022-cbe3994d39e2/items",
            "https://h/orders/01a20355-869e-7290-a022-cbe3994d39e2/items",
        ),
        ("it said Bearer abc, twice", "it said Bearer *** twice"),
        ("got eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.x", "got ***"),
        ("no URL at all", "no URL at all"),
        ("got https://u:p@h/?pwd=x and http://v:q@i", "got https://***@h/?pwd=*** and http://***@i"),
    ],
)
def test_masked_url(url: str, shown: str) -> None:
    assert masked_url(url) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/p?page=2&Limit=5&sort=-name", "https://h/p?page=2&Limit=5&sort=-name"),
        ("https://h/p?tenant=x&page=2", "https://h/p?tenant=***&page=2"),
        ("https://h/p?x", "https://h/p?***"),
        ("https://h/p?page=token%3Dy", "https://h/p?page=***"),
        ("https://h/p?a=b=c#d", "https://h/p?a=***#***"),
        ("https://h/p;v=1;w=2/q?r=", "https://h/p;v=1;w=***?r="),
        ("https://u:p@h/p?", "https://***@h/p?"),
        ("https://h/orders/7/items", "https://h/orders/7/items"),
        ("https://h/p?page=0123456789abcdef0123456789abcdef", "https://h/p?page=***"),
    ],
)
def test_only_harmless_parameters_are_shown_unasked(url: str, shown: str) -> None:
    assert masked_url_for_logs(url) == shown


@pytest.mark.parametrize("times", range(1, 7))
@pytest.mark.parametrize(
    "place", ["https://x.y/?q={}", "https://x.y/?{}", "https://x.y/?{}=1", "https://x.y/a/{}/b", "https://x.y/?page={}",
              "{}", "https://x.y/?q=a%3D{}", "https://x.y/?q=a={}", "https://x.y/#{}", "https://x.y/a=b;c={}"]
)  # fmt: skip
@pytest.mark.parametrize(
    "secret", ["https://u:hunter2@a.b/", "password=hunter2", "a=b&tenant=hunter2", "/a?pin=hunter2"]
)
def test_what_is_encoded_is_looked_at_or_hidden(secret: str, place: str, times: int) -> None:
    for _ in range(times):
        secret = quote(secret, safe="")
    assert "hunter2" not in masked_url(place.format(secret), {"tenant"})
    assert times > 1 or "hunter2" not in masked_url_for_logs(place.format(secret.replace("tenant", "token")))


def test_what_is_encoded_in_a_path_leaves_the_rest() -> None:
    assert masked_url("https://h/a/pin%253Dx/b?c=d") == "https://h/a/***/b?c=d"


@pytest.mark.parametrize("times", range(1, 4))
@pytest.mark.parametrize("harmless", ["50% off", "ä/ö", "a b", "https://h/p?page=2&q=x", "a@b.c"])
def test_what_is_encoded_and_harmless_is_shown(harmless: str, times: int) -> None:
    for _ in range(times):
        harmless = quote(harmless, safe="")
    for url in (f"https://h/?q={harmless}&page=2", f"https://h/{harmless}/x"):
        assert masked_url(url) == url


@given(st.text())
def test_masking_again_changes_nothing(text: str) -> None:
    once = masked_url(text)
    assert masked_url(once) == once


@given(
    st.sampled_from(["token", "apiKey", "X-Sig", "pass", "otp", "%74oken", "client_secret"]),
    st.sampled_from(["https://h/?{}", "https://h/a;{}", "https://h/#{}", "see https://h/?a=b&{}&c=d for it", "{}"]),
    st.from_regex(r"[a-z0-9%./:@-]{6,40}", fullmatch=True),
)
def test_no_value_of_a_secret_parameter_is_left(name: str, place: str, value: str) -> None:
    assert f"={value}" not in masked_url(place.format(f"{name}={value}"))
