-- What purchase workers read and write when they open a connection to Redis (the strategy of that name): whether it still is
-- the Redis that they knew.

-- The fence around what Redis counts: one row. A Redis that was restarted (perhaps with an old snapshot), failed over or was
-- replaced is known by its run id, which is new with each start; whoever meets one first begins a new epoch. All that is
-- counted there is named after the epoch, so nothing that was counted before, wherever it was kept, is ever asked about again.
--
-- * The epoch is drawn at random, and is not a number that goes up: so it also is the name of this database, where several
--   share one Redis, and one that was drawn by a transaction that came to nothing is never drawn again.
-- * Nothing rests on it but how fast purchases are: a decision is committed only if it is true on the item's own row.
CREATE TABLE redis_fence (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    epoch   uuid NOT NULL DEFAULT gen_random_uuid(),
    -- As `INFO server` says it; empty until the first worker comes.
    run_id  text COLLATE "C" NOT NULL DEFAULT ''
);

INSERT INTO redis_fence DEFAULT VALUES;
