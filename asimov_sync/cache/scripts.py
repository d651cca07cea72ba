"""The Lua that runs on the Redis server, where a command alone is not enough: each script is one step that no other client
sees half done.

A mailbox is nine keys, which share a hash tag and so a slot of a cluster:

=========  =======  ==========================================================================================
messages   hash     id: payload, of what is ready, leased or dead
ready      list     ids in the order in which they are to be read
leases     zset     id: the moment (ms) at which its lease runs out
holders    hash     id: "fence token" of the delivery that holds the lease; and "\\0token": its id
counts     hash     id: how often it was delivered
dead       list     ids that were delivered too often
settled    zset     id: the moment (ms) until which an acknowledged id is remembered
fences     hash     id: the fence under which it was acknowledged; and "": the last fence that was given
bell       list     a token for each message that is ready: what blocked readers wait for
=========  =======  ==========================================================================================

The bell holds no message. A token that is lost costs a reader a second, never a message; and a script may be sent again when
its reply was lost: publishing and acknowledging know their own ids, and a claim is found by the token that asked for it.

Every script is called with all nine keys, and with the moment in milliseconds, or "" for the server's own clock.
"""

PARTS = ("messages", "ready", "leases", "holders", "counts", "dead", "settled", "fences", "bell")

_BEGIN = """
local messages, ready, leases, holders, counts = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local dead, settled, fences, bell = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local now = tonumber(ARGV[1])
local microseconds = now and now * 1000
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
    microseconds = time[1] * 1000000 + time[2]
end

local function whole(number)
    return string.format('%.0f', number)
end

local function forget()
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', settled, '-inf', whole(now), 'LIMIT', 0, 1000)) do
        redis.call('ZREM', settled, id)
        redis.call('HDEL', fences, id)
    end
end

-- ends the lease of an id, and forgets by which token it was asked for; no id holds a NUL
local function end_lease(id)
    local token = string.match(redis.call('HGET', holders, id) or '', '^%S+ (.*)$')
    redis.call('ZREM', leases, id)
    redis.call('HDEL', holders, id, token and '\\0' .. token or id)
end

local function expire()
    local ended = redis.call('ZRANGEBYSCORE', leases, '-inf', whole(now), 'LIMIT', 0, 1000)
    if #ended > 1 then -- what was delivered first comes first again
        local order = {}
        for _, id in ipairs(ended) do
            order[id] = tonumber(string.match(redis.call('HGET', holders, id) or '0', '^%S+'))
        end
        table.sort(ended, function(one, other) return order[one] < order[other] end)
    end
    for place = #ended, 1, -1 do
        end_lease(ended[place])
        redis.call('LPUSH', ready, ended[place])
        redis.call('RPUSH', bell, '1')
    end
end

local function holds(id, fence)
    local holder = redis.call('HGET', holders, id)
    return holder and string.match(holder, '^%S+') == fence
end

-- of what is leased, or (taken) was not; ids that the library made up begin with ~ and are remembered for the shorter time,
-- of ARGV[2] and ARGV[3]
local function settle(id, fence, taken)
    local short, long = ARGV[2], ARGV[3]
    if not taken then
        end_lease(id)
    end
    redis.call('HDEL', messages, id)
    redis.call('HDEL', counts, id)
    forget()
    redis.call('ZADD', settled, whole(now + (string.sub(id, 1, 1) == '~' and short or long)), id)
    redis.call('HSET', fences, id, fence)
    redis.call('PEXPIRE', settled, long)
    redis.call('PEXPIRE', fences, long)
end
"""

PUT = (
    _BEGIN
    + """
local id, payload = ARGV[2], ARGV[3]
local remembered = redis.call('ZSCORE', settled, id)
if (remembered and tonumber(remembered) > now) or redis.call('HSETNX', messages, id, payload) == 0 then
    return 0
end
redis.call('RPUSH', ready, id)
redis.call('RPUSH', bell, '1')
return 1
"""
)

