-- Every statement that runs on the queue, each with a name and what it is for.
-- {schema} stands for the quoted schema. Statements that change several rows lock them in the order of their ids;
-- those that touch ordering keys run in a transaction that has run lock_keys first.
--
-- `configure` sees to it that names are looked up in pg_catalog alone. What runs before it, or in a transaction of the
-- application's, which has a path of its own, leaves nothing to look up: functions, types and operators are qualified,
-- but for what the grammar itself knows, such as coalesce, extract and boolean.


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


-- name: lock_journal
-- Let only one process at a time take a step. It takes rights on the journal, so that no stranger can be in the way.
LOCK TABLE {schema}.migration IN EXCLUSIVE MODE;


-- name: strangers
-- What about the schema and the queue's tables is another role's, in words: it could run code with the rights of who
-- migrates. A superuser counts as a member of the roles that he was made a member of, not of all. What superusers have
-- put into the schema, such as extensions, is no threat to anybody who could not trust them anyway.
WITH RECURSIVE own (role) AS (
    SELECT oid FROM pg_roles WHERE rolname = current_user
    UNION
    SELECT roleid FROM own JOIN pg_auth_members ON member = role
), trusted AS (
    SELECT role FROM own
    UNION
    SELECT pg_roles.oid FROM pg_roles JOIN pg_database ON datname = current_database()
    WHERE rolname = 'pg_database_owner' AND datdba IN (SELECT role FROM own)
), harmless AS (
    SELECT role FROM trusted UNION SELECT oid FROM pg_roles WHERE rolsuper
), space AS (
    SELECT oid, nspowner, coalesce(nspacl, acldefault('n', nspowner)) AS rights
    FROM pg_namespace WHERE nspname = %(schema)s
), mine AS (
    SELECT pg_class.oid, relname, relkind, relowner, relrowsecurity FROM pg_class JOIN space ON relnamespace = space.oid
    WHERE relname = ANY (%(tables)s::text[]) OR relname = 'job_position'
), used AS (
    -- The functions that defaults, constraints and indexes of the tables use, but for PostgreSQL's own.
    SELECT relname, refobjid AS function FROM mine
    JOIN (SELECT 'pg_attrdef'::regclass AS part, oid AS number, adrelid AS relation FROM pg_attrdef
          UNION ALL SELECT 'pg_constraint'::regclass, oid, conrelid FROM pg_constraint
          UNION ALL SELECT 'pg_class'::regclass, indexrelid, indrelid FROM pg_index) AS parts ON relation = mine.oid
    JOIN pg_depend ON classid = part AND objid = number AND refclassid = 'pg_proc'::regclass
)
SELECT format('it belongs to %%s', nspowner::regrole) FROM space WHERE nspowner NOT IN (SELECT role FROM trusted)
UNION ALL
SELECT format('%%s may create in it', CASE grantee WHEN 0 THEN 'everybody' ELSE grantee::regrole::text END)
FROM space CROSS JOIN aclexplode(rights)
WHERE privilege_type = 'CREATE' AND grantee NOT IN (SELECT role FROM harmless)
UNION ALL
SELECT format('%%s belongs to %%s', relname, relowner::regrole) FROM mine
WHERE relowner NOT IN (SELECT role FROM trusted)
UNION ALL
SELECT format('%%s is no table', relname) FROM mine
WHERE relkind <> CASE relname WHEN 'job_position' THEN 'S' ELSE 'r' END
UNION ALL
SELECT format('the function %%s belongs to %%s', proname, proowner::regrole)
FROM pg_proc JOIN space ON pronamespace = space.oid
WHERE proowner NOT IN (SELECT role FROM harmless)
UNION ALL
SELECT format('the operator %%s belongs to %%s', oprname, oprowner::regrole)
FROM pg_operator JOIN space ON oprnamespace = space.oid
WHERE oprowner NOT IN (SELECT role FROM harmless)
UNION ALL
SELECT format('the type %%s belongs to %%s', typname, typowner::regrole)
FROM pg_type JOIN space ON typnamespace = space.oid
WHERE typowner NOT IN (SELECT role FROM harmless) AND typrelid = 0 AND typelem = 0
UNION ALL
SELECT format('%%s has a trigger %%s', relname, tgname) FROM pg_trigger JOIN mine ON tgrelid = mine.oid
WHERE NOT tgisinternal
  AND NOT (tgname = 'put_in_order'
           AND tgfoid IN (SELECT pg_proc.oid FROM pg_proc JOIN space ON pronamespace = space.oid
                          WHERE proname = 'put_in_order'))
UNION ALL
SELECT format('%%s has a rule %%s', relname, rulename) FROM pg_rewrite JOIN mine ON ev_class = mine.oid
UNION ALL
SELECT format('%%s has row level security', relname) FROM mine
WHERE relrowsecurity OR EXISTS (SELECT FROM pg_policy WHERE polrelid = mine.oid)
UNION ALL
SELECT format('%%s is part of an inheritance', relname) FROM mine
WHERE EXISTS (SELECT FROM pg_inherits WHERE mine.oid IN (inhrelid, inhparent))
UNION ALL
SELECT format('%%s uses the function %%s', relname, function::regproc) FROM used JOIN pg_proc ON pg_proc.oid = function
WHERE pronamespace NOT IN (SELECT oid FROM space);


-- name: lock_tables
-- Let nobody change what the tables are, while rows come and go.
DO $$
DECLARE
    its_name text;
