-- What the release function reads and writes: the ends of orders that give their units back.

-- How an order came from one state to the next: one row for each transition, written by the transaction that makes it.
-- That an order was reserved is not a transition: the order itself says when and for whom, and a purchase, on the hot
-- path, writes nothing more.
CREATE TABLE order_history (
    order_id   uuid NOT NULL REFERENCES orders (id),
    from_state text COLLATE "C" NOT NULL,
    to_state   text COLLATE "C" NOT NULL,
    -- What happened: the time of the hold passed, or somebody asked for it.
    cause      text COLLATE "C" NOT NULL,
    -- The request that asked for it. No foreign key: verdicts leave, history stays.
    request_id text COLLATE "C",
    at         timestamptz NOT NULL,
    -- The way an order's history is read.
    PRIMARY KEY (order_id, at),
    CONSTRAINT transition_is_allowed CHECK ((from_state, to_state, cause) IN (
        ('reserved', 'expired', 'hold_passed'),
        ('reserved', 'cancelled', 'cancel')
    )),
    CONSTRAINT request_is_named CHECK ((cause = 'cancel') = (request_id IS NOT NULL))
) WITH (
    -- It only ever grows, so vacuum goes by 2 % of what is new, as for orders.
    vacuum_truncate = off, autovacuum_freeze_min_age = 0,
    autovacuum_vacuum_insert_threshold = 10000, autovacuum_vacuum_insert_scale_factor = 0.02
);

-- No order ends twice, whatever a worker believes: its units come back once.
CREATE UNIQUE INDEX an_order_ends_once ON order_history (order_id) WHERE to_state IN ('paid', 'expired', 'cancelled');

-- What expires next. Only reserved orders are in it, so it is as large as there are live holds, and a look at its
-- beginning says whether anything is due. A purchase adds one entry for each order, at the index's end where all items
-- hold for the same time. An order that leaves the state is a new version to every index of its table, not a HOT update:
-- once in its life.
CREATE INDEX orders_by_hold ON orders (hold_until) WHERE state = 'reserved';

-- Release requests are answered by the same contract as purchases, and ids are unique among all of them.
-- The request names an order and no item, so its verdict has none.
ALTER TABLE verdicts ALTER COLUMN item DROP NOT NULL;
-- NOT VALID: what is there passed a narrower check, so there is nothing to read again, for hours, with the table locked.
ALTER TABLE verdicts DROP CONSTRAINT verdicts_status_check;
ALTER TABLE verdicts ADD CONSTRAINT verdicts_status_check
    CHECK (status IN ('reserved', 'sold_out', 'refused', 'done')) NOT VALID;
