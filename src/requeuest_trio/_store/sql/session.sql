-- What a session or transaction of the library is, and what is asked of the server that it leads to.


-- name: begin
-- Begin a transaction of the library's own, whatever the database's defaults are, and in the role that has logged in,
-- whatever another client of a pooler has left in its session; `configure` follows in one message.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SET LOCAL SESSION AUTHORIZATION DEFAULT; SET LOCAL role TO DEFAULT;


-- name: begin_reading
-- The same on a replica, where it is an error even to ask for the right to write.
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL SESSION AUTHORIZATION DEFAULT; SET LOCAL role TO DEFAULT;


-- name: configure
-- Give a session, or a transaction, what the other statements rely on, whatever the database's defaults are. The queue
-- lives in its indexes: a plan that was made while a table was small must not read it whole once it is large. Planning a
-- statement may take as long as running it, and PostgreSQL does not always see that a plan is good for all parameters.
-- The path is the first of them: whoever may create in a schema that a name is looked up in could give PostgreSQL's own
-- functions and operators better matches, and so run code with the library's rights.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', %(is_local)s),
       pg_catalog.set_config('default_transaction_isolation', 'read committed', %(is_local)s),
       pg_catalog.set_config('default_transaction_read_only', 'off', %(is_local)s),
       pg_catalog.set_config('client_encoding', 'UTF8', %(is_local)s),
       pg_catalog.set_config('client_min_messages', 'notice', %(is_local)s),
       pg_catalog.set_config('exit_on_error', 'off', %(is_local)s),
       pg_catalog.set_config('DateStyle', 'ISO, YMD', %(is_local)s),
       pg_catalog.set_config('TimeZone', 'UTC', %(is_local)s),
       pg_catalog.set_config('extra_float_digits', '1', %(is_local)s),
       pg_catalog.set_config('jit', 'off', %(is_local)s),
       pg_catalog.set_config('enable_seqscan', 'off', %(is_local)s),
       pg_catalog.set_config('enable_bitmapscan', 'off', %(is_local)s),
       pg_catalog.set_config('enable_indexscan', 'on', %(is_local)s),
       pg_catalog.set_config('enable_indexonlyscan', 'on', %(is_local)s),
       pg_catalog.set_config('enable_nestloop', 'on', %(is_local)s),
       pg_catalog.set_config('enable_sort', 'on', %(is_local)s),
       pg_catalog.set_config('plan_cache_mode', %(plan_cache_mode)s, %(is_local)s),
       pg_catalog.set_config('statement_timeout', %(statement_timeout)s, %(is_local)s),
       pg_catalog.set_config('lock_timeout', %(lock_timeout)s, %(is_local)s),
       pg_catalog.set_config('idle_in_transaction_session_timeout', %(idle_timeout)s, %(is_local)s),
       pg_catalog.set_config('idle_session_timeout', '0', %(is_local)s),
       CASE WHEN pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL
            THEN pg_catalog.set_config('transaction_timeout', '0', %(is_local)s) END,
       pg_catalog.set_config('client_connection_check_interval', '2s', %(is_local)s);


-- name: leave_session_to_caller
-- In a transaction that the application uses itself, its own role and database's settings hold, neither the library's nor
-- those of another client of a pooler. But a warning tells that the commit has not waited for a synchronous replica.
SET LOCAL SESSION AUTHORIZATION DEFAULT; SET LOCAL role TO DEFAULT;
SET LOCAL client_min_messages TO notice;
SET LOCAL statement_timeout TO DEFAULT; SET LOCAL lock_timeout TO DEFAULT;
SET LOCAL idle_in_transaction_session_timeout TO DEFAULT;
SET LOCAL DateStyle TO DEFAULT; SET LOCAL TimeZone TO DEFAULT;
SET LOCAL extra_float_digits TO DEFAULT;
SET LOCAL jit TO DEFAULT; SET LOCAL enable_seqscan TO DEFAULT; SET LOCAL enable_bitmapscan TO DEFAULT;
SET LOCAL enable_indexscan TO DEFAULT; SET LOCAL enable_indexonlyscan TO DEFAULT; SET LOCAL enable_nestloop TO DEFAULT;
SET LOCAL enable_sort TO DEFAULT;
SET LOCAL plan_cache_mode TO DEFAULT; SET LOCAL search_path TO DEFAULT;


-- name: leave_transaction_timeout_to_caller
-- The same, in one message with it, for a setting that PostgreSQL has since version 17.
SET LOCAL transaction_timeout TO DEFAULT;


-- name: clean_session
-- Take away what whoever had a session before has left in it; `configure` and `prepared_statements` follow in one message.
-- It is what DISCARD ALL does, which can't share a message with anything; but prepared statements stay, since most are
-- the library's own, and plans cost more than all else here.
CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; UNLISTEN *;
SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES;


