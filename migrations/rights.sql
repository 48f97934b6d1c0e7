-- What the functions may do to each table, and no more. `admin migrate` runs this where roles.sql was run, and each function
-- looks at its start whether its role, whatever it is called, may do it all. A row is locked by who may UPDATE it.
-- The reader gets what `admin` shows and audits, among it payment methods and replies; who the buyers are is not.
GRANT SELECT ON _sqlx_migrations, items, orders, order_history, payments, payment_pace, verdicts, verdict_walk, outbox,
    outbox_failed, outbox_turn, redis_fence, order_walk, orders_gone TO turnstile_reader;
GRANT SELECT ON _sqlx_migrations TO turnstile_functions;
GRANT SELECT, INSERT, UPDATE ON items TO turnstile_functions;
-- Orders are deleted where their time is past, as verdicts are.
GRANT SELECT, INSERT, UPDATE, DELETE ON orders TO turnstile_functions;
GRANT SELECT, INSERT, DELETE ON order_history TO turnstile_functions;
GRANT SELECT, INSERT, UPDATE, DELETE ON payments TO turnstile_functions;
GRANT SELECT, UPDATE ON order_walk TO turnstile_functions;
GRANT SELECT, INSERT, UPDATE ON orders_gone TO turnstile_functions;
GRANT SELECT, UPDATE ON payment_pace TO turnstile_functions;
-- No function changes a verdict (`admin forget` does, as the owner); it is deleted when its time is past.
GRANT SELECT, INSERT, DELETE ON verdicts TO turnstile_functions;
GRANT SELECT, UPDATE ON verdict_walk TO turnstile_functions;
-- Kept by whoever knows the buyers, by a role of its own.
GRANT SELECT ON buyers TO turnstile_functions;
GRANT SELECT, INSERT, DELETE ON outbox TO turnstile_functions;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox_failed TO turnstile_functions;
GRANT SELECT, UPDATE ON outbox_turn TO turnstile_functions;
GRANT SELECT, UPDATE ON redis_fence TO turnstile_functions;
-- A restored database may have lost this.
REVOKE EXECUTE ON FUNCTION hold_until_restored(boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION hold_until_restored(boolean) TO turnstile_functions;
