"""The kinds of events that `Client.events` gives, to be told apart by their classes.

Several have the names of other things, such as the error `JobDead`: take them from here, as in the example. An event is
a frozen value. Kinds and fields may be added, and none is taken away. The log has the same ones, under names such as
`job_dead`; only `Dropped` is for subscribers alone.

Example::

    from requeuest_trio import events

    async with client.events() as stream:
        await client.spawn("mail", request)
        async for event in stream:
            match event:
                case events.Attempt(job=job_id, status=status):
                    print(job_id, status)
                    break
                case events.Dropped(count=count):
                    print(count, "events are missing here")
"""

from requeuest_trio._observe.event import Event
from requeuest_trio._observe.events import (
    AnnounceFailed,
    Attempt,
    BroughtBack,
    Claimed,
    ClaimFailed,
    ClaimLost,
    ClockSet,
    Closed,
    CloseIncomplete,
    CollationChanged,
    Draining,
    Dropped,
    HeartbeatFailed,
    JobDead,
    LeaseLost,
    LimitsExceeded,
    ListenerBack,
    ListenerLost,
    LoopStalled,
    MaintenanceFailed,
    MigrationWaits,
    NotifyQueueFull,
    Opened,
    OriginFailing,
    OriginRecovered,
    OutcomeRefused,
    OutcomesLost,
    OutcomesStale,
    PollFailed,
    Pooled,
    Pruned,
    RecordFailed,
    Rescued,
    Shortage,
    ShortageOver,
    Unstranded,
)

__all__ = [
    "AnnounceFailed",
    "Attempt",
    "BroughtBack",
    "ClaimFailed",
    "ClaimLost",
    "Claimed",
    "ClockSet",
    "CloseIncomplete",
    "Closed",
    "CollationChanged",
    "Draining",
    "Dropped",
    "Event",
    "HeartbeatFailed",
    "JobDead",
    "LeaseLost",
    "LimitsExceeded",
    "ListenerBack",
    "ListenerLost",
    "LoopStalled",
    "MaintenanceFailed",
    "MigrationWaits",
    "NotifyQueueFull",
    "Opened",
    "OriginFailing",
    "OriginRecovered",
    "OutcomeRefused",
    "OutcomesLost",
    "OutcomesStale",
    "PollFailed",
    "Pooled",
    "Pruned",
    "RecordFailed",
    "Rescued",
    "Shortage",
    "ShortageOver",
    "Unstranded",
]