# lease "" settles at once. Answers {id, payload, deliveries, fence}, or {the milliseconds until a lease runs out, or ""}.
TAKE = (
    _BEGIN
    + """
local lease, max_deliveries, token = ARGV[4], tonumber(ARGV[5]), ARGV[6]
if ARGV[7] == 'again' then
    local id = redis.call('HGET', holders, '\\0' .. token)
    local fence, holder = string.match(id and redis.call('HGET', holders, id) or '', '^(%S+) (.*)$')
    if holder == token then
        return {id, redis.call('HGET', messages, id), redis.call('HGET', counts, id), fence}
    end
end
expire()
local answer
while not answer do
    local id = redis.call('LPOP', ready)
    if not id then
        redis.call('DEL', bell)
        local first = redis.call('ZRANGE', leases, 0, 0, 'WITHSCORES')
        return {first[2] and whole(first[2] - now) or ''}
    end
    local count = redis.call('HINCRBY', counts, id, 1)
    local payload = redis.call('HGET', messages, id)
    if not payload then
        redis.call('HDEL', counts, id) -- cleared at this moment, in more than one step
    elseif count > max_deliveries then
        redis.call('RPUSH', dead, id)
    else
        local last = tonumber(redis.call('HGET', fences, '') or '0')
        -- of the clock, so that it grows even when the mailbox was cleared in between
        local fence = whole(math.max(last + 1, microseconds))
        redis.call('HSET', fences, '', fence)
        answer = {id, payload, tostring(count), fence}
        if lease == '' then
            settle(id, fence, true)
        else
            redis.call('HSET', holders, id, fence .. ' ' .. token, '\\0' .. token, id)
            redis.call('ZADD', leases, whole(now + lease), id)
            redis.call('PEXPIRE', fences, ARGV[3])
        end
    end
end
local waiting = redis.call('LLEN', ready)
if waiting == 0 then
    redis.call('DEL', bell)
elseif redis.call('LLEN', bell) > waiting then
    redis.call('LTRIM', bell, 0, waiting - 1)
end
return answer
"""
)

ACK = (
    _BEGIN
    + """
local id, fence = ARGV[4], ARGV[5]
if holds(id, fence) then
    settle(id, fence)
    return 1
end
return redis.call('HGET', fences, id) == fence and 1 or 0
"""
)

RELEASE = (
    _BEGIN
    + """
local id, fence = ARGV[2], ARGV[3]
if not holds(id, fence) then
    return 0
end
end_lease(id)
redis.call('LPUSH', ready, id)
redis.call('RPUSH', bell, '1')
return 1
"""
)

EXTEND = (
    _BEGIN
    + """
local id, fence, lease = ARGV[2], ARGV[3], ARGV[4]
if not holds(id, fence) then
    return 0
end
redis.call('ZADD', leases, whole(now + lease), id)
return 1
"""
)

# which is "ready" or "dead", last the place of the last letter, -1 for all. Answers {id, payload, deliveries, id, …}.
LETTERS = (
    _BEGIN
    + """
local which, last, max_deliveries = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
expire()
local answer = {}
for _, id in ipairs(redis.call('LRANGE', which == 'dead' and dead or ready, 0, last)) do
    local payload = redis.call('HGET', messages, id)
    if payload then
        answer[#answer + 1] = id
        answer[#answer + 1] = payload
        answer[#answer + 1] = tostring(math.min(tonumber(redis.call('HGET', counts, id) or '0'), max_deliveries))
    end
end
return answer
"""
)

# id "" for all of them.
PUT_BACK = (
    _BEGIN
    + """
local id = ARGV[2]
local back = id == '' and redis.call('LRANGE', dead, 0, -1) or {id}
local moved = 0
for _, one in ipairs(back) do
    if redis.call('LREM', dead, 1, one) == 1 then
        redis.call('HDEL', counts, one)
        redis.call('RPUSH', ready, one)
        redis.call('RPUSH', bell, '1')
        moved = moved + 1
    end
end
return moved
"""
)

LENGTH = (
    _BEGIN
    + """
return redis.call('HLEN', messages) - redis.call('LLEN', dead)
"""
)

# Values. KEYS: the key. ARGV: the expected text, or "" and "absent"; the new text.
COMPARE_AND_SET = """
local held = redis.call('GET', KEYS[1])
if ARGV[2] == 'absent' then
    if held then return 0 end
elseif held ~= ARGV[1] then
    return 0
end
redis.call('SET', KEYS[1], ARGV[3], 'KEEPTTL')
return 1
"""

# KEYS: the keys to write. ARGV: the ttl in ms; the texts to write.
SET_ALL = """
for place = 1, #KEYS do
    redis.call('SET', KEYS[place], ARGV[place + 1], 'PX', ARGV[1])
end
return 1
"""

# KEYS: the guard, then the keys to write. ARGV: the guard's text, "" or "absent"; the ttl in ms or ""; the texts to write.
SET_GUARDED = """
local held = redis.call('GET', KEYS[1])
if ARGV[2] == 'absent' then
    if held then return 0 end
elseif held ~= ARGV[1] then
    return 0
end
for place = 2, #KEYS do
    if ARGV[3] == '' then
        redis.call('SET', KEYS[place], ARGV[place + 2])
    else
        redis.call('SET', KEYS[place], ARGV[place + 2], 'PX', ARGV[3])
    end
end
return 1
"""
