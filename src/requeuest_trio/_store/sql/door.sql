-- The conditions of the door to running: of `claim`, and of what stores a job past it. Each is written here once. Names
-- are qualified, because what stores jobs may meet any path.


-- fragment: is_registered
-- The process is (still) one that may hold jobs.
EXISTS (SELECT FROM {schema}.worker WHERE worker.id OPERATOR(pg_catalog.=) %(worker)s::pg_catalog.uuid)


-- fragment: is_unordered
-- The channel has no order that a job without a key could break.
NOT EXISTS (SELECT FROM {schema}.channel
            WHERE name OPERATOR(pg_catalog.=) %(channel)s::pg_catalog.text AND ordered)


-- fragment: ordered
-- The same for several channels: those that have one.
SELECT name FROM {schema}.channel
WHERE ordered AND name OPERATOR(pg_catalog.=) ANY (%(channels)s::pg_catalog.text[])
