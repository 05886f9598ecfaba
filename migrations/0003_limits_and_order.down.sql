-- Rows that other programs write as they were: without limits, and without order.

LOCK TABLE {schema}.job, {schema}.channel, {schema}.worker IN ACCESS EXCLUSIVE MODE;
SET LOCAL search_path TO pg_catalog, pg_temp;

DROP TRIGGER put_in_order ON {schema}.job;
DROP FUNCTION {schema}.put_in_order();
ALTER TABLE {schema}.worker DROP CONSTRAINT worker_limits;
ALTER TABLE {schema}.job
    DROP CONSTRAINT job_states, DROP CONSTRAINT job_limits,
    ADD CONSTRAINT job_channel_check CHECK (char_length(channel) BETWEEN 1 AND 200) NOT VALID,
    ADD CONSTRAINT job_priority_check CHECK (priority BETWEEN -100 AND 100) NOT VALID,
    ADD CONSTRAINT job_ordering_key_check CHECK (char_length(ordering_key) <= 200) NOT VALID,
    ADD CONSTRAINT job_attempts_check CHECK (attempts >= 0) NOT VALID,
    ADD CONSTRAINT running_is_claimed
        CHECK (num_nonnulls(worker, claim, claimed_at) = CASE WHEN state = 'running' THEN 3 ELSE 0 END) NOT VALID,
    ADD CONSTRAINT running_is_counted
        CHECK (state <> 'running' OR attempts > 0) NOT VALID,
    ADD CONSTRAINT finished_has_a_time
        CHECK ((state IN ('succeeded', 'dead', 'cancelled')) = (finished_at IS NOT NULL)) NOT VALID,
    ADD CONSTRAINT succeeded_has_a_response
        CHECK (num_nonnulls(response_headers, response_body, response_truncated)
               = CASE WHEN state = 'succeeded' THEN 3 ELSE 0 END AND (state <> 'succeeded' OR status IS NOT NULL))
        NOT VALID,
    ADD CONSTRAINT ordered_has_a_position
        CHECK ((ordering_key IS NULL) = (position IS NULL)) NOT VALID,
    ADD CONSTRAINT blocked_is_ordered
        CHECK (state <> 'blocked' OR ordering_key IS NOT NULL) NOT VALID,
    DROP COLUMN placed;

ALTER TABLE {schema}.job
    ALTER COLUMN channel TYPE text COLLATE "default", ALTER COLUMN ordering_key TYPE text COLLATE "default";
ALTER TABLE {schema}.channel ALTER COLUMN name TYPE text COLLATE "default";