BEGIN
    FOREACH its_name IN ARRAY ARRAY['migration', 'job', 'attempt', 'worker', 'channel', 'key_secret'] LOOP
        IF to_regclass('{schema}.' || its_name) IS NOT NULL THEN
            EXECUTE format('LOCK TABLE {schema}.%I IN SHARE UPDATE EXCLUSIVE MODE', its_name);
        END IF;
    END LOOP;
END $$;


-- name: has_journal
-- One row if migrations were ever applied here.
SELECT FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = %(schema)s AND relname = 'migration';


-- name: journal
-- Which migrations are applied.
SELECT version, checksum FROM {schema}.migration ORDER BY version;


-- name: make_journal
-- Make the journal, and the schema if there is none: of several who do that at once, the catalogue lets one. The schema
-- is looked up first, because IF NOT EXISTS asks for a right that the owner of a ready-made schema may not have.
DO $$
BEGIN
    IF to_regnamespace('{schema}') IS NULL THEN
        CREATE SCHEMA {schema};
    END IF;
    CREATE TABLE {schema}.migration (
        version    integer     PRIMARY KEY,
        name       text        NOT NULL,
        checksum   text        NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    );
END $$;


-- name: enter_schema
-- Let a migration run in the schema.
SET LOCAL search_path TO {schema}, pg_temp;


-- name: add_to_journal
-- Write down an applied migration.
INSERT INTO {schema}.migration (version, name, checksum) VALUES (%(version)s, %(name)s, %(checksum)s);


-- name: remove_from_journal
-- Write down that a migration was taken back.
DELETE FROM {schema}.migration WHERE version = %(version)s;


-- name: oversized
-- The statement that finds unfinished jobs which were stored before there were limits, and break them: no change of theirs
-- would be taken, but that they die. No row if there are no limits, or all jobs are known to keep them.
SELECT format('SELECT id FROM %s WHERE finished_at IS NULL AND NOT (%s)', conrelid::regclass,
              pg_get_expr(conbin, conrelid))
FROM pg_constraint
WHERE conrelid = to_regclass('{schema}.job') AND conname = 'job_limits' AND NOT convalidated;


-- name: validations
-- The statements by which constraints that hold for new rows only are made to hold for all, or are found broken.
SELECT conname, format('ALTER TABLE %%s VALIDATE CONSTRAINT %%I', conrelid::regclass, conname)
FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = %(schema)s AND relname = ANY (%(tables)s::text[]) AND NOT convalidated ORDER BY conname;


-- name: close_journal
-- Leave nothing behind once the last migration is taken back: no journal, and no schema either, if it is empty and
-- could be made again.
DO $$
BEGIN
    DROP TABLE {schema}.migration;
    IF has_database_privilege(current_database(), 'CREATE')
       AND (SELECT pg_has_role(nspowner, 'USAGE') AND nspname <> 'public' FROM pg_catalog.pg_namespace
            WHERE oid = to_regnamespace('{schema}'))
    THEN
        DROP SCHEMA {schema} RESTRICT;
    END IF;
EXCEPTION WHEN dependent_objects_still_exist THEN
    DROP TABLE {schema}.migration;
END $$;


-- name: set_channel
-- Keep the settings of a channel.
INSERT INTO {schema}.channel (name, ordered) VALUES (%(name)s, %(ordered)s)
ON CONFLICT (name) DO UPDATE SET ordered = excluded.ordered WHERE channel.ordered <> excluded.ordered;


-- name: spawn_one
-- Store one job that has neither an ordering key nor a time of its own, unless its id exists, or its channel is ordered.
-- Announces what it is told to. `spawn` can do the same; but most spawns are alone, and this takes a sixth less time,
-- also because it returns nothing but how many it has stored.
INSERT INTO {schema}.job (id, channel, priority, due_at, placed, method, url, headers, body, accept, timeout,
                          follow_redirects, retry, awaited)
SELECT %(id)s::pg_catalog.uuid, %(channel)s::pg_catalog.text, %(priority)s::smallint,
       pg_catalog.now() OPERATOR(pg_catalog.+) (%(delay)s::double precision OPERATOR(pg_catalog.*) interval '1 second'),
       true, %(method)s::pg_catalog.text, %(url)s::pg_catalog.text, %(headers)s::pg_catalog.json,
       %(body)s::pg_catalog.bytea, %(accept)s::pg_catalog.int4multirange, %(timeout)s::double precision,
       %(follow_redirects)s::boolean, %(retry)s::pg_catalog.jsonb, %(awaited)s::boolean
FROM (SELECT {schema}.announce(%(topic)s::pg_catalog.text, %(announced)s::pg_catalog.text)) AS announced
WHERE NOT EXISTS (SELECT FROM {schema}.channel
                  WHERE name OPERATOR(pg_catalog.=) %(channel)s::pg_catalog.text AND ordered)
ON CONFLICT (id) DO NOTHING;


-- name: spawn_claimed
-- Store one such job as claimed, by a process that can send it at once: nobody else need know of it. Nothing is stored
-- for a process that is not registered (any more).
INSERT INTO {schema}.job (id, channel, priority, due_at, placed, method, url, headers, body, accept, timeout,
                          follow_redirects, retry, awaited, state, attempts, worker, claim, claimed_at)
SELECT %(id)s::pg_catalog.uuid, %(channel)s::pg_catalog.text, %(priority)s::smallint, pg_catalog.now(), true,
       %(method)s::pg_catalog.text, %(url)s::pg_catalog.text, %(headers)s::pg_catalog.json, %(body)s::pg_catalog.bytea,
       %(accept)s::pg_catalog.int4multirange, %(timeout)s::double precision, %(follow_redirects)s::boolean,
       %(retry)s::pg_catalog.jsonb, %(awaited)s::boolean, 'running', 1, worker.id, %(claim)s::pg_catalog.uuid,
       pg_catalog.now()
