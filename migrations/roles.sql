-- The database's roles. A superuser runs this in the database, before its tables are made or after; twice is once:
--
--     psql -d turnstile -f migrations/roles.sql
--     DATABASE_URL=postgres://turnstile_migrator:…@HOST/turnstile admin migrate
--
-- Nobody logs in with a password who has none: `\password turnstile_functions`, and so on. All functions are one role: what it
-- and the reader may do to each table stands in rights.sql, which `admin migrate` gives them each time.
BEGIN;
SET LOCAL lock_timeout = '2s';

DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT format('CREATE ROLE %I %s', name, login) FROM (VALUES
            ('turnstile_owner', 'NOLOGIN'),    -- has the tables
            ('turnstile_migrator', 'LOGIN'),   -- makes and changes them: `admin migrate`
            ('turnstile_functions', 'LOGIN'),  -- the functions, and `admin` where it changes something
            ('turnstile_reader', 'LOGIN')      -- `admin` where it only looks, and reports
        ) AS role (name, login) WHERE to_regrole(name) IS NULL
    LOOP
        EXECUTE statement;
    END LOOP;
    -- What is there already, made by who ran the functions until now: ours, by name. Whatever else is in the schema is somebody
    -- else's. Whoever had `buyers` may go on filling it.
    FOR statement IN
        SELECT format('ALTER TABLE %1$s OWNER TO turnstile_owner', relation)
            || CASE name WHEN 'buyers' THEN format('; GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I', relation, rolname) ELSE '' END
        FROM unnest(ARRAY[
            '_sqlx_migrations', 'items', 'orders', 'order_history', 'payments', 'payment_pace', 'verdicts', 'verdict_walk', 'buyers',
            'outbox', 'outbox_failed', 'outbox_turn', 'redis_fence', 'order_walk', 'orders_gone'
        ]) AS name, to_regclass('public.' || name) AS relation, pg_class, pg_roles
        WHERE pg_class.oid = relation AND pg_roles.oid = relowner AND rolname <> 'turnstile_owner'
        UNION ALL
        SELECT format('ALTER ROUTINE %s OWNER TO turnstile_owner', routine)
        FROM unnest(ARRAY[
            'take_if_enough(bigint, bigint, bigint)', 'units_left(bigint, bigint)', 'rfc3339(timestamptz)',
            'refuse_until_restored()', 'hold_until_restored(boolean)'
        ]) AS name, to_regprocedure('public.' || name) AS routine, pg_proc
        WHERE pg_proc.oid = routine AND proowner <> 'turnstile_owner'::regrole
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;

GRANT turnstile_owner TO turnstile_migrator;

-- Until PostgreSQL 15 everybody may make tables there. Who else has to, needs a grant of their own.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO turnstile_owner;
GRANT USAGE ON SCHEMA public TO turnstile_functions, turnstile_reader;

-- Whether a session that keeps a row locked is idle, and since when: for the log. It may be left out.
GRANT pg_read_all_stats TO turnstile_functions;
COMMIT;
