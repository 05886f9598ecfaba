-- Which channels have something due; how jobs are claimed, released, and given up if they can't be read.


-- name: due_channels
-- All channels that have something to claim now or before horizon seconds have passed, and how long until then. Jumps
-- from one (channel, priority) to the next in the index, so that its cost is their number, not the backlog's.
WITH RECURSIVE step AS (
    (SELECT channel, -priority AS rank, due_at FROM {schema}.job
     WHERE state = 'available' ORDER BY channel, -priority, due_at LIMIT 1)
    UNION ALL
    SELECT next.channel, next.rank, next.due_at
    FROM step CROSS JOIN LATERAL (
        SELECT channel, -priority AS rank, due_at FROM {schema}.job
        WHERE state = 'available' AND (channel, -priority) > (step.channel, step.rank)
        ORDER BY channel, -priority, due_at LIMIT 1) AS next
)
SELECT channel, extract(epoch FROM greatest(min(due_at), now()) - now())::double precision AS wait
FROM step WHERE due_at <= now() + %(horizon)s * interval '1 second' GROUP BY channel;


-- name: due_of_channels
-- The same for the channels named; its cost is their number, however many others there are.
WITH RECURSIVE step AS (
    SELECT named.channel, first.rank, first.due_at
    FROM unnest(%(channels)s::text[]) AS named (channel) CROSS JOIN LATERAL (
        SELECT -priority AS rank, due_at FROM {schema}.job
        WHERE job.channel = named.channel AND state = 'available' ORDER BY -priority, due_at LIMIT 1) AS first
    UNION ALL
    SELECT step.channel, next.rank, next.due_at
    FROM step CROSS JOIN LATERAL (
        SELECT -priority AS rank, due_at FROM {schema}.job
        WHERE job.channel = step.channel AND state = 'available' AND -priority > step.rank
        ORDER BY -priority, due_at LIMIT 1) AS next
)
SELECT channel, extract(epoch FROM greatest(min(due_at), now()) - now())::double precision AS wait
FROM step WHERE due_at <= now() + %(horizon)s * interval '1 second' GROUP BY channel;


-- name: claim
-- Take due jobs for the free places of each channel: highest priority first, then the longest due; from all channels
-- in turn, until what is read of them comes to `budget` bytes, but always one. A body that is larger is not read, so that
-- other jobs do not wait for it: `body` does, for the attempt. Tells with each whether that has left some. Nothing is
-- taken by a process that is not registered (any more). A job that is larger than a job may be, as an old queue can have
-- it, is only named, for `condemn`: whoever read it would fail of its size, again and again.
WITH RECURSIVE place AS MATERIALIZED (
    SELECT channel, places FROM unnest(%(channels)s::text[], %(places)s::integer[]) AS p (channel, places)
    WHERE {is_registered}
), rank AS (
    SELECT channel, (SELECT -priority FROM {schema}.job
                     WHERE job.channel = place.channel AND state = 'available'
                     ORDER BY -priority LIMIT 1) AS rank
    FROM place
    UNION ALL
    SELECT channel, (SELECT -priority FROM {schema}.job
                     WHERE job.channel = rank.channel AND state = 'available' AND -priority > rank.rank
                     ORDER BY -priority LIMIT 1)
    FROM rank WHERE rank.rank IS NOT NULL
), due AS MATERIALIZED (
    SELECT numbered.id, numbered.is_broken, numbered.is_large, numbered.turn, place.channel,
           CASE WHEN is_broken THEN 0
                ELSE CASE WHEN is_large THEN 0 ELSE body END + greatest(rest * factor - 1024, 0) END AS size
    FROM place CROSS JOIN LATERAL (SELECT *, row_number() OVER () AS turn FROM (
        SELECT of_rank.id, body, rest, factor, body > 268435456 OR rest > 524288 AS is_broken,
               body > %(budget)s AS is_large
        FROM (SELECT rank FROM rank WHERE rank.channel = place.channel AND rank IS NOT NULL ORDER BY rank) AS ranks
        CROSS JOIN LATERAL (
            -- Without reading what is stored apart. The first kilobyte of all but the body is free; what is compressed
            -- may become a hundred times as large.
            SELECT id, octet_length(body) AS body,
                   octet_length(method)::bigint + octet_length(url)
                   + pg_column_size(headers) + pg_column_size(accept) + coalesce(pg_column_size(retry), 0) AS rest,
                   CASE WHEN coalesce(pg_column_compression(headers), pg_column_compression(accept),
                                      pg_column_compression(retry)) IS NULL THEN 1 ELSE 100 END AS factor
            FROM {schema}.job
            WHERE job.channel = place.channel AND state = 'available' AND -priority = ranks.rank AND due_at <= now()
            ORDER BY due_at, id LIMIT place.places FOR UPDATE SKIP LOCKED) AS of_rank
        LIMIT place.places) AS first) AS numbered
), picked AS MATERIALIZED (
    SELECT id, channel, is_broken, is_large
    FROM (SELECT *, sum(size) OVER (ORDER BY turn, channel) AS total FROM due) AS summed
    WHERE total <= %(budget)s OR total = size
), taken AS (
    UPDATE {schema}.job
    SET state = 'running', worker = %(worker)s, claim = %(claim)s, claimed_at = now(),
        attempts = least(attempts, 2147483646) + 1
    WHERE id = ANY (ARRAY(SELECT id FROM picked WHERE NOT is_broken))
    RETURNING id, channel, ordering_key, attempts, {claimed_columns}
)
SELECT taken.*, (SELECT count(*) FROM due) > (SELECT count(*) FROM picked) AS is_cut, false AS is_broken FROM taken
UNION ALL
SELECT id, channel, NULL, 0, {unclaimed_columns}, true, true FROM picked WHERE is_broken;


