-- The database's roles. A superuser runs this in the database, before its tables are made or after; twice is once:
--
--     psql -d turnstile -f migrations/roles.sql
--     DATABASE_URL=postgres://turnstile_migrator:…@HOST/turnstile admin migrate
--
-- Nobody logs in with a password who has none: `\password turnstile_functions`, and so on. All functions are one role: what it
-- may do to each table stands in rights.sql, which `admin migrate` gives it each time.
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
    -- What is there already, made by who ran the functions until now.
    FOR statement IN
        SELECT format('ALTER TABLE %s OWNER TO turnstile_owner', oid::regclass) FROM pg_class AS found
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relowner <> 'turnstile_owner'::regrole
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = found.oid AND deptype = 'e')
        UNION ALL
        SELECT format('ALTER ROUTINE %s OWNER TO turnstile_owner', oid::regprocedure) FROM pg_proc AS found
        WHERE pronamespace = 'public'::regnamespace AND proowner <> 'turnstile_owner'::regrole
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = found.oid AND deptype = 'e')
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;

GRANT turnstile_owner TO turnstile_migrator;

-- Until PostgreSQL 15 everybody may make tables there.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO turnstile_owner;
GRANT USAGE ON SCHEMA public TO turnstile_functions, turnstile_reader;

GRANT SELECT ON ALL TABLES IN SCHEMA public TO turnstile_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE turnstile_owner IN SCHEMA public GRANT SELECT ON TABLES TO turnstile_reader;

-- Whether a session that keeps a row locked is idle, and since when: for the log. It may be left out.
GRANT pg_read_all_stats TO turnstile_functions;
COMMIT;
