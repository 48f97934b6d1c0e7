-- What the purchase function reads and writes: items with their stock, one verdict for each request id, and orders.
--
-- The database repeats the invariants of the code as constraints, so that no bug in a worker, and no hand at psql,
-- can commit a state that oversells.

-- An item that is on sale. Its row is the hot row: every batch of purchases of the item updates it once.
--
-- * No index may ever name `available`, `held`, `sold` or `version`: an update that touches no indexed column
--   stays on its page (a HOT update) and costs no index write.
-- * fillfactor 25 leaves most of the page for the row's next versions, and has PostgreSQL prune the page as soon as less
--   than that is free: six old versions to walk past, measured, where the default leaves 58. No vacuum is needed for it.
-- * Vacuum is for what pruning cannot take: index entries and versions on other pages, left behind while somebody's long
--   transaction (a dump, say) kept old versions alive. 1,000 dead rows ask for it, not 20 % of the table, and it works
--   without the pauses that spare big tables: this one is small, and is hot again at once.
-- * No table here is cut short by vacuum (vacuum_truncate): that locks everybody out, and the space is needed again.
CREATE TABLE items (
    -- COLLATE "C": ids are ASCII words; bytes are compared, locales are not asked.
    id         text COLLATE "C" PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9._:-]{1,128}$'),
    -- Units that exist: available + held + sold.
    stock      bigint NOT NULL CHECK (stock >= 0),
    -- Units that can be reserved now.
    available  bigint NOT NULL CHECK (available >= 0),
    -- Units kept by reserved orders.
    held       bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
    -- Units paid for.
    sold       bigint NOT NULL DEFAULT 0 CHECK (sold >= 0),
    -- Goes up by one with every decision that is committed on this item; what an optimistic update checks.
    version    bigint NOT NULL DEFAULT 0 CHECK (version >= 0),
    -- How often a decision on this item had to be made again because the version had moved on.
    conflicts  bigint NOT NULL DEFAULT 0 CHECK (conflicts >= 0),
    -- How long a reserved order keeps its units, in milliseconds.
    hold_ms    bigint NOT NULL DEFAULT 600000 CHECK (hold_ms BETWEEN 1 AND 31536000000),
    -- The sale window [opens_at, closes_at); NULL means without a bound on that side.
    opens_at   timestamptz,
    closes_at  timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT stock_is_conserved CHECK (available + held + sold = stock),
    CONSTRAINT sale_window_is_ordered CHECK (opens_at < closes_at),
    -- 'infinity' and the year 10000 are times to PostgreSQL, but not to RFC 3339; NULL is how to say "never".
    CONSTRAINT sale_window_is_representable CHECK (
        opens_at BETWEEN '0001-01-01 UTC' AND '9999-01-01 UTC' AND closes_at BETWEEN '0001-01-01 UTC' AND '9999-01-01 UTC'
    )
) WITH (
    fillfactor = 25, vacuum_truncate = off,
    autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0
);

-- The answer to each request, the same for as long as it is kept: one row for each request id, never updated.
-- The primary key is what makes a purchase happen once, whatever is delivered twice.
--
-- How a verdict leaves, and why like that: purchase workers walk the table's pages once a day, a few at a time, and delete
-- what is past its time (functions/purchase/src/keep.rs). Verdicts come in by time and stay where they are, so those past
-- their time lie side by side.
-- * No partitions by time: a partitioned table is unique only within a partition, and uniqueness is the point.
-- * No index on decided_at: each purchase would pay for it, to spare one reading of the table a day. A BRIN index costs
--   little, but its ranges only ever widen: once space is used again it finds every range.
--
-- Vacuum makes the space free for new verdicts, so in the steady state the table stays as it is:
-- * A day's verdicts are 1/30 of the table, so the default of 20 % would wait for six days of them. 2 % is about one vacuum
--   for each walk; more often would cost more, because each one reads the whole index.
-- * New rows ask for it at 2 % too, while their pages are still in memory, and it freezes them then: they never change
--   again, so nothing is left to do when transaction ids wrap around.
-- * It keeps the default pace (autovacuum_vacuum_cost_delay): nobody waits for it.
CREATE TABLE verdicts (
    request_id  text COLLATE "C" PRIMARY KEY,
    -- No foreign key: a request may name an item that does not exist, and a key check would lock the hot row.
    item        text COLLATE "C" NOT NULL,
    -- Of the request's content (UUIDv5): the same request id with other content is told apart by it.
    fingerprint uuid NOT NULL,
    status      text COLLATE "C" NOT NULL CHECK (status IN ('reserved', 'sold_out', 'refused')),
    -- The reply's body as it was sent: text, not json, so that a repeat gets it byte for byte.
    reply       text NOT NULL,
    decided_at  timestamptz NOT NULL
) WITH (
    vacuum_truncate = off, autovacuum_freeze_min_age = 0,
    autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_threshold = 10000, autovacuum_vacuum_insert_scale_factor = 0.02
);

-- How far the walk through the verdicts has come: one row, whose lock says whose turn it is. Kept here and not in a worker,
-- so that any number of workers walk once a day and at one pace, and a walk survives its worker.
CREATE TABLE verdict_walk (
    is_only    boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    -- The page of verdicts to go on with.
    next_page  bigint NOT NULL DEFAULT 0 CHECK (next_page >= 0),
    -- When the next step may be made.
    due_at     timestamptz NOT NULL DEFAULT now()
);

INSERT INTO verdict_walk DEFAULT VALUES;

-- An accepted request. Orders stay when their verdicts leave: they are what was sold.
--
-- * Written once, then updated a few times soon after, as it is paid for or expires: fillfactor 80 leaves room for that on
--   the same page, and pruning gives it back for the next.
-- * It only ever grows, so vacuum goes by 2 % and not by 20 %, of what is updated and of what is new.
CREATE TABLE orders (
    id         uuid PRIMARY KEY,
    -- Unique only for as long as the verdict is kept: an order is inserted by the statement that inserts its verdict, and
    -- after that the same request id is a new request. So this must never get a unique constraint: it would fail then.
    request_id text COLLATE "C" NOT NULL,
    item       text COLLATE "C" NOT NULL,
    buyer      text COLLATE "C" NOT NULL,
    quantity   bigint NOT NULL CHECK (quantity BETWEEN 1 AND 1000),
    state      text COLLATE "C" NOT NULL DEFAULT 'reserved'
               CHECK (state IN ('reserved', 'paying', 'paid', 'expired', 'cancelled')),
    hold_until timestamptz NOT NULL,
    created_at timestamptz NOT NULL
) WITH (
    fillfactor = 80, vacuum_truncate = off,
    autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_threshold = 10000, autovacuum_vacuum_insert_scale_factor = 0.02
);
