-- What the restock function writes and purchases read: the rules of an item's sale.

-- NULL means that there is no such rule. The sale window stands in the first migration.
ALTER TABLE items
    -- Units that one buyer may hold and have paid for, in all.
    ADD COLUMN max_per_buyer bigint CHECK (max_per_buyer >= 1),
    -- No second purchase by the same buyer within this time, in milliseconds.
    ADD COLUMN cooldown_ms   bigint CHECK (cooldown_ms BETWEEN 1 AND 31536000000),
    -- Only buyers of one of these tiers: a plain list, each of them a word.
    ADD COLUMN tiers         text[] COLLATE "C" CHECK (
        cardinality(tiers) BETWEEN 1 AND 16 AND array_ndims(tiers) = 1 AND array_position(tiers, NULL) IS NULL
    ),
    -- Whether the item's orders are written to the index of orders by buyer, which the first two rules need. Set before
    -- them, so that they find every order; once set, it stays.
    ADD COLUMN counts_orders boolean NOT NULL DEFAULT false,
    -- Whether orders from before that are still being put there.
    ADD COLUMN is_counting   boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT rules_find_their_orders CHECK (
        (counts_orders AND NOT is_counting) OR (max_per_buyer IS NULL AND cooldown_ms IS NULL)
    );

-- Who belongs to which tier. Kept by whoever knows the buyers; a buyer who is not here has none.
CREATE TABLE buyers (
    id   text COLLATE "C" PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9._:-]{1,128}$'),
    tier text COLLATE "C" NOT NULL CHECK (tier ~ '^[A-Za-z0-9._:-]{1,128}$')
);

-- Whether the order is in the index below: it is where its item counts orders. The items of a sale without rules have
-- no entry there, so they pay nothing for it.
ALTER TABLE orders ADD COLUMN is_counted boolean NOT NULL DEFAULT false;
-- It holds what the rules count, and no more: an order that expired or was cancelled leaves it, so a buyer who reserves
-- and cancels all day makes nobody read what he gave back. Payment moves orders within these states: they count alike.
-- Who asks must do so by the same words (functions/purchase/src/read.rs), or is not answered by this index.
CREATE INDEX orders_by_buyer ON orders (item, buyer) WHERE is_counted AND state IN ('reserved', 'paying', 'paid');
