-- The locks of ordering keys as they were.

LOCK TABLE {schema}.job IN SHARE ROW EXCLUSIVE MODE;

CREATE OR REPLACE FUNCTION {schema}.key_lock(channel text, ordering_key text) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
    RETURN pg_catalog.hashtextextended(channel OPERATOR(pg_catalog.||) E'\x1f' OPERATOR(pg_catalog.||) ordering_key,
                                       '{schema}.job'::pg_catalog.regclass::pg_catalog.oid::bigint);

DROP TABLE {schema}.key_secret;
