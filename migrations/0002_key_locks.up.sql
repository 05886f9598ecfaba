-- The locks of ordering keys belong to one queue: another schema of the same database has keys of its own, which may
-- have the same names.

-- Whoever holds a lock by its former number, and has written, ends first. Who has yet to write may leave a job behind
-- a head that has finished: a round of maintenance finds it.
LOCK TABLE job IN SHARE ROW EXCLUSIVE MODE;

CREATE OR REPLACE FUNCTION key_lock(channel text, ordering_key text) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
    -- The table's own number, written into the function as it is made.
    RETURN hashtextextended(channel || E'\x1f' || ordering_key, 'job'::regclass::oid::bigint);
