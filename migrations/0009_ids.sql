-- Buyers are named as the shop names them, by e-mail addresses for example: printable ASCII without space, " and \.
ALTER TABLE buyers DROP CONSTRAINT buyers_id_check;
-- NOT VALID: what is there passed a narrower check.
ALTER TABLE buyers ADD CONSTRAINT buyers_id_check CHECK (id ~ '^[!#-\[\]-~]{1,128}$') NOT VALID;
