-- Which processes live, what becomes of the jobs of those that do not, and what is removed.


-- name: register
-- Announce this process as alive, so that it may claim. Tells the database's clock, in seconds since 1970.
INSERT INTO {schema}.worker (id, lease, host, pid)
VALUES (%(worker)s, %(lease)s * interval '1 second', %(host)s, %(pid)s)
ON CONFLICT (id) DO UPDATE SET seen_at = now()
RETURNING extract(epoch FROM clock_timestamp())::double precision;


-- name: heartbeat
-- Renew the lease of everything that this process holds, and tell the database's clock. No row: the lease was lost.
UPDATE {schema}.worker SET seen_at = now() WHERE id = %(worker)s
RETURNING extract(epoch FROM clock_timestamp())::double precision;


-- name: deregister
-- Say that this process holds nothing any more.
DELETE FROM {schema}.worker WHERE id = %(worker)s;


-- name: signs_of_life
-- When each process was seen last, as text because any value may stand there, and the seconds of its lease. Which of them
-- are lost is seen only from how long these stay the same: the clock that they were written by may be set at any time.
SELECT id, seen_at::text, least(greatest(extract(epoch FROM lease), 0), 3600)::double precision
FROM {schema}.worker ORDER BY id LIMIT 10000;


-- name: rescue
-- Give jobs of lost processes to others, up to 1,000 at a time: of those that are not registered, and of those that are
-- named, as long as they have not been seen since. The attempt counts, because it may have been sent.
-- Nothing is done for a rescuer that was not seen of late itself: then the database stood still, and all look lost.
-- What another transaction has locked is passed over before it is counted. A job is taken only if the claim that was
-- locked is the one that was found lost: it may meanwhile have been given to a process that lives.
WITH locked AS MATERIALIZED (
    SELECT id, claim FROM {schema}.job
    WHERE state = 'running'
      AND NOT EXISTS (SELECT FROM {schema}.worker
                      WHERE worker.id = job.worker
                        AND NOT EXISTS (SELECT FROM unnest(%(lost)s::uuid[], %(seen)s::timestamptz[]) AS lost (id, seen_at)
                                        WHERE lost.id = worker.id AND lost.seen_at = worker.seen_at))
      AND (%(rescuer)s::uuid IS NULL
           OR EXISTS (SELECT FROM {schema}.worker WHERE worker.id = %(rescuer)s AND seen_at + lease / 2 >= now()))
    LIMIT 1000 FOR UPDATE OF job SKIP LOCKED
), lost AS MATERIALIZED (
    -- Not locked here, so that this is the row as it was before.
    SELECT job.id FROM {schema}.job JOIN locked ON job.id = locked.id AND job.claim = locked.claim
), logged AS (
    INSERT INTO {schema}.attempt (job_id, number, started_at, duration, reached, error, retry_at)
    SELECT id, attempts, claimed_at, greatest(extract(epoch FROM now() - claimed_at), 0), 'unknown', %(error)s, now()
    FROM lost JOIN {schema}.job USING (id)
    ON CONFLICT (job_id, number) DO NOTHING
), rescued AS (
    UPDATE {schema}.job
    -- Where it was in the queue, and not behind all that has come since; unless the clock was put back meanwhile. But a
    -- job that is lost again and again may be what its processes die of: others are to be sent before it.
    SET state = 'available', error = %(error)s, worker = NULL, claim = NULL,
        claimed_at = NULL,
        due_at = CASE WHEN (SELECT count(*) FROM {schema}.attempt WHERE job_id = job.id AND reached = 'unknown') < 2
                      THEN least(due_at, now()) ELSE now() END
    FROM lost WHERE job.id = lost.id
    RETURNING channel
), announced AS (
    SELECT json_object_agg(channel, 0)::text AS channels FROM (SELECT DISTINCT channel FROM rescued) AS channels
)
SELECT (SELECT count(*) FROM rescued) AS rescued,
       (SELECT {schema}.announce(%(topic)s, channels)::text FROM announced) AS announced;


