-- What happened and is still to be told: the transactional outbox, which the relay function empties.

-- One row for each commit and kind of event, not one for each event: a batch that reserves 500 orders writes 500 ids here,
-- 16 bytes each, and the relay reads the rest from the orders. It is inserted by the transaction that makes the change,
-- after the rows of the items are locked: so the events of an item that move its stock are numbered in the order in which
-- they were committed, and those of an order in the order in which they happened. Deleted once they are published.
CREATE TABLE outbox (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind      text COLLATE "C" NOT NULL CHECK (kind IN (
        'order.reserved', 'order.paying', 'order.declined', 'order.paid', 'order.expired', 'order.cancelled',
        'item.created', 'item.stock_added', 'item.stock_removed', 'item.opened', 'item.closed', 'item.rules_changed'
    )),
    -- The orders that it happened to, in order; NULL where it happened to an item.
    order_ids uuid[] CHECK (cardinality(order_ids) >= 1),
    -- The item that it happened to; NULL where it happened to orders.
    item      text COLLATE "C",
    -- The item as it is after the change, a JSON object; with item.
    detail    text,
    -- A time that a message can tell: never infinity.
    at        timestamptz NOT NULL DEFAULT clock_timestamp() CHECK (at BETWEEN '2000-01-01Z' AND '9999-01-01Z'),
    -- How many events the row is, so that the relay can take as many rows as it has room for without reading their ids.
    events    integer NOT NULL GENERATED ALWAYS AS (coalesce(cardinality(order_ids), 1)) STORED,
    CONSTRAINT something_happened CHECK (
        CASE WHEN kind LIKE 'order.%' THEN num_nonnulls(item, detail) = 0 AND order_ids IS NOT NULL
             ELSE num_nulls(item, detail) = 0 AND order_ids IS NULL END
    )
) WITH (
    -- Rows come at one end and go at the other. Vacuum takes dead entries out of the index before they are in the relay's
    -- way, and at full speed: there is never much to do.
    vacuum_truncate = off, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = -1, autovacuum_vacuum_cost_delay = 0
);

-- Ids do not compress, and are read once.
ALTER TABLE outbox ALTER COLUMN order_ids SET STORAGE EXTERNAL;

-- Whose turn it is to relay: one row, whose lock says so. Any number of relays may run.
CREATE TABLE outbox_turn (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only)
);

INSERT INTO outbox_turn DEFAULT VALUES;

-- What cannot be told, with the reason, so that nothing waits behind it: kept for an operator.
CREATE TABLE outbox_failed (
    id        bigint PRIMARY KEY,
    kind      text COLLATE "C" NOT NULL,
    order_ids uuid[],
    item      text COLLATE "C",
    detail    text,
    at        timestamptz NOT NULL,
    reason    text NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
