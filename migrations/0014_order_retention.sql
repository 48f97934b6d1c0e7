-- How long orders are kept that are over (purchase's --keep-orders-days), by the same walk as verdicts.

-- How far the walk through the orders has come.
CREATE TABLE order_walk (LIKE verdict_walk INCLUDING ALL);
INSERT INTO order_walk DEFAULT VALUES;

-- The units of paid orders that are deleted. What was sold stays sold: so nobody has to touch the item's hot row, and what its
-- orders add up to is found with these.
CREATE TABLE orders_gone (
    item text COLLATE "C" PRIMARY KEY,
    sold bigint NOT NULL CHECK (sold > 0)
);
