-- Jobs and attempts as people and waiting callers see them.


-- name: await_job
-- Ask to be told when a job is finished. No row: look at the job, it may be finished, or not exist. A job that is due
-- is announced, and returned with its wait, because a claim in this moment passes it over for its lock.
WITH asked AS (
    UPDATE {schema}.job SET awaited = true WHERE id = %(id)s AND finished_at IS NULL AND NOT awaited
    RETURNING id, channel, state, due_at
), announced AS (
    SELECT json_object_agg(channel, extract(epoch FROM greatest(due_at, now()) - now()))::text AS channels
    FROM asked WHERE state = 'available' AND due_at <= now() + interval '1 second'
)
SELECT (SELECT channels FROM announced) AS due,
       (SELECT {schema}.announce(%(topic)s, channels)::text FROM announced) AS announced FROM asked
UNION ALL
SELECT NULL, NULL FROM {schema}.job WHERE id = %(id)s AND finished_at IS NULL AND awaited;


-- name: still_unfinished
-- Which of these jobs exist and are not finished.
SELECT id FROM {schema}.job WHERE id = ANY (%(ids)s::uuid[]) AND finished_at IS NULL;


-- fragment: shown_columns
-- A job, but for what is larger than it may be, as an old queue can have it.
id, channel, state::text, priority, ordering_key, attempts, {schema}.readable(due_at), {schema}.readable(created_at),
       {schema}.readable(finished_at), status, left(error, 10000), {shown_request},
       CASE WHEN pg_column_size(response_headers) <= 2097152 THEN response_headers::text END,
       CASE WHEN octet_length(response_body) <= 268435456 THEN response_body END, response_truncated


-- fragment: shown_url
left(url, 524288)


-- fragment: shown_headers
CASE WHEN pg_column_size(headers) <= 524288 THEN headers::text ELSE '[]' END


-- fragment: shown_body
CASE WHEN octet_length(body) <= 268435456 THEN body ELSE '' END


-- fragment: shown_accept
CASE WHEN pg_column_size(accept) <= 524288 THEN accept::text ELSE '{}' END


-- name: job
-- One job, but for what is larger than it may be, as an old queue can have it.
SELECT {shown_columns}
FROM {schema}.job WHERE id = %(id)s;


-- name: jobs
-- Jobs in the order of their ids, a page at a time: until their rows come to 16 MiB, but always one. What is
-- larger than it may be is left out, as in `job`.
WITH page AS MATERIALIZED (
    SELECT id, least(octet_length(body), 268435456) + least(coalesce(octet_length(response_body), 0), 268435456)
               + least(octet_length(url)::bigint, 524288) + least(pg_column_size(headers), 524288)
               + least(pg_column_size(accept), 524288) + least(coalesce(pg_column_size(response_headers), 0), 2097152)
               AS size
    FROM {schema}.job
    WHERE (%(after)s::uuid IS NULL OR id > %(after)s)
      AND (%(channel)s::text IS NULL OR channel = %(channel)s)
      AND (%(state)s::text IS NULL OR state = %(state)s::{schema}.job_state)
      AND (%(ordering_key)s::text IS NULL OR ordering_key = %(ordering_key)s)
    ORDER BY id LIMIT %(limit)s
), chosen AS MATERIALIZED (
    SELECT id FROM (SELECT id, size, sum(size) OVER (ORDER BY id) AS total FROM page) AS summed
    WHERE total <= 16777216 OR total = size
)
SELECT {shown_columns}
FROM {schema}.job WHERE id = ANY (ARRAY(SELECT id FROM chosen)) ORDER BY id;


-- name: attempts
-- Every attempt of a job that has ended, up to 10,000. Other programs may have written more into one than the library
-- does; of all together, 64 MiB of excerpts are read.
SELECT number, {schema}.readable(started_at), duration, reached, status, left(error, 10000),
       CASE WHEN sum(octet_length(excerpt)) OVER (ORDER BY number) <= 67108864
            THEN substr(excerpt, 1, 1048576) ELSE '' END,
       {schema}.readable(retry_at)
FROM {schema}.attempt WHERE job_id = %(id)s ORDER BY number LIMIT 10000;


-- name: read_whole_tables
-- The exception to configure, for the rest of a transaction: what reads every row reads them as they lie.
SELECT set_config('enable_seqscan', 'on', true);


-- name: counts
-- How many jobs each channel has in each state.
SELECT channel, state::text, count(*) FROM {schema}.job GROUP BY channel, state ORDER BY channel, state;
