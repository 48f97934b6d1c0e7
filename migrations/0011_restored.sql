-- How it is noticed that the database was set back (a backup was restored, or a standby took over that lacked the last
-- commits), and what keeps the functions from going on as if nothing had happened.

-- Whoever waits for a table as a whole has everybody behind them wait: given up soon, and tried again.
SET LOCAL lock_timeout = '2s';

-- The relay's mark, which it moves on when it has published something, here first and then in RabbitMQ. So a database whose
-- mark is before RabbitMQ's is an older one. One that never had a mark gets one of now: a new shop beside an old broker.
ALTER TABLE outbox_turn ADD COLUMN marked_at timestamptz NOT NULL DEFAULT now();

-- Enabled by the relay that notices, disabled by `admin restored`. In between no function can record anything, nor asks a
-- payment gateway, so each holds its messages, as in an outage. While they are disabled they cost nothing. For each row: a
-- statement on nothing, as a worker makes at its start, is refused nothing.
CREATE FUNCTION refuse_until_restored() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'it is older than what RabbitMQ has seen, as after a backup is restored: see what `admin audit --known` '
        'names, then say `admin restored`'
        USING ERRCODE = 'object_not_in_prerequisite_state';
END
$$;

CREATE TRIGGER refuse_until_restored BEFORE INSERT OR UPDATE ON payments
FOR EACH ROW EXECUTE FUNCTION refuse_until_restored();
ALTER TABLE payments DISABLE TRIGGER refuse_until_restored;

CREATE TRIGGER refuse_until_restored BEFORE INSERT ON outbox
FOR EACH ROW EXECUTE FUNCTION refuse_until_restored();
ALTER TABLE outbox DISABLE TRIGGER refuse_until_restored;

CREATE TRIGGER refuse_until_restored BEFORE INSERT ON verdicts
FOR EACH ROW EXECUTE FUNCTION refuse_until_restored();
ALTER TABLE verdicts DISABLE TRIGGER refuse_until_restored;
