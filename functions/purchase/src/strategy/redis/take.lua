-- Takes units of one item for requests, in order, and returns how many were left before each of them. A request whose quantity
-- is no more than that got its units.
--
-- KEYS[1]   the item's count, a hash: `left` units, `load` the name of the loading that it began with
-- KEYS[2…]  the requests' grants, `LOAD LEFT` once they got their units: who asks again gets the same answer, and takes
--           nothing more. A refusal takes nothing, and is not written down.
-- ARGV[1]   how long a grant is kept, ARGV[2] how long a count is that nobody asks about; in milliseconds
-- ARGV[3…]  the requests' quantities
--
-- Returns nil where there is no count. That is no answer, and least of all "sold out".
local count = redis.call('HMGET', KEYS[1], 'left', 'load')
local left, load = tonumber(count[1]), count[2]
if not left then
    return false
end
local answers, taken = {}, 0
for place = 1, #KEYS - 1 do
    local grant = redis.call('GET', KEYS[place + 1])
    local of_load, left_before = string.match(grant or '', '^(%S+) (%d+)$')
    if of_load == load then
        answers[place] = tonumber(left_before)
    else
        local quantity = tonumber(ARGV[place + 2])
        answers[place] = left
        if quantity <= left then
            redis.call('SET', KEYS[place + 1], string.format('%s %.0f', load, left), 'PX', ARGV[1])
            left, taken = left - quantity, taken + quantity
        end
    end
end
if taken > 0 then
    -- By what was taken, and not to what is left: that has lost its last digits here, where it is beyond 2^53.
    redis.call('HINCRBY', KEYS[1], 'left', -taken)
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return answers