FROM {schema}.worker
WHERE worker.id OPERATOR(pg_catalog.=) %(worker)s::pg_catalog.uuid
  AND NOT EXISTS (SELECT FROM {schema}.channel
                  WHERE name OPERATOR(pg_catalog.=) %(channel)s::pg_catalog.text AND ordered)
ON CONFLICT (id) DO NOTHING;


-- name: spawn
-- Store jobs without an ordering key, each once. Jobs of ordered channels are left out and these channels returned, so
-- that the caller can store them with their key; and with them the time from which delays count. Announces what it is
-- told to. The arrays are taken apart side by side in the select list, because a function in FROM would write all rows
-- down before the first is used. If some exist already, it writes something all the same: a commit that has written
-- nothing would not wait for a synchronous replica, which the first try may have been broken off in waiting for.
WITH ordered AS MATERIALIZED (
    SELECT name FROM {schema}.channel
    WHERE ordered AND name OPERATOR(pg_catalog.=) ANY (%(channels)s::pg_catalog.text[])
), stored AS (
    INSERT INTO {schema}.job (id, channel, priority, due_at, placed, method, url, headers, body, accept, timeout,
                              follow_redirects, retry, awaited)
    SELECT id, channel, priority,
           coalesce(at, pg_catalog.now() OPERATOR(pg_catalog.+) (delay OPERATOR(pg_catalog.*) interval '1 second')),
           true, method, url, headers, body, accept, timeout, follow_redirects, retry, awaited
    FROM (SELECT pg_catalog.unnest(%(id)s::pg_catalog.uuid[]) AS id,
                 pg_catalog.unnest(%(channel)s::pg_catalog.text[]) AS channel,
                 pg_catalog.unnest(%(priority)s::smallint[]) AS priority,
                 pg_catalog.unnest(%(at)s::pg_catalog.timestamptz[]) AS at,
                 pg_catalog.unnest(%(delay)s::double precision[]) AS delay,
                 pg_catalog.unnest(%(method)s::pg_catalog.text[]) AS method,
                 pg_catalog.unnest(%(url)s::pg_catalog.text[]) AS url,
                 pg_catalog.unnest(%(headers)s::pg_catalog.json[]) AS headers,
                 pg_catalog.unnest(%(body)s::pg_catalog.bytea[]) AS body,
                 pg_catalog.unnest(%(accept)s::pg_catalog.int4multirange[]) AS accept,
                 pg_catalog.unnest(%(timeout)s::double precision[]) AS timeout,
                 pg_catalog.unnest(%(follow_redirects)s::boolean[]) AS follow_redirects,
                 pg_catalog.unnest(%(retry)s::pg_catalog.jsonb[]) AS retry,
                 pg_catalog.unnest(%(awaited)s::boolean[]) AS awaited) AS input
    WHERE channel OPERATOR(pg_catalog.<>) ALL (ARRAY(SELECT name FROM ordered))
    ON CONFLICT (id) DO NOTHING
    RETURNING 1
)
SELECT (SELECT pg_catalog.json_agg(name) FROM ordered) AS ordered, extract(epoch FROM pg_catalog.now()) AS now,
       {schema}.announce(%(topic)s::pg_catalog.text, %(announced)s::pg_catalog.text)::pg_catalog.text AS announced,
       CASE WHEN (SELECT pg_catalog.count(*) FROM stored)
                 OPERATOR(pg_catalog.<) pg_catalog.cardinality(%(id)s::pg_catalog.uuid[])
            THEN CASE WHEN (SELECT pg_catalog.count(*) FROM stored) OPERATOR(pg_catalog.<) (
                               SELECT pg_catalog.count(*)
                               FROM pg_catalog.unnest(%(channel)s::pg_catalog.text[]) AS channel
                               WHERE channel OPERATOR(pg_catalog.<>) ALL (ARRAY(SELECT name FROM ordered)))
                      THEN pg_catalog.pg_logical_emit_message(true, 'requeuest'::pg_catalog.text, ''::pg_catalog.text)
                 END END AS written;


-- name: not_stored
-- Those of these jobs that are not there.
SELECT wanted.id FROM pg_catalog.unnest(%(ids)s::pg_catalog.uuid[]) AS wanted (id)
WHERE NOT EXISTS (SELECT FROM {schema}.job WHERE job.id OPERATOR(pg_catalog.=) wanted.id);


-- name: announce
-- Tell listening processes of channels with something due.
SELECT {schema}.announce(%(topic)s::pg_catalog.text, %(announced)s::pg_catalog.text)::pg_catalog.text AS announced;


-- name: make_room_for_notifications
-- Let PostgreSQL forget the notifications that everybody has heard: once its queue is full, it does that in no other way.
SELECT pg_catalog.pg_notification_queue_usage();


-- name: ordered_channels
-- Which of these channels are ordered as a whole, whatever keys their jobs were given.
SELECT name FROM {schema}.channel
WHERE ordered AND name OPERATOR(pg_catalog.=) ANY (%(channels)s::pg_catalog.text[]);


-- name: lock_keys
-- Take the locks of ordering keys until the end of the transaction, in one order for everybody. Tells the isolation
-- level, because what follows must see what was committed before the locks were had.
SELECT pg_catalog.current_setting('transaction_isolation'::pg_catalog.text) AS isolation,
       pg_catalog.count(pg_catalog.pg_advisory_xact_lock(lock)) AS locks
