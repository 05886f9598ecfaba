-- The number of an ordering key's lock can't be worked out by roles that the queue is nothing to: whoever may connect can
-- take any advisory lock, and so could have kept jobs with a known key from being stored.

-- Whoever holds a lock by its former number, and has written, ends first. Of two who have yet to write, the index of heads
-- refuses one; and where a job is left behind a head that has finished, a round of maintenance finds it.
LOCK TABLE {schema}.job IN SHARE ROW EXCLUSIVE MODE;
SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE TABLE {schema}.key_secret (value bytea NOT NULL);
INSERT INTO {schema}.key_secret SELECT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());

-- The function goes on belonging to whom it belonged, and reads the table with his rights.
DO $$
BEGIN
    EXECUTE (SELECT format('ALTER TABLE {schema}.key_secret OWNER TO %s', proowner::regrole) FROM pg_proc
             WHERE oid = '{schema}.key_lock(text, text)'::regprocedure);
END $$;

-- With the rights of its owner, because who may spawn need not be able to read the secret; so all names in it are
-- qualified, which costs less than a path of its own. In this language the plan is kept from one call to the next. A lock
-- shows its number to everybody while it is held: by a hash for such purposes it tells nothing of the others.
CREATE OR REPLACE FUNCTION {schema}.key_lock(channel text, ordering_key text) RETURNS bigint
    LANGUAGE plpgsql STABLE PARALLEL SAFE STRICT SECURITY DEFINER
AS $$
DECLARE
    secret pg_catalog.bytea;
BEGIN
    SELECT value INTO STRICT secret FROM {schema}.key_secret;
    RETURN pg_catalog.hashtextextended(
        pg_catalog.encode(pg_catalog.sha256(secret OPERATOR(pg_catalog.||) pg_catalog.convert_to(
            channel OPERATOR(pg_catalog.||) E'\x1f' OPERATOR(pg_catalog.||) ordering_key, 'UTF8')), 'hex'), 0);
END $$;
