-- What the purchase function reads and writes: items with their stock, one verdict for each request id, and orders.
--
-- The database repeats the invariants of the code as constraints, so that no bug in a worker, and no hand at psql,
-- can commit a state that oversells.

-- An item that is on sale. Its row is the hot row: every batch of purchases of the item updates it once.
--
-- * No index may ever name `available`, `held`, `sold` or `version`: an update that touches no indexed column
--   stays on its page (a HOT update) and costs no index write.
-- * fillfactor 25 leaves most of the page for the row's next versions; the default would need a new page soon.
-- * The hot row leaves a dead version behind with every batch. Page pruning removes those by itself; vacuum is
--   asked to look early (every 1,000 dead rows, not 20 % of the table) so that the visibility map stays useful.
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
) WITH (fillfactor = 25, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.0);

-- The answer to each request, for ever the same: one row for each request id, never updated.
-- The primary key is what makes a purchase happen once, whatever is delivered twice.
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
);

-- An accepted request.
CREATE TABLE orders (
    id         uuid PRIMARY KEY,
    -- Unique by way of verdicts: an order is only ever inserted by the statement that inserts its verdict.
    request_id text COLLATE "C" NOT NULL,
    item       text COLLATE "C" NOT NULL,
    buyer      text COLLATE "C" NOT NULL,
    quantity   bigint NOT NULL CHECK (quantity BETWEEN 1 AND 1000),
    state      text COLLATE "C" NOT NULL DEFAULT 'reserved'
               CHECK (state IN ('reserved', 'paying', 'paid', 'expired', 'cancelled')),
    hold_until timestamptz NOT NULL,
    created_at timestamptz NOT NULL
);
