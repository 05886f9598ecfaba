-- New jobs, the locks of their ordering keys, and what is announced of them. All of it may run in a transaction of the
-- application's.


-- name: spawn_one
-- Store one job that has neither an ordering key nor a time of its own, unless its id exists, or its channel is ordered.
-- Announces what it is told to. `spawn` can do the same; but most spawns are alone, and this takes a sixth less time,
-- also because it returns nothing but how many it has stored.
INSERT INTO {schema}.job ({given_columns}, placed, due_at)
SELECT {given_values}, true,
       pg_catalog.now() OPERATOR(pg_catalog.+) (%(delay)s::double precision OPERATOR(pg_catalog.*) interval '1 second')
FROM (SELECT {schema}.announce(%(topic)s::pg_catalog.text, %(announced)s::pg_catalog.text)) AS announced
WHERE {is_unordered}
ON CONFLICT (id) DO NOTHING;


-- name: spawn_claimed
-- Store one such job as claimed, by a process that can send it at once: nobody else need know of it. Nothing is stored
-- for a process that is not registered (any more).
INSERT INTO {schema}.job ({given_columns}, placed, due_at, state, attempts, worker, claim, claimed_at)
SELECT {given_values}, true, pg_catalog.now(), 'running', 1, %(worker)s::pg_catalog.uuid, %(claim)s::pg_catalog.uuid,
       pg_catalog.now()
WHERE {is_registered} AND {is_unordered}
ON CONFLICT (id) DO NOTHING;


-- name: spawn
-- Store jobs without an ordering key, each once. Jobs of ordered channels are left out and these channels returned, so
-- that the caller can store them with their key; and with them the time from which delays count. Announces what it is
-- told to. The arrays are taken apart side by side in the select list, because a function in FROM would write all rows
-- down before the first is used. If some exist already, it writes something all the same: a commit that has written
-- nothing would not wait for a synchronous replica, which the first try may have been broken off in waiting for.
WITH ordered AS MATERIALIZED (
    {ordered}
), stored AS (
    INSERT INTO {schema}.job ({given_columns}, placed, due_at)
    SELECT {given_columns}, true,
           coalesce(at, pg_catalog.now() OPERATOR(pg_catalog.+) (delay OPERATOR(pg_catalog.*) interval '1 second'))
    FROM (SELECT {free_arrays}) AS input
    WHERE channel OPERATOR(pg_catalog.<>) ALL (ARRAY(SELECT name FROM ordered))
    ON CONFLICT (id) DO NOTHING
    RETURNING 1
)
SELECT (SELECT pg_catalog.json_agg(name) FROM ordered) AS ordered, extract(epoch FROM pg_catalog.now()) AS now,
       {schema}.announce(%(topic)s::pg_catalog.text, %(announced)s::pg_catalog.text)::pg_catalog.text AS announced,
       CASE WHEN (SELECT pg_catalog.count(*) FROM stored)
                 OPERATOR(pg_catalog.<) pg_catalog.cardinality(%(id)s::pg_catalog.uuid[])
            THEN CASE WHEN (SELECT pg_catalog.count(*) FROM stored) OPERATOR(pg_catalog.<) (
                               SELECT pg_catalog.count(*)
                               FROM pg_catalog.unnest(%(channel)s::pg_catalog.text[]) AS channel
                               WHERE channel OPERATOR(pg_catalog.<>) ALL (ARRAY(SELECT name FROM ordered)))
                      THEN pg_catalog.pg_logical_emit_message(true, 'requeuest'::pg_catalog.text, ''::pg_catalog.text)
                 END END AS written;


-- name: not_stored
-- Those of these jobs that are not there.
SELECT wanted.id FROM pg_catalog.unnest(%(ids)s::pg_catalog.uuid[]) AS wanted (id)
WHERE NOT EXISTS (SELECT FROM {schema}.job WHERE job.id OPERATOR(pg_catalog.=) wanted.id);


-- name: announce
-- Tell listening processes of channels with something due.
SELECT {schema}.announce(%(topic)s::pg_catalog.text, %(announced)s::pg_catalog.text)::pg_catalog.text AS announced;


-- name: ordered_channels
-- Which of these channels are ordered as a whole, whatever keys their jobs were given.
{ordered};


-- name: lock_keys
-- Take the locks of ordering keys until the end of the transaction, in one order for everybody. Tells the isolation
-- level, because what follows must see what was committed before the locks were had.
SELECT pg_catalog.current_setting('transaction_isolation'::pg_catalog.text) AS isolation,
       pg_catalog.count(pg_catalog.pg_advisory_xact_lock(lock)) AS locks
FROM (SELECT DISTINCT {schema}.key_lock(channel, ordering_key) AS lock
      FROM ROWS FROM (pg_catalog.unnest(%(channels)s::pg_catalog.text[]),
                      pg_catalog.unnest(%(keys)s::pg_catalog.text[])) AS keys (channel, ordering_key)
      ORDER BY lock) AS ordered;


