-- Takes units of one item for requests, in order, and returns how many there were for all of them: what is left for those
-- who are new, and what the others have got already. Whoever decides by that, in the same order, gives the same units.
--
-- KEYS[1]   the item's count, a hash: `left` units, `load` the name of the loading that it began with
-- KEYS[2…]  the requests' grants, the name of the loading once they got their units: who asks again takes nothing more. A
--           refusal takes nothing, and is not written down.
-- ARGV[1]   how long a grant is kept, ARGV[2] how long a count is that nobody asks about; in milliseconds
-- ARGV[3…]  the requests' quantities
--
-- Returns nil where there is no count. That is no answer, and least of all "sold out".
local count = redis.call('HMGET', KEYS[1], 'left', 'load')
local left, load = tonumber(count[1]), count[2]
if not left then
    return false
end
local got_before, taken = 0, 0
for place = 2, #KEYS do
    local quantity = tonumber(ARGV[place + 1])
    if redis.call('GET', KEYS[place]) == load then
        got_before = got_before + quantity
    elseif quantity <= left - taken then
        redis.call('SET', KEYS[place], load, 'PX', ARGV[1])
        taken = taken + quantity
    end
end
if taken > 0 then
    -- By what was taken, and not to what is left: that has lost its last digits here, where it is beyond 2^53.
    redis.call('HINCRBY', KEYS[1], 'left', -taken)
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return left + got_before