FROM (SELECT DISTINCT {schema}.key_lock(channel, ordering_key) AS lock
      FROM ROWS FROM (pg_catalog.unnest(%(channels)s::pg_catalog.text[]),
                      pg_catalog.unnest(%(keys)s::pg_catalog.text[])) AS keys (channel, ordering_key)
      ORDER BY lock) AS ordered;


-- name: wait_for_keys_briefly
-- How long the next statements of this transaction wait for the locks of ordering keys, which an application's own
-- transaction may hold for as long as it likes.
SELECT set_config('lock_timeout', round(1000 * least(0.5, nullif(extract(epoch FROM lock_timeout), 0)))::text,
                  true)
FROM CAST(current_setting('lock_timeout') AS interval) AS lock_timeout;


-- name: try_keys
-- Take those locks of ordering keys that nobody else has now, and return their keys.
SELECT channel, ordering_key
FROM ROWS FROM (pg_catalog.unnest(%(channels)s::pg_catalog.text[]),
                pg_catalog.unnest(%(keys)s::pg_catalog.text[])) AS keys (channel, ordering_key)
WHERE pg_catalog.pg_try_advisory_xact_lock({schema}.key_lock(channel, ordering_key));


-- name: key_holders
-- Who has the locks of ordering keys, in words.
SELECT DISTINCT pg_catalog.format('process %%s of %%s', pg_locks.pid, coalesce(usename, 'an unknown role'))
FROM pg_catalog.pg_locks LEFT JOIN pg_catalog.pg_stat_activity ON pg_stat_activity.pid = pg_locks.pid
WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
  AND (classid::bigint << 32) | objid::bigint IN (
      SELECT {schema}.key_lock(channel, ordering_key)
      FROM unnest(%(channels)s::text[], %(keys)s::text[]) AS keys (channel, ordering_key))
ORDER BY 1 LIMIT 3;


-- name: spawn_ordered
-- Store jobs with an ordering key, each once, under their keys' locks: the first of a key that has no unfinished job
-- is available, all others are blocked. Returns the channels of those that are available, also if they were stored
-- before, and in how many seconds they are due. If some exist already, it writes something all the same; see `spawn`.
WITH placed AS MATERIALIZED (
    SELECT *, pg_catalog.row_number() OVER (PARTITION BY channel, ordering_key ORDER BY place) OPERATOR(pg_catalog.>) 1
        OR EXISTS (SELECT FROM {schema}.job AS head
                   WHERE head.channel OPERATOR(pg_catalog.=) input.channel
                     AND head.ordering_key OPERATOR(pg_catalog.=) input.ordering_key AND head.ordering_key IS NOT NULL
                     AND head.state OPERATOR(pg_catalog.=) ANY ('{held,available,running}'::{schema}.job_state[]))
        OR EXISTS (SELECT FROM {schema}.job AS behind
                   WHERE behind.channel OPERATOR(pg_catalog.=) input.channel
                     AND behind.ordering_key OPERATOR(pg_catalog.=) input.ordering_key
                     AND behind.state OPERATOR(pg_catalog.=) 'blocked'::{schema}.job_state) AS is_blocked
    FROM ROWS FROM (
        pg_catalog.unnest(%(id)s::pg_catalog.uuid[]), pg_catalog.unnest(%(channel)s::pg_catalog.text[]),
        pg_catalog.unnest(%(priority)s::smallint[]), pg_catalog.unnest(%(at)s::pg_catalog.timestamptz[]),
        pg_catalog.unnest(%(delay)s::double precision[]), pg_catalog.unnest(%(ordering_key)s::pg_catalog.text[]),
        pg_catalog.unnest(%(method)s::pg_catalog.text[]), pg_catalog.unnest(%(url)s::pg_catalog.text[]),
        pg_catalog.unnest(%(headers)s::pg_catalog.json[]), pg_catalog.unnest(%(body)s::pg_catalog.bytea[]),
        pg_catalog.unnest(%(accept)s::pg_catalog.int4multirange[]), pg_catalog.unnest(%(timeout)s::double precision[]),
        pg_catalog.unnest(%(follow_redirects)s::boolean[]), pg_catalog.unnest(%(retry)s::pg_catalog.jsonb[]),
        pg_catalog.unnest(%(awaited)s::boolean[])) WITH ORDINALITY
         AS input (id, channel, priority, at, delay, ordering_key, method, url, headers, body, accept, timeout,
                   follow_redirects, retry, awaited, place)
    -- By their ids whatever the plan: one that was made while there were few jobs, and is kept, would read all of them.
    WHERE input.id OPERATOR(pg_catalog.<>) ALL (
        ARRAY(SELECT same.id FROM {schema}.job AS same
              WHERE same.id OPERATOR(pg_catalog.=) ANY (%(id)s::pg_catalog.uuid[])))
    ORDER BY place
), stored AS (
    INSERT INTO {schema}.job (id, channel, state, priority, due_at, ordering_key, position, placed, method, url, headers,
                              body, accept, timeout, follow_redirects, retry, awaited)
    SELECT id, channel,
           CASE WHEN is_blocked THEN 'blocked'::{schema}.job_state ELSE 'available'::{schema}.job_state END, priority,
           coalesce(at, pg_catalog.now() OPERATOR(pg_catalog.+) (delay OPERATOR(pg_catalog.*) interval '1 second')),
           ordering_key, pg_catalog.nextval('{schema}.job_position'::pg_catalog.regclass), true,
           method, url, headers, body, accept, timeout, follow_redirects, retry, awaited
    FROM placed ORDER BY place
    ON CONFLICT (id) DO NOTHING
    RETURNING channel, due_at, state
), available AS (
    SELECT channel, due_at FROM stored WHERE state OPERATOR(pg_catalog.=) 'available'::{schema}.job_state
    UNION ALL
    -- Stored by an earlier call whose answer was lost, so that nobody was told of it.
    SELECT channel, {schema}.readable(due_at) FROM {schema}.job
    WHERE id OPERATOR(pg_catalog.=) ANY (%(id)s::pg_catalog.uuid[])
      AND state::pg_catalog.text OPERATOR(pg_catalog.=) 'available'::pg_catalog.text
), waits AS (
    SELECT channel,
           extract(epoch FROM greatest(due_at, pg_catalog.now()) OPERATOR(pg_catalog.-) pg_catalog.now()) AS wait
    FROM available
)
SELECT pg_catalog.json_agg(DISTINCT pg_catalog.jsonb_build_array(channel, wait)) AS waits,
       CASE WHEN (SELECT pg_catalog.count(*) FROM stored)
                 OPERATOR(pg_catalog.<) pg_catalog.cardinality(%(id)s::pg_catalog.uuid[])
            THEN pg_catalog.pg_logical_emit_message(true, 'requeuest'::pg_catalog.text, ''::pg_catalog.text) END
           AS written
