-- The queue: jobs with their requests, attempts, processes, and settings of channels.
-- `requeuest migrate` runs this with search_path set to the schema it was given.

-- The states and what moves a job between them are described once, in src/requeuest_trio/_model/states.py.
CREATE TYPE job_state AS ENUM ('held', 'blocked', 'available', 'running', 'succeeded', 'dead', 'cancelled');

CREATE SEQUENCE job_position;

CREATE TABLE job (
    id              uuid             PRIMARY KEY DEFAULT gen_random_uuid(),
    channel         text             NOT NULL CHECK (char_length(channel) BETWEEN 1 AND 200),
    state           job_state        NOT NULL DEFAULT 'available',
    priority        smallint         NOT NULL DEFAULT 0 CHECK (priority BETWEEN -100 AND 100),
    due_at          timestamptz      NOT NULL DEFAULT now(),
    created_at      timestamptz      NOT NULL DEFAULT now(),
    -- The empty key orders the whole channel.
    ordering_key    text             CHECK (char_length(ordering_key) <= 200),
    -- The place within the ordering key; taken under the key's lock, so that it follows the commits.
    position        bigint,

    method          text             NOT NULL,
    url             text             NOT NULL,
    headers         json             NOT NULL DEFAULT '[]',
    body            bytea            NOT NULL DEFAULT '',
    accept          int4multirange   NOT NULL DEFAULT '{[200,300)}',
    timeout         double precision,
    follow_redirects boolean         NOT NULL DEFAULT false,
    -- Null is the default policy; otherwise an object with what differs from it.
    retry           jsonb,

    attempts        integer          NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    worker          uuid,
    claim           uuid,
    claimed_at      timestamptz,
    -- Whether a caller waits for the outcome, so that finishing it is worth a notification.
    awaited         boolean          NOT NULL DEFAULT false,

    status          integer,
    error           text,
    response_headers json,
    response_body   bytea,
    response_truncated boolean,
    finished_at     timestamptz,

    CONSTRAINT running_is_claimed
        CHECK (num_nonnulls(worker, claim, claimed_at) = CASE WHEN state = 'running' THEN 3 ELSE 0 END),
    CONSTRAINT running_is_counted
        CHECK (state <> 'running' OR attempts > 0),
    CONSTRAINT finished_has_a_time
        CHECK ((state IN ('succeeded', 'dead', 'cancelled')) = (finished_at IS NOT NULL)),
    CONSTRAINT succeeded_has_a_response
        CHECK (num_nonnulls(response_headers, response_body, response_truncated)
               = CASE WHEN state = 'succeeded' THEN 3 ELSE 0 END AND (state <> 'succeeded' OR status IS NOT NULL)),
    CONSTRAINT ordered_has_a_position
        CHECK ((ordering_key IS NULL) = (position IS NULL)),
    CONSTRAINT blocked_is_ordered
        CHECK (state <> 'blocked' OR ordering_key IS NOT NULL)
) WITH (
    -- Hot and small: vacuum by a count of dead rows, and soon.
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.02,
    autovacuum_analyze_threshold = 500,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_threshold = 1000,
    toast.autovacuum_vacuum_cost_delay = 0
);

-- What can be claimed, in the order of claiming. The priority is negated so that one direction serves all columns.
CREATE INDEX job_available ON job (channel, (-priority), due_at, id) WHERE state = 'available';
-- What a process holds: for giving back and for rescue.
CREATE INDEX job_running ON job (worker) WHERE state = 'running';
-- At most one head per ordering key: the last line behind the key's lock.
CREATE UNIQUE INDEX job_head ON job (channel, ordering_key)
    WHERE ordering_key IS NOT NULL AND state IN ('held', 'available', 'running');
-- Who is next of an ordering key.
CREATE INDEX job_blocked ON job (channel, ordering_key, position) WHERE state = 'blocked';
-- What can be pruned.
CREATE INDEX job_finished ON job (state, finished_at) WHERE finished_at IS NOT NULL;

-- One row for each attempt that ended, never changed. No foreign key: rows go together with their job.
CREATE TABLE attempt (
    job_id      uuid             NOT NULL,
    number      integer          NOT NULL CHECK (number >= 1),
    started_at  timestamptz      NOT NULL,
    duration    double precision NOT NULL,
    reached     text             NOT NULL
        CHECK (reached IN ('resolve', 'connect', 'tls', 'sent', 'response', 'unknown')),
    status      integer,
    error       text,
    excerpt     bytea            NOT NULL DEFAULT '',
    retry_at    timestamptz,
    PRIMARY KEY (job_id, number)
) WITH (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 0
);

-- One row for each process that delivers. `seen_at` is in no index, so that a beat is a cheap in-page update.
CREATE TABLE worker (
    id          uuid        PRIMARY KEY,
    started_at  timestamptz NOT NULL DEFAULT now(),
    seen_at     timestamptz NOT NULL DEFAULT now(),
    lease       interval    NOT NULL,
    host        text        NOT NULL,
    pid         integer     NOT NULL
) WITH (fillfactor = 50);

-- Settings of channels that have some.
CREATE TABLE channel (
    name    text    PRIMARY KEY CHECK (char_length(name) BETWEEN 1 AND 200),
    ordered boolean NOT NULL DEFAULT false
);

-- The advisory lock of an ordering key. Whoever adds to a key, or finishes a job of it, takes this lock first.
CREATE FUNCTION key_lock(channel text, ordering_key text) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
    RETURN hashtextextended(channel || E'\x1f' || ordering_key, 7237);

-- A time as programs can read it: their calendars end with the year 9999, and know no infinity.
CREATE FUNCTION readable(at timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
    RETURN least(greatest(at, '0001-01-02 00:00:00+00'), '9999-12-30 00:00:00+00');

-- Tell listening processes; nobody, if the topic or the payload is null. What is too long for a notification (8,000
-- bytes) goes without payload, and means "look at everything".
CREATE FUNCTION announce(topic text, payload text) RETURNS void
    LANGUAGE sql VOLATILE STRICT
BEGIN ATOMIC
    SELECT pg_notify(topic, CASE WHEN octet_length(payload) < 7900 THEN payload ELSE '' END);
END;
