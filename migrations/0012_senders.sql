-- Who sent what, where the broker says so (the property user_id): a request id is its sender's own, and so is an order.
-- Whoever waits for a table as a whole has everybody behind them wait: given up soon, and tried again. In the order in which the
-- functions lock: orders first, verdicts last.
SET LOCAL lock_timeout = '2s';

-- Empty: nobody says, so anybody may cancel it and pay for it. (Not NULL: that would cost each order eight bytes.) Rows that are
-- there get it without being written.
ALTER TABLE orders ADD COLUMN sender text COLLATE "C" NOT NULL DEFAULT '';

-- Of the request that pays: its verdict may be recorded by somebody who has not its message. NULL: nobody says. Empty: recorded by a
-- version before this one, which does not know senders; it is anybody's.
-- Two senders may pay under one id. While both are under way, the second one's stands here under the id, a space (which no id has)
-- and the sender: so no index is built anew, for which the table would have to be read while it is locked.
ALTER TABLE payments ADD COLUMN sender text COLLATE "C" DEFAULT '';

-- As in payments. A sender's verdict stands under its request id alone, as those versions look for it. Only where somebody else has
-- that, is it under the longer one: so no second index is needed, and the key is as unique as before.
ALTER TABLE verdicts ADD COLUMN sender text COLLATE "C" DEFAULT '';