-- name: prepared_statements
-- What is prepared in a session, and whether by the statement PREPARE, which the library does not use.
SELECT name, from_sql FROM pg_catalog.pg_prepared_statements;


-- name: forget_prepared_statements
-- Have none.
DEALLOCATE ALL;


-- name: missing_rights
-- Which rights this role lacks in the schema, for opening a queue, for delivering, or for setting channels; and tables
-- with policies that hide rows from it. It asks the catalogue, which is open to everybody.
WITH needed (kind, name, privilege, purpose) AS (VALUES
    ('table', 'migration', 'SELECT', 'open'), ('table', 'channel', 'SELECT', 'deliver'),
    ('table', 'channel', 'INSERT', 'set'), ('table', 'channel', 'UPDATE', 'set'),
    ('table', 'job', 'SELECT', 'deliver'), ('table', 'job', 'UPDATE', 'deliver'), ('table', 'job', 'DELETE', 'deliver'),
    ('table', 'attempt', 'SELECT', 'deliver'), ('table', 'attempt', 'INSERT', 'deliver'),
    ('table', 'attempt', 'DELETE', 'deliver'), ('table', 'worker', 'SELECT', 'deliver'),
    ('table', 'worker', 'INSERT', 'deliver'), ('table', 'worker', 'UPDATE', 'deliver'),
    ('table', 'worker', 'DELETE', 'deliver')
), relation AS (
    SELECT pg_class.oid, relname::text AS name FROM pg_catalog.pg_class
    JOIN pg_catalog.pg_namespace ON pg_namespace.oid OPERATOR(pg_catalog.=) relnamespace
    WHERE nspname OPERATOR(pg_catalog.=) %(schema)s::name
)
SELECT current_user::text AS role, 'SCHEMA' AS kind, '{schema}' AS object, 'USAGE' AS privilege
FROM pg_catalog.pg_namespace
WHERE nspname OPERATOR(pg_catalog.=) %(schema)s::name
  AND NOT pg_catalog.has_schema_privilege(pg_namespace.oid, 'USAGE')
UNION ALL
SELECT current_user::text, 'TABLE', '{schema}.' || name, privilege
FROM needed JOIN relation USING (name)
WHERE (purpose OPERATOR(pg_catalog.=) 'open' OR (purpose OPERATOR(pg_catalog.=) 'deliver' AND %(delivers)s)
       OR (purpose OPERATOR(pg_catalog.=) 'set' AND %(sets)s))
  AND NOT CASE privilege WHEN 'DELETE' THEN pg_catalog.has_table_privilege(relation.oid, privilege)
                         ELSE pg_catalog.has_any_column_privilege(relation.oid, privilege) END
UNION ALL
SELECT current_user::text, 'FUNCTION', pg_proc.oid::regprocedure::text, 'EXECUTE'
FROM pg_catalog.pg_proc JOIN pg_catalog.pg_namespace ON pg_namespace.oid OPERATOR(pg_catalog.=) pronamespace
WHERE nspname OPERATOR(pg_catalog.=) %(schema)s::name AND %(delivers)s
  -- That of a trigger takes no right of whoever sets it off.
  AND prorettype OPERATOR(pg_catalog.<>) 'pg_catalog.trigger'::pg_catalog.regtype
  AND NOT pg_catalog.has_function_privilege(pg_proc.oid, 'EXECUTE')
UNION ALL
SELECT current_user::text, 'POLICY', '{schema}.' || name, ''
FROM relation JOIN (SELECT DISTINCT name FROM needed) AS ours USING (name)
WHERE pg_catalog.row_security_active(relation.oid)
ORDER BY kind, object, privilege;


-- name: what_answers
-- Which of the server's processes answers, and for which database; with the version of the rules by which that compares
-- texts, as it was when its indexes were made, and as it is. Both are NULL where the rules never change. Names that the
-- database's encoding has no characters for are an error.
SELECT pg_backend_pid(), datname::text, datcollversion, pg_database_collation_actual_version(oid)
FROM pg_database WHERE datname = current_database() AND %(channels)s::text[] IS NOT NULL;


-- name: backend
-- Which of the server's processes answers.
SELECT pg_catalog.pg_backend_pid();


-- name: take_token
-- Hold an advisory lock until the end of the transaction, by which `is_free_token` knows the database.
SELECT pg_advisory_xact_lock(%(token)s::bigint);


-- name: is_free_token
-- Whether nobody holds that lock in this database.
SELECT pg_try_advisory_xact_lock(%(token)s::bigint);


-- name: listen
-- Hear announcements. The topic is an identifier here, so it is filled in by the store.
LISTEN {topic};


-- name: listening
-- Which topics this connection hears: proves that it is alive, and still registered.
SELECT pg_listening_channels();


-- name: make_room_for_notifications
-- Let PostgreSQL forget the notifications that everybody has heard: once its queue is full, it does that in no other way.
SELECT pg_catalog.pg_notification_queue_usage();
