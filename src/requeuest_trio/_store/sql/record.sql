-- The outcomes of attempts, and the next jobs of ordering keys.


-- name: record
-- Write the outcomes of attempts. One counts only if its job is still running under the same claim; what else comes
-- is left out, and so can be repeated. Returns what was left out; tells waiting processes. An answer of which a part is
-- `kept`, because nobody waited for it when the job was claimed, is not written if somebody waits by now: then the job
-- is returned apart.
WITH input AS MATERIALIZED (
    SELECT * FROM ROWS FROM (
        json_to_recordset(%(rows)s::json) AS (
            id uuid, claim uuid, state text, retry_in double precision, reached text, status integer, error text,
            headers text, truncated boolean, kept integer, ago double precision, duration double precision),
        unnest(%(bodies)b::bytea[])
    ) AS r (id, claim, state, retry_in, reached, status, error, headers, truncated, kept, ago, duration, body)
), current AS MATERIALIZED (
    -- By their ids whatever the join: a plan that was made while there were few jobs, and is kept, would otherwise read
    -- all of them. Only what is running has a claim; to name the state would have PostgreSQL look through all that is.
    SELECT job.id, job.awaited FROM {schema}.job JOIN input ON job.id = input.id AND job.claim = input.claim
    WHERE job.id = ANY (ARRAY(SELECT id FROM input)) ORDER BY job.id FOR UPDATE OF job
), wanted AS (
    SELECT id FROM current JOIN input USING (id) WHERE awaited AND kept IS NOT NULL
), recorded AS (
    UPDATE {schema}.job
    SET state = input.state::{schema}.job_state,
        due_at = CASE WHEN input.state = 'available'
                      THEN statement_timestamp() + input.retry_in * interval '1 second' ELSE due_at END,
        finished_at = CASE WHEN input.state <> 'available' THEN statement_timestamp() END,
        worker = NULL, claim = NULL, claimed_at = NULL,
        status = input.status, error = input.error,
        response_headers = CASE WHEN input.state = 'succeeded' THEN input.headers::json END,
        response_body = CASE WHEN input.state <> 'succeeded' THEN NULL
                             WHEN input.kept IS NULL THEN input.body ELSE substr(input.body, 1, input.kept) END,
        response_truncated = CASE WHEN input.state = 'succeeded' THEN input.truncated END
    FROM current JOIN input USING (id)
    WHERE job.id = current.id AND job.claim = input.claim AND NOT (current.awaited AND input.kept IS NOT NULL)
    RETURNING job.id, job.attempts, job.state, job.due_at, job.awaited, input.claim
), logged AS (
    INSERT INTO {schema}.attempt (job_id, number, started_at, duration, reached, status, error, excerpt, retry_at)
    SELECT recorded.id, recorded.attempts, statement_timestamp() - input.ago * interval '1 second', input.duration,
           input.reached, input.status, input.error, substr(input.body, 1, %(excerpt)s),
           CASE WHEN recorded.state = 'available' THEN recorded.due_at END
    FROM recorded JOIN input USING (id, claim)
    ON CONFLICT (job_id, number) DO NOTHING
), awaited AS (
    SELECT string_agg(id::text, ',') AS ids FROM recorded WHERE awaited AND state <> 'available'
)
SELECT ARRAY(SELECT id FROM input EXCEPT SELECT id FROM recorded EXCEPT SELECT id FROM wanted) AS stale,
       ARRAY(SELECT id FROM wanted) AS wanted,
       (SELECT {schema}.announce(%(topic)s, ids)::text FROM awaited) AS announced;


-- name: unblock
-- Make the next job of each given ordering key available, unless the key has an unfinished head, and announce it if
-- a topic is given. Needs the keys' locks, so that no successor is overlooked that is being added just now.
WITH next AS MATERIALIZED (
    SELECT blocked.id
    FROM (SELECT DISTINCT channel, ordering_key
          FROM unnest(%(channels)s::text[], %(keys)s::text[]) AS k (channel, ordering_key)) AS key
    CROSS JOIN LATERAL (
        SELECT id FROM {schema}.job
        WHERE job.channel = key.channel AND job.ordering_key = key.ordering_key AND state = 'blocked'
        ORDER BY position LIMIT 1) AS blocked
    WHERE NOT EXISTS (SELECT FROM {schema}.job AS head
                      WHERE head.channel = key.channel AND head.ordering_key = key.ordering_key
                        AND head.ordering_key IS NOT NULL AND head.state IN ('held', 'available', 'running'))
    ORDER BY blocked.id
), unblocked AS (
    UPDATE {schema}.job SET state = 'available' FROM next WHERE job.id = next.id AND state = 'blocked'
    RETURNING channel, due_at
), channels AS MATERIALIZED (
    -- Readable, because PostgreSQL before 17 can't tell how long it is until a due time that another program has set to
    -- infinity; and then the outcome of the job before it could not be recorded.
    SELECT channel,
           extract(epoch FROM greatest({schema}.readable(min(due_at)), now()) - now())::double precision AS wait
    FROM unblocked GROUP BY channel
), announced AS MATERIALIZED (
    SELECT {schema}.announce(%(topic)s, json_object_agg(channel, wait)::text) FROM channels
)
SELECT channel, wait FROM channels WHERE (SELECT count(*) FROM announced) = 1;


-- name: locked_jobs
-- Those of the jobs whose rows another transaction has locked.
WITH free AS MATERIALIZED (
    SELECT id FROM {schema}.job WHERE id = ANY (%(ids)s::uuid[]) ORDER BY id FOR UPDATE SKIP LOCKED
)
SELECT id FROM {schema}.job WHERE id = ANY (%(ids)s::uuid[]) AND NOT EXISTS (SELECT FROM free WHERE free.id = job.id);
