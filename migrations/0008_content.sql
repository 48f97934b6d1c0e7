-- A purchase's deadline is no part of what it asks for: who asks again, with a new deadline, asks for the same.
--
-- Versions before this one put the deadline into the fingerprint, and go by the fingerprint alone. They may run beside this
-- one, so fingerprints are made as they were, and what the purchase is without its deadline stands beside it.
-- * NULL: the fingerprint says it already. So it is for all that have no deadline, and costs them nothing.
-- * Zero: recorded by a version before this one, so the fingerprint may have a deadline in it that nobody knows. Rows that
--   are there get it without being written. It can go when the last of them is past its time (--keep-verdicts-days).
-- Whoever waits for a table as a whole has everybody behind them wait: given up soon, and tried again.
SET LOCAL lock_timeout = '2s';

ALTER TABLE verdicts ADD COLUMN content uuid DEFAULT '00000000-0000-0000-0000-000000000000';
