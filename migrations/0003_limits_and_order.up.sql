-- Rows that other programs write: none is larger than the library can bear, and none gets past the order of its key.
-- Names are looked up in pg_catalog alone; what is the queue's own is qualified.

-- One lock for all that follows, none of which reads the tables but for three small indexes.
LOCK TABLE {schema}.job, {schema}.channel, {schema}.worker IN ACCESS EXCLUSIVE MODE;
SET LOCAL search_path TO pg_catalog, pg_temp;

-- Text in indexes is compared byte by byte: by another rule, which comes from the operating system and changes with it,
-- rows would not be found any more.
ALTER TABLE {schema}.job ALTER COLUMN channel TYPE text COLLATE "C", ALTER COLUMN ordering_key TYPE text COLLATE "C";
ALTER TABLE {schema}.channel ALTER COLUMN name TYPE text COLLATE "C";

-- What is inserted is put in order by the database, unless it says that it is: the library says so, and pays only for
-- the condition. Whatever another program writes into the other columns, NULL in all of them included, it does not say it
-- by accident. It is true of what is stored already, and so is copied with it.
ALTER TABLE {schema}.job ADD COLUMN placed boolean NOT NULL DEFAULT true;
ALTER TABLE {schema}.job ALTER COLUMN placed SET DEFAULT false;
COMMENT ON COLUMN {schema}.job.placed IS
    'Left out by other programs: whoever inserts true vouches for state, ordering_key and position.';

-- PostgreSQL parses every constraint anew for each statement, in proportion to its length: so there are two, and short.
-- `requeuest migrate` validates them in a step of its own, without a lock that keeps anybody waiting.
ALTER TABLE {schema}.job
    DROP CONSTRAINT job_channel_check, DROP CONSTRAINT job_priority_check, DROP CONSTRAINT job_ordering_key_check,
    DROP CONSTRAINT job_attempts_check, DROP CONSTRAINT running_is_claimed, DROP CONSTRAINT running_is_counted,
    DROP CONSTRAINT finished_has_a_time, DROP CONSTRAINT succeeded_has_a_response,
    DROP CONSTRAINT ordered_has_a_position, DROP CONSTRAINT blocked_is_ordered,
    -- What belongs to which state. `succeeded` and what comes after it are the finished ones.
    ADD CONSTRAINT job_states CHECK (
        attempts >= (state = 'running')::integer
        AND num_nonnulls(worker, claim, claimed_at) = 3 * (state = 'running')::integer
        AND (state >= 'succeeded') = (finished_at IS NOT NULL)
        AND num_nonnulls(response_headers, response_body, response_truncated) = 3 * (state = 'succeeded')::integer
        AND (state <> 'succeeded' OR status IS NOT NULL)
        AND placed AND (ordering_key IS NULL) = (position IS NULL)
        AND (state <> 'blocked' OR ordering_key IS NOT NULL)) NOT VALID,
    -- 256 MiB of body, and of an answer's body; 512 KiB of all else in a request, together with the error; 2 MiB of an
    -- answer's headers. A dead job may be larger: what was stored before there were limits has to be able to die.
    ADD CONSTRAINT job_limits CHECK (
        state = 'dead'
        OR greatest(pg_column_size(ROW(method, url, headers, accept, retry, error)), octet_length(body) / 512,
                    octet_length(response_body) / 512, pg_column_size(response_headers) / 4) <= 524288
        AND greatest(char_length(channel), char_length(ordering_key), 2 * abs(priority)) <= 200
        AND channel <> '') NOT VALID;
ALTER TABLE {schema}.worker ADD CONSTRAINT worker_limits CHECK (char_length(host) <= 1000) NOT VALID;

-- The same as the library does when it stores a job with an ordering key, or one of an ordered channel. With the rights
-- of its owner, because who may insert need not be able to read.
CREATE FUNCTION {schema}.put_in_order() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path TO pg_catalog, pg_temp
AS $$
BEGIN
    NEW.placed := true;
    IF EXISTS (SELECT FROM {schema}.channel WHERE name = NEW.channel AND ordered) THEN
        NEW.ordering_key := '';
    END IF;
    IF NEW.ordering_key IS NULL THEN
        NEW.position := NULL;
        RETURN NEW;
    END IF;
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'a job with an ordering key, or of an ordered channel, needs READ COMMITTED'
            USING ERRCODE = 'feature_not_supported';
    END IF;
    PERFORM pg_advisory_xact_lock({schema}.key_lock(NEW.channel, NEW.ordering_key));
    IF NEW.state IN ('available', 'blocked') THEN
        NEW.state := CASE WHEN EXISTS (
            SELECT FROM {schema}.job
            WHERE job.channel = NEW.channel AND job.ordering_key = NEW.ordering_key AND job.ordering_key IS NOT NULL
              AND job.state IN ('held', 'available', 'running')
        ) OR EXISTS (
            SELECT FROM {schema}.job
            WHERE job.channel = NEW.channel AND job.ordering_key = NEW.ordering_key AND job.state = 'blocked'
        ) THEN 'blocked' ELSE 'available' END;
    END IF;
    NEW.position := nextval('{schema}.job_position');
    RETURN NEW;
END $$;

-- A trigger of somebody else's, on a table of his, would give it what it was not made for.
REVOKE ALL ON FUNCTION {schema}.put_in_order() FROM PUBLIC;

CREATE TRIGGER put_in_order BEFORE INSERT ON {schema}.job
    FOR EACH ROW WHEN (NEW.placed IS NOT TRUE) EXECUTE FUNCTION {schema}.put_in_order();