FROM waits;


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
    WHERE EXISTS (SELECT FROM {schema}.worker WHERE id = %(worker)s)
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
    RETURNING id, channel, ordering_key, attempts, method, url, headers::text,
              CASE WHEN id = ANY (ARRAY(SELECT id FROM picked WHERE is_large)) THEN NULL ELSE body END, accept::text,
              timeout, follow_redirects, retry::text, awaited
)
SELECT taken.*, (SELECT count(*) FROM due) > (SELECT count(*) FROM picked) AS is_cut, false AS is_broken FROM taken
UNION ALL
SELECT id, channel, NULL, 0, '', '', '', NULL, '', NULL, false, NULL, false, true, true FROM picked WHERE is_broken;


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


-- name: record
-- Write the outcomes of attempts. One counts only if its job is still running under the same claim; what else comes
-- is left out, and so can be repeated. Returns what was left out; tells waiting processes. An answer of which a part is
-- `kept`, because nobody waited for it when the job was claimed, is not written if somebody waits by now: then the job
-- is returned apart.
WITH input AS MATERIALIZED (
    SELECT * FROM ROWS FROM (
        json_to_recordset(%(rows)s::json) AS (
            id uuid, claim uuid, state text, retry_in double precision, reached text, status integer, error text,
            headers text, truncated boolean, kept integer, ago double precision, duration double precision),
        unnest(%(bodies)b::bytea[])
    ) AS r (id, claim, state, retry_in, reached, status, error, headers, truncated, kept, ago, duration, body)
), current AS MATERIALIZED (
    -- By their ids whatever the join: a plan that was made while there were few jobs, and is kept, would otherwise read
    -- all of them. Only what is running has a claim; to name the state would have PostgreSQL look through all that is.
    SELECT job.id, job.awaited FROM {schema}.job JOIN input ON job.id = input.id AND job.claim = input.claim
    WHERE job.id = ANY (ARRAY(SELECT id FROM input)) ORDER BY job.id FOR UPDATE OF job
), wanted AS (
    SELECT id FROM current JOIN input USING (id) WHERE awaited AND kept IS NOT NULL
), recorded AS (
    UPDATE {schema}.job
    SET state = input.state::{schema}.job_state,
        due_at = CASE WHEN input.state = 'available'
                      THEN statement_timestamp() + input.retry_in * interval '1 second' ELSE due_at END,
        finished_at = CASE WHEN input.state <> 'available' THEN statement_timestamp() END,
        worker = NULL, claim = NULL, claimed_at = NULL,
        status = input.status, error = input.error,
        response_headers = CASE WHEN input.state = 'succeeded' THEN input.headers::json END,
        response_body = CASE WHEN input.state <> 'succeeded' THEN NULL
                             WHEN input.kept IS NULL THEN input.body ELSE substr(input.body, 1, input.kept) END,
        response_truncated = CASE WHEN input.state = 'succeeded' THEN input.truncated END
    FROM current JOIN input USING (id)
    WHERE job.id = current.id AND job.claim = input.claim AND NOT (current.awaited AND input.kept IS NOT NULL)
    RETURNING job.id, job.attempts, job.state, job.due_at, job.awaited, input.claim
), logged AS (
    INSERT INTO {schema}.attempt (job_id, number, started_at, duration, reached, status, error, excerpt, retry_at)
    SELECT recorded.id, recorded.attempts, statement_timestamp() - input.ago * interval '1 second', input.duration,
           input.reached, input.status, input.error, substr(input.body, 1, %(excerpt)s),
           CASE WHEN recorded.state = 'available' THEN recorded.due_at END
    FROM recorded JOIN input USING (id, claim)
    ON CONFLICT (job_id, number) DO NOTHING
), awaited AS (
    SELECT string_agg(id::text, ',') AS ids FROM recorded WHERE awaited AND state <> 'available'
)
SELECT ARRAY(SELECT id FROM input EXCEPT SELECT id FROM recorded EXCEPT SELECT id FROM wanted) AS stale,
       ARRAY(SELECT id FROM wanted) AS wanted,
       (SELECT {schema}.announce(%(topic)s, ids)::text FROM awaited) AS announced;


