-- What the payment function reads and writes: which orders are being paid for, by which request, and how it ended.

-- The payment of an order: the one under way, or the last one. The gateway is asked with the order's id as its key, so
-- however often it is asked, and by whom, an order is charged once.
CREATE TABLE payments (
    order_id       uuid PRIMARY KEY REFERENCES orders (id),
    -- The request that pays: while it is under way, no other may.
    request_id     text COLLATE "C" NOT NULL,
    -- Of the request's content: its verdict is recorded under it, by whoever ends the payment.
    fingerprint    uuid NOT NULL,
    payment_method text COLLATE "C" NOT NULL,
    -- When somebody last began to ask the gateway, by the database's clock.
    asked_at       timestamptz NOT NULL,
    -- Whether the gateway may have been asked and the outcome is not committed. It says so even where the order was taken
    -- out of the state `paying` by hand: then, too, the request asks again, and a charge is found and refunded.
    is_under_way   boolean NOT NULL DEFAULT true,
    -- The gateway's name for the charge, once it is captured.
    charge_id      text COLLATE "C"
) WITH (
    -- Written once and updated soon after, like orders.
    fillfactor = 80, vacuum_truncate = off,
    autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_threshold = 10000, autovacuum_vacuum_insert_scale_factor = 0.02
);

-- A request's id is no verdict's while its payment is under way, so the verdicts do not keep two orders from being paid for
-- under one id. This does.
CREATE UNIQUE INDEX a_request_pays_for_one_order ON payments (request_id) WHERE is_under_way;

-- Orders that are being paid for: few, and gone from here once that is over. A payment whose message was lost (somebody
-- purged the queue) is found by it, so that no unit is held for ever.
CREATE INDEX orders_being_paid ON orders (id) WHERE state = 'paying';

-- A payment has three more transitions, each named by the request that pays.
ALTER TABLE order_history DROP CONSTRAINT transition_is_allowed;
ALTER TABLE order_history ADD CONSTRAINT transition_is_allowed CHECK ((from_state, to_state, cause) IN (
    ('reserved', 'expired', 'hold_passed'),
    ('reserved', 'cancelled', 'cancel'),
    ('reserved', 'paying', 'payment_begun'),
    ('paying', 'paid', 'payment_captured'),
    ('paying', 'reserved', 'payment_declined')
)) NOT VALID;
ALTER TABLE order_history DROP CONSTRAINT request_is_named;
ALTER TABLE order_history ADD CONSTRAINT request_is_named
    CHECK ((cause <> 'hold_passed') = (request_id IS NOT NULL)) NOT VALID;

-- 'infinity' is a time to PostgreSQL, but not to RFC 3339, nor to the programs: payment could not read the order, and the
-- relay would stop at it for ever. Whoever prolongs a hold by hand says until when.
ALTER TABLE orders ADD CONSTRAINT hold_ends_at_a_time
    CHECK (hold_until BETWEEN '2000-01-01Z' AND '9999-01-01Z') NOT VALID;
