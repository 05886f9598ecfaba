"""How fast a queue is drained when a million jobs stand in it."""

import json
from dataclasses import dataclass

from benchmarks.database import Database
from benchmarks.drains import Drain
from benchmarks.setting import Figures, Setting
from benchmarks.workload import HEADERS, SMALL_BODY, body, channel_name

CONTESTANT = "requeuest"
CONCURRENCY = 32
# As requeuest-trio's documentation has it for jobs that come from SQL. The ids are of the kind that the library makes
# itself, where PostgreSQL can make them; others would land all over the index.
INSERT = """
INSERT INTO requeuest.job (id, channel, priority, method, url, headers, body)
SELECT {new_id}(), '{channel}', {priority}, 'POST', '{url}/' || number,
       '{headers}', '{body}'
FROM generate_series(1, {jobs}) AS number
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """A drain with others waiting."""

    jobs: int
    backlog: int
    stands_behind: bool
    """Whether the backlog has a lower priority than the jobs, or the jobs are just the first of it."""

    def __call__(self, setting: Setting) -> Figures:
        """Measure it once."""
        drain = Drain(contestant=CONTESTANT, jobs=self.jobs, concurrency=CONCURRENCY)
        with setting.queue(CONTESTANT) as database:
            if self.stands_behind:
                self._insert(database, setting.receiver.url, priority=-1)
                setting.fill(CONTESTANT, database, drain.workload(setting.receiver.url))
            else:
                self._insert(database, setting.receiver.url, priority=0)
            return drain.run(setting.receiver, database)

    def _insert(self, database: Database, url: str, priority: int) -> None:
        knows_time_ordered_ids = database.value("SELECT count(*) FROM pg_proc WHERE proname = 'uuidv7'")
        database.execute(
            INSERT.format(
                new_id="uuidv7" if knows_time_ordered_ids else "gen_random_uuid",
                channel=channel_name(0),
                priority=priority,
                url=url,
                headers=json.dumps(list(HEADERS.items())),
                body=body(SMALL_BODY).decode(),
                jobs=self.backlog,
            )
        )
