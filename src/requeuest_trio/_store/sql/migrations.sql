-- The journal of migrations, and what has to be sure before and after each.


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