-- name: forget_workers
-- Remove processes that are lost and hold nothing, as long as they have not been seen since.
DELETE FROM {schema}.worker
USING unnest(%(lost)s::uuid[], %(seen)s::timestamptz[]) AS lost (id, seen_at)
WHERE worker.id = lost.id AND worker.seen_at = lost.seen_at
  AND NOT EXISTS (SELECT FROM {schema}.job WHERE job.worker = worker.id AND state = 'running');


-- name: stranded_keys
-- Ordering keys whose jobs wait behind nobody: possible only if another program removed or changed rows, or while
-- migration 0002 was applied. Looks at the
-- 1,000 keys after the one given, however many there are; the last of these comes too, as where to go on.
WITH RECURSIVE step AS (
    (SELECT channel, ordering_key, 1 AS number FROM {schema}.job
     WHERE state = 'blocked' AND (channel, ordering_key) > (%(channel)s, %(key)s)
     ORDER BY channel, ordering_key LIMIT 1)
    UNION ALL
    SELECT next.channel, next.ordering_key, step.number + 1
    FROM step CROSS JOIN LATERAL (
        SELECT channel, ordering_key FROM {schema}.job
        WHERE state = 'blocked' AND (channel, ordering_key) > (step.channel, step.ordering_key)
        ORDER BY channel, ordering_key LIMIT 1) AS next
    WHERE step.number < 1000
), seen AS (
    SELECT channel, ordering_key, number = 1000 AS is_last,
           NOT EXISTS (SELECT FROM {schema}.job AS head
                       WHERE head.channel = step.channel AND head.ordering_key = step.ordering_key
                         AND head.ordering_key IS NOT NULL
                         AND head.state IN ('held', 'available', 'running')) AS is_stranded
    FROM step
)
SELECT channel, ordering_key, is_stranded, is_last FROM seen WHERE is_stranded OR is_last;


-- name: bring_back
-- After the database's clock was put back: make due as soon as if it were written now what was written in the time that
-- is still to come, up to 1,000 jobs at a time: those that were due when they were stored, and those to be tried again.
-- A time that the application has asked for stays. Tells, and returns, the channels, and in how many seconds they are due.
WITH waiting AS (
    SELECT id, due_at, created_at FROM {schema}.job
    WHERE state = 'available' AND due_at > now() + interval '1 second' AND due_at < 'infinity'
    UNION ALL
    SELECT id, due_at, created_at FROM {schema}.job
    WHERE state = 'blocked' AND due_at > now() + interval '1 second' AND due_at < 'infinity'
), ahead AS MATERIALIZED (
    SELECT waiting.id, CASE WHEN tried.is_ahead THEN greatest(waiting.due_at - tried.ended_at, interval '0')
                            ELSE interval '0' END AS pause
    FROM waiting LEFT JOIN LATERAL (
        SELECT ended_at, ended_at > now() + interval '1 second' AS is_ahead
        FROM {schema}.attempt CROSS JOIN LATERAL (
            SELECT {schema}.readable(started_at) + least(greatest(duration, 0), 3600) * interval '1 second' AS ended_at
        ) AS ended
        WHERE job_id = waiting.id AND retry_at = waiting.due_at
        ORDER BY number DESC LIMIT 1) AS tried ON true
    WHERE tried.is_ahead
       OR (waiting.due_at = waiting.created_at AND waiting.created_at > now() + interval '1 second')
    LIMIT 1000
), locked AS MATERIALIZED (
    SELECT job.id, pause FROM {schema}.job JOIN ahead USING (id) ORDER BY ahead.id FOR UPDATE OF job SKIP LOCKED
), back AS (
    UPDATE {schema}.job SET due_at = least(due_at, now() + pause), created_at = least(created_at, now())
    FROM locked WHERE job.id = locked.id AND state IN ('available', 'blocked')
    RETURNING channel, state, due_at
), channels AS MATERIALIZED (
    SELECT channel, extract(epoch FROM greatest(min(due_at), now()) - now())::double precision AS wait
    FROM back WHERE state = 'available' GROUP BY channel
)
SELECT (SELECT count(*) FROM back) AS jobs, (SELECT json_object_agg(channel, wait)::text FROM channels) AS waits,
       (SELECT {schema}.announce(%(topic)s, json_object_agg(channel, wait)::text)::text FROM channels) AS announced;