-- fragment: claimed_headers
headers::text


-- fragment: claimed_body
-- One that is large is left where it is.
CASE WHEN id = ANY (ARRAY(SELECT id FROM picked WHERE is_large)) THEN NULL ELSE body END


-- fragment: claimed_accept
accept::text


-- fragment: claimed_retry
retry::text


-- name: body
-- The body of a job that a process holds, where `claim` has not read it. No row: the job is held no longer.
SELECT body FROM {schema}.job WHERE id = %(id)s AND claim = %(claim)s;


-- name: first_due
-- The job that a claim for one place of a channel would take, and how many bytes it has, or at least has if some of them
-- are compressed.
SELECT id, octet_length(body)::bigint + octet_length(url) + pg_column_size(headers) + pg_column_size(accept)
           + coalesce(pg_column_size(retry), 0) AS size
FROM {schema}.job
WHERE channel = %(channel)s AND state = 'available' AND due_at <= now()
ORDER BY -priority, due_at, id LIMIT 1 FOR UPDATE SKIP LOCKED;


-- name: keys_of
-- The ordering keys of those of the jobs that have one.
SELECT DISTINCT channel, ordering_key FROM {schema}.job WHERE id = ANY (%(ids)s::uuid[]) AND ordering_key IS NOT NULL;


-- name: condemn
-- Give up jobs that can't be read, those that are in one of the states. The attempt is written down, and counted unless it
-- was already; who waits for one is told. Reads nothing of what may be damaged.
WITH doomed AS MATERIALIZED (
    SELECT id, state FROM {schema}.job
    WHERE id = ANY (%(ids)s::uuid[]) AND state = ANY (%(states)s::{schema}.job_state[])
    ORDER BY id FOR UPDATE
), condemned AS (
    UPDATE {schema}.job
    SET state = 'dead', finished_at = now(), worker = NULL, claim = NULL, claimed_at = NULL, status = NULL,
        error = %(error)s, attempts = least(attempts, 2147483646) + (doomed.state <> 'running')::integer
    FROM doomed WHERE job.id = doomed.id
    RETURNING job.id, channel, attempts, awaited
), logged AS (
    INSERT INTO {schema}.attempt (job_id, number, started_at, duration, reached, error)
    SELECT id, attempts, now(), 0, 'resolve', %(error)s FROM condemned
    ON CONFLICT (job_id, number) DO NOTHING
), announced AS (
    SELECT {schema}.announce(%(topic)s, string_agg(id::text, ',')) FROM condemned WHERE awaited
)
SELECT id, channel, attempts FROM condemned WHERE (SELECT count(*) FROM announced) = 1;


-- name: held_claims
-- The claims under which a process holds jobs.
SELECT DISTINCT claim FROM {schema}.job WHERE worker = %(worker)s AND state = 'running';


-- name: release
-- Release jobs of a process, by their claims, or single ones by their ids and claims (or all of them, if none are
-- named): their attempt is not counted, and other processes are told.
WITH held AS MATERIALIZED (
    SELECT id FROM {schema}.job
    WHERE worker = %(worker)s AND state = 'running'
      AND (%(claims)s::uuid[] IS NULL OR claim = ANY (%(claims)s::uuid[]))
      AND (%(ids)s::uuid[] IS NULL
           OR (id, claim) IN (SELECT * FROM unnest(%(ids)s::uuid[], %(claims)s::uuid[])))
    ORDER BY id FOR UPDATE
), released AS (
    UPDATE {schema}.job
    SET state = 'available', attempts = attempts - 1, worker = NULL, claim = NULL, claimed_at = NULL
    FROM held WHERE job.id = held.id
    RETURNING channel
), announced AS (
    SELECT json_object_agg(channel, 0)::text AS channels FROM (SELECT DISTINCT channel FROM released) AS channels
)
SELECT (SELECT count(*) FROM released) AS released,
       (SELECT {schema}.announce(%(topic)s, channels)::text FROM announced) AS announced;


-- name: orphan
-- Hold some claims no longer, as if their process were lost: then their jobs are rescued, and their attempts count.
WITH held AS MATERIALIZED (
    SELECT id FROM {schema}.job
    WHERE worker = %(worker)s AND state = 'running' AND claim = ANY (%(claims)s::uuid[])
    ORDER BY id FOR UPDATE
)
UPDATE {schema}.job SET worker = '00000000-0000-0000-0000-000000000000' FROM held WHERE job.id = held.id;