-- name: unblock
-- Make the next job of each given ordering key available, unless the key has an unfinished head, and announce it if
-- a topic is given. Needs the keys' locks, so that no successor is overlooked that is being added just now.
WITH next AS MATERIALIZED (
    SELECT blocked.id
    FROM (SELECT DISTINCT channel, ordering_key
          FROM unnest(%(channels)s::text[], %(keys)s::text[]) AS k (channel, ordering_key)) AS key
    CROSS JOIN LATERAL (
        SELECT id FROM {schema}.job
        WHERE job.channel = key.channel AND job.ordering_key = key.ordering_key AND state = 'blocked'
        ORDER BY position LIMIT 1) AS blocked
    WHERE NOT EXISTS (SELECT FROM {schema}.job AS head
                      WHERE head.channel = key.channel AND head.ordering_key = key.ordering_key
                        AND head.ordering_key IS NOT NULL AND head.state IN ('held', 'available', 'running'))
    ORDER BY blocked.id
), unblocked AS (
    UPDATE {schema}.job SET state = 'available' FROM next WHERE job.id = next.id AND state = 'blocked'
    RETURNING channel, due_at
), channels AS MATERIALIZED (
    -- Readable, because PostgreSQL before 17 can't tell how long it is until a due time that another program has set to
    -- infinity; and then the outcome of the job before it could not be recorded.
    SELECT channel,
           extract(epoch FROM greatest({schema}.readable(min(due_at)), now()) - now())::double precision AS wait
    FROM unblocked GROUP BY channel
), announced AS MATERIALIZED (
    SELECT {schema}.announce(%(topic)s, json_object_agg(channel, wait)::text) FROM channels
)
SELECT channel, wait FROM channels WHERE (SELECT count(*) FROM announced) = 1;


-- name: locked_jobs
-- Those of the jobs whose rows another transaction has locked.
WITH free AS MATERIALIZED (
    SELECT id FROM {schema}.job WHERE id = ANY (%(ids)s::uuid[]) ORDER BY id FOR UPDATE SKIP LOCKED
)
SELECT id FROM {schema}.job WHERE id = ANY (%(ids)s::uuid[]) AND NOT EXISTS (SELECT FROM free WHERE free.id = job.id);


-- name: stranded_keys
-- Ordering keys whose jobs wait behind nobody: possible only if another program removed or changed rows, or while
-- migration 0002 was applied. Looks at the
-- 1,000 keys after the one given, however many there are; the last of these comes too, as where to go on.
WITH RECURSIVE step AS (
    (SELECT channel, ordering_key, 1 AS number FROM {schema}.job
     WHERE state = 'blocked' AND (channel, ordering_key) > (%(channel)s, %(key)s)
     ORDER BY channel, ordering_key LIMIT 1)
    UNION ALL
    SELECT next.channel, next.ordering_key, step.number + 1
    FROM step CROSS JOIN LATERAL (
        SELECT channel, ordering_key FROM {schema}.job
        WHERE state = 'blocked' AND (channel, ordering_key) > (step.channel, step.ordering_key)
        ORDER BY channel, ordering_key LIMIT 1) AS next
    WHERE step.number < 1000
), seen AS (
    SELECT channel, ordering_key, number = 1000 AS is_last,
           NOT EXISTS (SELECT FROM {schema}.job AS head
                       WHERE head.channel = step.channel AND head.ordering_key = step.ordering_key
                         AND head.ordering_key IS NOT NULL
                         AND head.state IN ('held', 'available', 'running')) AS is_stranded
    FROM step
)
SELECT channel, ordering_key, is_stranded, is_last FROM seen WHERE is_stranded OR is_last;


-- name: held_claims
-- The claims under which a process holds jobs.
SELECT DISTINCT claim FROM {schema}.job WHERE worker = %(worker)s AND state = 'running';


