-- Begins to count an item by what its row in PostgreSQL says, and forgets all its grants: they were of another loading.
--
-- KEYS[1]  the item's count
-- ARGV     the row's units left and its version, a name for this loading, how long the count is kept (ms)
--
-- Two workers may load at once: an older reading never replaces a newer one. A count that was forgotten has no `left`, but
-- still its version: then the same version will do, as it may be the count that was wrong, and not the row.
local count = redis.call('HMGET', KEYS[1], 'left', 'version')
local version, read = tonumber(count[2]), tonumber(ARGV[2])
if version and (version > read or (count[1] and version == read)) then
    return 0
end
redis.call('HSET', KEYS[1], 'left', ARGV[1], 'version', ARGV[2], 'load', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
