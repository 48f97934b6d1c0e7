-- The functions need not own their tables any more: the one thing for which they had to is done by a function that runs as the
-- owner. (Who may do what else: roles.sql and rights.sql. Functions of versions before this one still enable and disable the
-- triggers by themselves, which their role may for as long as the tables are its own.)

-- Has all functions hold their messages (0011), or go on. Tables in the order in which functions lock them. Its search path is
-- its own, so that nobody who calls it can have it find other tables.
DO $do$
BEGIN
    EXECUTE format($create$
        CREATE FUNCTION hold_until_restored(is_held boolean) RETURNS void
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = %I, pg_temp AS $$
        BEGIN
            IF is_held THEN
                ALTER TABLE payments ENABLE TRIGGER refuse_until_restored;
                ALTER TABLE outbox ENABLE TRIGGER refuse_until_restored;
                ALTER TABLE verdicts ENABLE TRIGGER refuse_until_restored;
            ELSE
                ALTER TABLE payments DISABLE TRIGGER refuse_until_restored;
                ALTER TABLE outbox DISABLE TRIGGER refuse_until_restored;
                ALTER TABLE verdicts DISABLE TRIGGER refuse_until_restored;
            END IF;
        END
        $$
    $create$, current_schema());
END
$do$;

REVOKE EXECUTE ON FUNCTION hold_until_restored(boolean) FROM PUBLIC;