-- name: release
-- Give back jobs of a process, by their claims, or single ones by their ids and claims (or all of them, if none are
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


-- name: register
-- Announce this process as alive, so that it may claim. Tells the database's clock, in seconds since 1970.
INSERT INTO {schema}.worker (id, lease, host, pid)
VALUES (%(worker)s, %(lease)s * interval '1 second', %(host)s, %(pid)s)
ON CONFLICT (id) DO UPDATE SET seen_at = now()
RETURNING extract(epoch FROM clock_timestamp())::double precision;


-- name: heartbeat
-- Renew the lease of everything that this process holds, and tell the database's clock. No row: the lease was lost.
UPDATE {schema}.worker SET seen_at = now() WHERE id = %(worker)s
RETURNING extract(epoch FROM clock_timestamp())::double precision;


-- name: deregister
-- Say that this process holds nothing any more.
DELETE FROM {schema}.worker WHERE id = %(worker)s;


-- name: signs_of_life
-- When each process was seen last, as text because any value may stand there, and the seconds of its lease. Which of them
-- are lost is seen only from how long these stay the same: the clock that they were written by may be set at any time.
SELECT id, seen_at::text, least(greatest(extract(epoch FROM lease), 0), 3600)::double precision
FROM {schema}.worker ORDER BY id LIMIT 10000;


-- name: rescue
-- Give jobs of lost processes to others, up to 1,000 at a time: of those that are not registered, and of those that are
-- named, as long as they have not been seen since. The attempt counts, because it may have been sent.
-- Nothing is done for a rescuer that was not seen of late itself: then the database stood still, and all look lost.
-- What another transaction has locked is passed over before it is counted. A job is taken only if the claim that was
-- locked is the one that was found lost: it may meanwhile have been given to a process that lives.
WITH locked AS MATERIALIZED (
    SELECT id, claim FROM {schema}.job
    WHERE state = 'running'
      AND NOT EXISTS (SELECT FROM {schema}.worker
                      WHERE worker.id = job.worker
                        AND NOT EXISTS (SELECT FROM unnest(%(lost)s::uuid[], %(seen)s::timestamptz[]) AS lost (id, seen_at)
                                        WHERE lost.id = worker.id AND lost.seen_at = worker.seen_at))
      AND (%(rescuer)s::uuid IS NULL
           OR EXISTS (SELECT FROM {schema}.worker WHERE worker.id = %(rescuer)s AND seen_at + lease / 2 >= now()))
    LIMIT 1000 FOR UPDATE OF job SKIP LOCKED
), lost AS MATERIALIZED (
    -- Not locked here, so that this is the row as it was before.
    SELECT job.id FROM {schema}.job JOIN locked ON job.id = locked.id AND job.claim = locked.claim
), logged AS (
    INSERT INTO {schema}.attempt (job_id, number, started_at, duration, reached, error, retry_at)
    SELECT id, attempts, claimed_at, greatest(extract(epoch FROM now() - claimed_at), 0), 'unknown', %(error)s, now()
    FROM lost JOIN {schema}.job USING (id)
    ON CONFLICT (job_id, number) DO NOTHING
), rescued AS (
    UPDATE {schema}.job
    -- Where it was in the queue, and not behind all that has come since; unless the clock was put back meanwhile. But a
    -- job that is lost again and again may be what its processes die of: others are to be sent before it.
    SET state = 'available', error = %(error)s, worker = NULL, claim = NULL,
        claimed_at = NULL,
        due_at = CASE WHEN (SELECT count(*) FROM {schema}.attempt WHERE job_id = job.id AND reached = 'unknown') < 2
                      THEN least(due_at, now()) ELSE now() END
    FROM lost WHERE job.id = lost.id
    RETURNING channel
), announced AS (
    SELECT json_object_agg(channel, 0)::text AS channels FROM (SELECT DISTINCT channel FROM rescued) AS channels
)
SELECT (SELECT count(*) FROM rescued) AS rescued,
       (SELECT {schema}.announce(%(topic)s, channels)::text FROM announced) AS announced;


-- name: forget_workers
-- Remove processes that are lost and hold nothing, as long as they have not been seen since.
DELETE FROM {schema}.worker
USING unnest(%(lost)s::uuid[], %(seen)s::timestamptz[]) AS lost (id, seen_at)
WHERE worker.id = lost.id AND worker.seen_at = lost.seen_at
  AND NOT EXISTS (SELECT FROM {schema}.job WHERE job.worker = worker.id AND state = 'running');


-- name: bring_back
-- After the database's clock was put back: make due as soon as if it were written now what was written in the time that
-- is still to come, up to 1,000 jobs at a time: those that were due when they were stored, and those to be tried again.
-- A time that the application has asked for stays. Tells, and returns, the channels, and in how many seconds they are due.
WITH waiting AS (
    SELECT id, due_at, created_at FROM {schema}.job
    WHERE state = 'available' AND due_at > now() + interval '1 second' AND due_at < 'infinity'
    UNION ALL
    SELECT id, due_at, created_at FROM {schema}.job
    WHERE state = 'blocked' AND due_at > now() + interval '1 second' AND due_at < 'infinity'
), ahead AS MATERIALIZED (
    SELECT waiting.id, CASE WHEN tried.is_ahead THEN greatest(waiting.due_at - tried.ended_at, interval '0')
                            ELSE interval '0' END AS pause
    FROM waiting LEFT JOIN LATERAL (
        SELECT ended_at, ended_at > now() + interval '1 second' AS is_ahead
        FROM {schema}.attempt CROSS JOIN LATERAL (
            SELECT {schema}.readable(started_at) + least(greatest(duration, 0), 3600) * interval '1 second' AS ended_at
        ) AS ended
        WHERE job_id = waiting.id AND retry_at = waiting.due_at
        ORDER BY number DESC LIMIT 1) AS tried ON true
    WHERE tried.is_ahead
       OR (waiting.due_at = waiting.created_at AND waiting.created_at > now() + interval '1 second')
    LIMIT 1000
), locked AS MATERIALIZED (
    SELECT job.id, pause FROM {schema}.job JOIN ahead USING (id) ORDER BY ahead.id FOR UPDATE OF job SKIP LOCKED
), back AS (
    UPDATE {schema}.job SET due_at = least(due_at, now() + pause), created_at = least(created_at, now())
    FROM locked WHERE job.id = locked.id AND state IN ('available', 'blocked')
    RETURNING channel, state, due_at
), channels AS MATERIALIZED (
    SELECT channel, extract(epoch FROM greatest(min(due_at), now()) - now())::double precision AS wait
    FROM back WHERE state = 'available' GROUP BY channel
)
SELECT (SELECT count(*) FROM back) AS jobs, (SELECT json_object_agg(channel, wait)::text FROM channels) AS waits,
       (SELECT {schema}.announce(%(topic)s, json_object_agg(channel, wait)::text)::text FROM channels) AS announced;


-- name: prune
-- Remove finished jobs and their attempts once they are old enough, up to 1,000 at a time; none if the clock is later
-- than it can be, for then it was set, and all look old.
WITH old AS MATERIALIZED (
    SELECT id FROM {schema}.job
    WHERE state = %(state)s AND finished_at < now() - %(keep)s * interval '1 second'
      AND extract(epoch FROM now()) <= %(latest)s::double precision
    ORDER BY finished_at LIMIT 1000 FOR UPDATE SKIP LOCKED
), attempts AS (
    DELETE FROM {schema}.attempt USING old WHERE attempt.job_id = old.id
), removed AS (
    DELETE FROM {schema}.job USING old WHERE job.id = old.id RETURNING job.id
)
SELECT count(*) FROM removed;


-- name: clock
-- The time that decides.
SELECT clock_timestamp();


-- name: clear
-- Remove jobs that have no ordering key and are not running, up to 10,000 at a time.
WITH cleared AS MATERIALIZED (
    SELECT id FROM {schema}.job
    WHERE state <> 'running' AND (%(channels)s::text[] IS NULL OR channel = ANY (%(channels)s::text[]))
      AND ordering_key IS NULL AND created_at <= %(before)s
    LIMIT 10000 FOR UPDATE SKIP LOCKED
), attempts AS (
    DELETE FROM {schema}.attempt USING cleared WHERE attempt.job_id = cleared.id
), removed AS (
    DELETE FROM {schema}.job USING cleared WHERE job.id = cleared.id RETURNING awaited, job.id
), awaited AS (
    SELECT string_agg(id::text, ',') AS ids FROM removed WHERE awaited
)
SELECT (SELECT count(*) FROM removed) AS removed,
       (SELECT {schema}.announce(%(topic)s, ids)::text FROM awaited) AS announced;


-- name: keys_to_clear
-- Ordering keys with jobs that are not running, up to 500 at a time.
SELECT DISTINCT channel, ordering_key FROM {schema}.job
WHERE state <> 'running' AND (%(channels)s::text[] IS NULL OR channel = ANY (%(channels)s::text[]))
  AND ordering_key IS NOT NULL AND created_at <= %(before)s
LIMIT 500;


-- name: clear_keys
-- Remove the jobs of ordering keys that are not running, up to 10,000 at a time, those behind others first. Needs
-- lock_keys, so that no job is added behind one that goes.
WITH cleared AS MATERIALIZED (
    SELECT job.id FROM {schema}.job
    JOIN unnest(%(channels)s::text[], %(keys)s::text[]) AS key (channel, ordering_key) USING (channel, ordering_key)
    WHERE state <> 'running' AND created_at <= %(before)s
    ORDER BY state <> 'blocked' LIMIT 10000 FOR UPDATE OF job SKIP LOCKED
), attempts AS (
    DELETE FROM {schema}.attempt USING cleared WHERE attempt.job_id = cleared.id
), removed AS (
    DELETE FROM {schema}.job USING cleared WHERE job.id = cleared.id RETURNING awaited, job.id
), awaited AS (
    SELECT string_agg(id::text, ',') AS ids FROM removed WHERE awaited
)
SELECT (SELECT count(*) FROM removed) AS removed,
       (SELECT {schema}.announce(%(topic)s, ids)::text FROM awaited) AS announced;


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


-- name: job
-- One job, but for what is larger than it may be, as an old queue can have it.
SELECT id, channel, state::text, priority, ordering_key, attempts,
       {schema}.readable(due_at), {schema}.readable(created_at), {schema}.readable(finished_at), status,
       left(error, 10000), method, left(url, 524288),
       CASE WHEN pg_column_size(headers) <= 524288 THEN headers::text ELSE '[]' END,
       CASE WHEN octet_length(body) <= 268435456 THEN body ELSE '' END,
       CASE WHEN pg_column_size(accept) <= 524288 THEN accept::text ELSE '{}' END, timeout, follow_redirects,
       CASE WHEN pg_column_size(response_headers) <= 2097152 THEN response_headers::text END,
       CASE WHEN octet_length(response_body) <= 268435456 THEN response_body END, response_truncated
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
SELECT id, channel, state::text, priority, ordering_key, attempts,
       {schema}.readable(due_at), {schema}.readable(created_at), {schema}.readable(finished_at), status,
       left(error, 10000), method, left(url, 524288),
       CASE WHEN pg_column_size(headers) <= 524288 THEN headers::text ELSE '[]' END,
       CASE WHEN octet_length(body) <= 268435456 THEN body ELSE '' END,
       CASE WHEN pg_column_size(accept) <= 524288 THEN accept::text ELSE '{}' END, timeout, follow_redirects,
       CASE WHEN pg_column_size(response_headers) <= 2097152 THEN response_headers::text END,
       CASE WHEN octet_length(response_body) <= 268435456 THEN response_body END, response_truncated
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


-- name: listen
-- Hear announcements. The topic is an identifier here, so it is filled in by the store.
LISTEN {topic};


-- name: listening
-- Which topics this connection hears: proves that it is alive, and still registered.
SELECT pg_listening_channels();


-- name: backend
-- Which of the server's processes answers.
SELECT pg_catalog.pg_backend_pid();


-- name: what_answers
-- Which of the server's processes answers, and for which database; with the version of the rules by which that compares
-- texts, as it was when its indexes were made, and as it is. Both are NULL where the rules never change. Names that the
-- database's encoding has no characters for are an error.
SELECT pg_backend_pid(), datname::text, datcollversion, pg_database_collation_actual_version(oid)
FROM pg_database WHERE datname = current_database() AND %(channels)s::text[] IS NOT NULL;


-- name: take_token
-- Hold an advisory lock until the end of the transaction, by which `is_free_token` knows the database.
SELECT pg_advisory_xact_lock(%(token)s::bigint);


-- name: is_free_token
-- Whether nobody holds that lock in this database.
SELECT pg_try_advisory_xact_lock(%(token)s::bigint);
