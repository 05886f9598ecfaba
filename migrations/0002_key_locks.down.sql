-- The locks of ordering keys as they were.

LOCK TABLE job IN SHARE ROW EXCLUSIVE MODE;

CREATE OR REPLACE FUNCTION key_lock(channel text, ordering_key text) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
    RETURN hashtextextended(channel || E'\x1f' || ordering_key, 7237);
