-- What the payment function remembers of payments that their gateway has not decided: when it is asked again, by whom, and
-- until when.

-- Whoever waits for a table as a whole has everybody behind them wait: given up soon, and tried again.
SET LOCAL lock_timeout = '2s';

ALTER TABLE payments
    -- When the gateway is asked next by whoever looks for such payments, should nobody have asked before. Every time that it
    -- is, the wait until the next time doubles. (Here and below, the defaults are for workers that do not know of it.)
    ADD COLUMN next_ask_at timestamptz NOT NULL DEFAULT now() + interval '300 s',
    -- From then on the gateway is not asked to charge, but to see to it that nothing is charged.
    ADD COLUMN void_at     timestamptz NOT NULL DEFAULT now() + interval '900 s',
    -- What it said when it was last asked, where that was no outcome. Only where there is none does the payment's own message
    -- ask, too, whenever it comes round.
    ADD COLUMN said        text COLLATE "C";

-- What is to be asked about next. Only payments that are under way are in it. The second condition, which always holds, is
-- for the planner: it would find payments by their request in here, and read all of it, where few seem to be under way.
CREATE INDEX payments_to_ask ON payments (next_ask_at) WHERE is_under_way AND next_ask_at > '-infinity';

-- How far the asking has come: one row, whose lock says whose turn it is, so that any number of workers together ask no
-- faster than one would.
CREATE TABLE payment_pace (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    -- What was asked so far takes until then, at the pace that is kept.
    free_at timestamptz NOT NULL DEFAULT now()
);

INSERT INTO payment_pace DEFAULT VALUES;

-- A voided payment ends its order: its key is good for no other charge.
ALTER TABLE order_history DROP CONSTRAINT transition_is_allowed;
ALTER TABLE order_history ADD CONSTRAINT transition_is_allowed CHECK ((from_state, to_state, cause) IN (
    ('reserved', 'expired', 'hold_passed'),
    ('reserved', 'cancelled', 'cancel'),
    ('reserved', 'paying', 'payment_begun'),
    ('paying', 'paid', 'payment_captured'),
    ('paying', 'reserved', 'payment_declined'),
    ('paying', 'expired', 'payment_voided')
)) NOT VALID;