-- name: wait_for_keys_briefly
-- How long the next statements of this transaction wait for the locks of ordering keys, which an application's own
-- transaction may hold for as long as it likes.
SELECT set_config('lock_timeout', round(1000 * least(0.5, nullif(extract(epoch FROM lock_timeout), 0)))::text,
                  true)
FROM CAST(current_setting('lock_timeout') AS interval) AS lock_timeout;


-- name: try_keys
-- Take those locks of ordering keys that nobody else has now, and return their keys.
SELECT channel, ordering_key
FROM ROWS FROM (pg_catalog.unnest(%(channels)s::pg_catalog.text[]),
                pg_catalog.unnest(%(keys)s::pg_catalog.text[])) AS keys (channel, ordering_key)
WHERE pg_catalog.pg_try_advisory_xact_lock({schema}.key_lock(channel, ordering_key));


-- name: key_holders
-- Who has the locks of ordering keys, in words.
SELECT DISTINCT pg_catalog.format('process %%s of %%s', pg_locks.pid, coalesce(usename, 'an unknown role'))
FROM pg_catalog.pg_locks LEFT JOIN pg_catalog.pg_stat_activity ON pg_stat_activity.pid = pg_locks.pid
WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
  AND (classid::bigint << 32) | objid::bigint IN (
      SELECT {schema}.key_lock(channel, ordering_key)
      FROM unnest(%(channels)s::text[], %(keys)s::text[]) AS keys (channel, ordering_key))
ORDER BY 1 LIMIT 3;


-- name: spawn_ordered
-- Store jobs with an ordering key, each once, under their keys' locks: the first of a key that has no unfinished job
-- is available, all others are blocked. Returns the channels of those that are available, also if they were stored
-- before, and in how many seconds they are due. If some exist already, it writes something all the same; see `spawn`.
WITH placed AS MATERIALIZED (
    SELECT *, pg_catalog.row_number() OVER (PARTITION BY channel, ordering_key ORDER BY place) OPERATOR(pg_catalog.>) 1
        OR EXISTS (SELECT FROM {schema}.job AS head
                   WHERE head.channel OPERATOR(pg_catalog.=) input.channel
                     AND head.ordering_key OPERATOR(pg_catalog.=) input.ordering_key AND head.ordering_key IS NOT NULL
                     AND head.state OPERATOR(pg_catalog.=) ANY ('{held,available,running}'::{schema}.job_state[]))
        OR EXISTS (SELECT FROM {schema}.job AS behind
                   WHERE behind.channel OPERATOR(pg_catalog.=) input.channel
                     AND behind.ordering_key OPERATOR(pg_catalog.=) input.ordering_key
                     AND behind.state OPERATOR(pg_catalog.=) 'blocked'::{schema}.job_state) AS is_blocked
    FROM ROWS FROM ({keyed_arrays}) WITH ORDINALITY AS input ({keyed_columns}, place)
    -- By their ids whatever the plan: one that was made while there were few jobs, and is kept, would read all of them.
    WHERE input.id OPERATOR(pg_catalog.<>) ALL (
        ARRAY(SELECT same.id FROM {schema}.job AS same
              WHERE same.id OPERATOR(pg_catalog.=) ANY (%(id)s::pg_catalog.uuid[])))
    ORDER BY place
), stored AS (
    INSERT INTO {schema}.job ({given_columns}, placed, due_at, state, ordering_key, position)
    SELECT {given_columns}, true,
           coalesce(at, pg_catalog.now() OPERATOR(pg_catalog.+) (delay OPERATOR(pg_catalog.*) interval '1 second')),
           CASE WHEN is_blocked THEN 'blocked'::{schema}.job_state ELSE 'available'::{schema}.job_state END,
           ordering_key, pg_catalog.nextval('{schema}.job_position'::pg_catalog.regclass)
    FROM placed ORDER BY place
    ON CONFLICT (id) DO NOTHING
    RETURNING channel, due_at, state
), available AS (
    SELECT channel, due_at FROM stored WHERE state OPERATOR(pg_catalog.=) 'available'::{schema}.job_state
    UNION ALL
    -- Stored by an earlier call whose answer was lost, so that nobody was told of it.
    SELECT channel, {schema}.readable(due_at) FROM {schema}.job
    WHERE id OPERATOR(pg_catalog.=) ANY (%(id)s::pg_catalog.uuid[])
      AND state::pg_catalog.text OPERATOR(pg_catalog.=) 'available'::pg_catalog.text
), waits AS (
    SELECT channel,
           extract(epoch FROM greatest(due_at, pg_catalog.now()) OPERATOR(pg_catalog.-) pg_catalog.now()) AS wait
    FROM available
)
SELECT pg_catalog.json_agg(DISTINCT pg_catalog.jsonb_build_array(channel, wait)) AS waits,
       CASE WHEN (SELECT pg_catalog.count(*) FROM stored)
                 OPERATOR(pg_catalog.<) pg_catalog.cardinality(%(id)s::pg_catalog.uuid[])
            THEN pg_catalog.pg_logical_emit_message(true, 'requeuest'::pg_catalog.text, ''::pg_catalog.text) END
           AS written
FROM waits;