-- name: prune
-- Remove finished jobs and their attempts once they are old enough, up to 1,000 at a time; none if the clock is later
-- than it can be, for then it was set, and all look old.
WITH old AS MATERIALIZED (
    SELECT id FROM {schema}.job
    WHERE state = %(state)s AND finished_at < now() - %(keep)s * interval '1 second'
      AND extract(epoch FROM now()) <= %(latest)s::double precision
    ORDER BY finished_at LIMIT 1000 FOR UPDATE SKIP LOCKED
), attempts AS (
    DELETE FROM {schema}.attempt USING old WHERE attempt.job_id = old.id
), removed AS (
    DELETE FROM {schema}.job USING old WHERE job.id = old.id RETURNING job.id
)
SELECT count(*) FROM removed;


-- name: clock
-- The time that decides.
SELECT clock_timestamp();


-- name: clear
-- Remove jobs that have no ordering key and are not running, up to 10,000 at a time.
WITH cleared AS MATERIALIZED (
    SELECT id FROM {schema}.job
    WHERE state <> 'running' AND (%(channels)s::text[] IS NULL OR channel = ANY (%(channels)s::text[]))
      AND ordering_key IS NULL AND created_at <= %(before)s
    LIMIT 10000 FOR UPDATE SKIP LOCKED
), attempts AS (
    DELETE FROM {schema}.attempt USING cleared WHERE attempt.job_id = cleared.id
), removed AS (
    DELETE FROM {schema}.job USING cleared WHERE job.id = cleared.id RETURNING awaited, job.id
), awaited AS (
    SELECT string_agg(id::text, ',') AS ids FROM removed WHERE awaited
)
SELECT (SELECT count(*) FROM removed) AS removed,
       (SELECT {schema}.announce(%(topic)s, ids)::text FROM awaited) AS announced;


-- name: keys_to_clear
-- Ordering keys with jobs that are not running, up to 500 at a time.
SELECT DISTINCT channel, ordering_key FROM {schema}.job
WHERE state <> 'running' AND (%(channels)s::text[] IS NULL OR channel = ANY (%(channels)s::text[]))
  AND ordering_key IS NOT NULL AND created_at <= %(before)s
LIMIT 500;


-- name: clear_keys
-- Remove the jobs of ordering keys that are not running, up to 10,000 at a time, those behind others first. Needs
-- lock_keys, so that no job is added behind one that goes.
WITH cleared AS MATERIALIZED (
    SELECT job.id FROM {schema}.job
    JOIN unnest(%(channels)s::text[], %(keys)s::text[]) AS key (channel, ordering_key) USING (channel, ordering_key)
    WHERE state <> 'running' AND created_at <= %(before)s
    ORDER BY state <> 'blocked' LIMIT 10000 FOR UPDATE OF job SKIP LOCKED
), attempts AS (
    DELETE FROM {schema}.attempt USING cleared WHERE attempt.job_id = cleared.id
), removed AS (
    DELETE FROM {schema}.job USING cleared WHERE job.id = cleared.id RETURNING awaited, job.id
), awaited AS (
    SELECT string_agg(id::text, ',') AS ids FROM removed WHERE awaited
)
SELECT (SELECT count(*) FROM removed) AS removed,
       (SELECT {schema}.announce(%(topic)s, ids)::text FROM awaited) AS announced;
