"""No secret of a job is in anything that a log, a terminal or a service for errors could show."""

from uuid import uuid4

import pytest
from psycopg import errors
from rich.pretty import pretty_repr

from requeuest_trio import Request, RequeuestError
from requeuest_trio._http.redirects import Hop
from requeuest_trio._http.wire.message import Message, Target
from requeuest_trio._model.job import Reached
from requeuest_trio._model.origin import Origin
from requeuest_trio._model.outcome import Answer, Delivery, Outcome
from requeuest_trio._model.states import JobState
from requeuest_trio._postgres import TrioConnection
from requeuest_trio._store.claimed import Claimed, StoredRequest
from requeuest_trio._store.database import for_callers
from requeuest_trio._store.new_jobs import NewJob
from requeuest_trio._store.outcomes import Report
from tests.engine.probe import QueueProbe
from tests.unit.test_dsn import everything

HEADERS = (("Authorization", "Bearer s3cret"), ("X-Own", "s3cret"))


def holders() -> list[object]:
    url = "https://h/?token=s3cret&tenant=s3cret;s3cret"
    stored = StoredRequest("POST", url, '[["Authorization", "s3cret"]]', b"s3cret", "{}", None, False)
    claimed = Claimed(uuid4(), uuid4(), "c", None, 1, stored, None)
    answer = Answer(200, HEADERS, b"s3cret")
    origin = Origin("https", "h", 443)
    return [
        stored, claimed, Report(claimed, Outcome(JobState.SUCCEEDED, Reached.RESPONSE, answer=answer), 0.0, 0.1),
        NewJob(id=uuid4(), channel="c", request=Request.post(url, headers=HEADERS, content=b"s3cret")),
        answer, Delivery(Reached.RESPONSE, answer), Hop("POST", url, HEADERS, b"s3cret"),
        Request.post(url, headers=HEADERS, content=b"s3cret"),
        Target(origin, b"h", b"/?token=s3cret"), Message(origin, "POST", b"X-Own: s3cret", b"s3cret"),
    ]  # fmt: skip


@pytest.mark.parametrize("holder", holders(), ids=lambda holder: type(holder).__name__)
def test_what_holds_a_request_hides_it(holder: object) -> None:
    """Also from what takes tuples apart, as rich and Sentry do."""
    assert "s3cret" not in repr(holder)
    assert "s3cret" not in pretty_repr(holder)


async def test_a_refused_row_is_in_no_error(probe: QueueProbe) -> None:
    """PostgreSQL shows it whole in the details of the error."""
    insert = "INSERT INTO requeuest.job (channel, method, url, attempts) VALUES ('c', 'GET', %(url)s, -1)"
    async with await TrioConnection.connect(probe.dsn) as connection:
        with pytest.raises(RequeuestError, match=r"PostgreSQL refuses: .*check constraint") as caught, for_callers():
            await connection.execute(insert, {"url": "https://h/?token=s3cret"})
    assert isinstance(caught.value.__cause__, errors.CheckViolation)
    assert caught.value.__cause__.sqlstate == "23514"
    assert caught.value.__cause__.diag.constraint_name
    assert "s3cret" not in everything(caught.value)
