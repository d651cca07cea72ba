"""Lua scripts that run on the Redis server, where one command is not enough.

Each script is one step: no other client sees it half done.

A mailbox is nine keys, which share a hash tag and therefore a slot of a cluster:

=========  =====  ==============================================================================
messages   hash   id: payload, for every message that is ready, leased or dead
ready      list   ids in the order of delivery
leases     zset   id: end of its lease (ms)
holders    hash   id: "fence token" of the delivery that holds the lease; and "\\0token": its id
counts     hash   id: number of deliveries
dead       list   ids that were delivered too often
settled    zset   id of an acknowledged message: how long it is remembered (ms)
fences     hash   id: the fence that acknowledged it; and "": the last fence that was issued
bell       list   the ready signal: one item for each ready message; blocked readers pop it
=========  =====  ==============================================================================

The ready signal holds no messages. Losing one of its items costs a reader a second, never a
message. A script may be sent again when its reply was lost: publishing and acknowledging name the
message's id, and a lease is found by the token of the request for it.

Every mailbox script gets all nine keys, and as its first argument the current moment in
milliseconds, or "" for the server's own clock.
"""

KEY_NAMES = (
    "messages",
    "ready",
    "leases",
    "holders",
    "counts",
    "dead",
    "settled",
    "fences",
    "bell",
)
"""The last parts of a mailbox's keys, in the order of KEYS. They are data on the server."""

_PRELUDE = """
local messages, ready, leases, holders, counts = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local dead, acknowledged, fences, ready_signal = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local now = tonumber(ARGV[1])
local microseconds = now and now * 1000
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
    microseconds = time[1] * 1000000 + time[2]
end

local function integer(number)
    return string.format('%.0f', number)
end

local function forget_acknowledged()
    local limit = integer(now)
    local old = redis.call('ZRANGEBYSCORE', acknowledged, '-inf', limit, 'LIMIT', 0, 1000)
    for _, id in ipairs(old) do
        redis.call('ZREM', acknowledged, id)
        redis.call('HDEL', fences, id)
    end
end

-- Ends the lease of an id, and removes the token of its request. No id contains a NUL.
local function end_lease(id)
    local token = string.match(redis.call('HGET', holders, id) or '', '^%S+ (.*)$')
    redis.call('ZREM', leases, id)
    redis.call('HDEL', holders, id, token and '\\0' .. token or id)
end

local function expire_leases()
    local ended = redis.call('ZRANGEBYSCORE', leases, '-inf', integer(now), 'LIMIT', 0, 1000)
    if #ended > 1 then -- keep the order of delivery
        local order = {}
        for _, id in ipairs(ended) do
            order[id] = tonumber(string.match(redis.call('HGET', holders, id) or '0', '^%S+'))
        end
        table.sort(ended, function(a, b) return order[a] < order[b] end)
    end
    for index = #ended, 1, -1 do
        end_lease(ended[index])
        redis.call('LPUSH', ready, ended[index])
        redis.call('RPUSH', ready_signal, '1')
    end
end

local function holds_lease(id, fence)
    local holder = redis.call('HGET', holders, id)
    return holder and string.match(holder, '^%S+') == fence
end

-- Acknowledges a leased message, or one that is taken without a lease (taken). Ids that the library
-- generated begin with ~ and are remembered for ARGV[2] milliseconds, others for ARGV[3].
local function acknowledge(id, fence, taken)
    local short, long = ARGV[2], ARGV[3]
    if not taken then
        end_lease(id)
    end
    redis.call('HDEL', messages, id)
    redis.call('HDEL', counts, id)
    forget_acknowledged()
    local remember = string.sub(id, 1, 1) == '~' and short or long
    redis.call('ZADD', acknowledged, integer(now + remember), id)
    redis.call('HSET', fences, id, fence)
    redis.call('PEXPIRE', acknowledged, long)
    redis.call('PEXPIRE', fences, long)
end
"""

PUT = (
    _PRELUDE
    + """
local id, payload = ARGV[2], ARGV[3]
local remembered = redis.call('ZSCORE', acknowledged, id)
if remembered and tonumber(remembered) > now then
    return 0
end
if redis.call('HSETNX', messages, id, payload) == 0 then
    return 0
end
redis.call('RPUSH', ready, id)
redis.call('RPUSH', ready_signal, '1')
return 1
"""
)

# A lease of "" acknowledges at once. Returns {id, payload, deliveries, fence}, or without a message
# {the milliseconds until a lease ends, or ""}.
TAKE = (
    _PRELUDE
    + """
local lease, max_deliveries, token = ARGV[4], tonumber(ARGV[5]), ARGV[6]
if ARGV[7] == 'retry' then
    local id = redis.call('HGET', holders, '\\0' .. token)
    local fence, holder = string.match(id and redis.call('HGET', holders, id) or '', '^(%S+) (.*)$')
    if holder == token then
        return {id, redis.call('HGET', messages, id), redis.call('HGET', counts, id), fence}
    end
end
expire_leases()
local reply
while not reply do
    local id = redis.call('LPOP', ready)
    if not id then
        redis.call('DEL', ready_signal)
        local first = redis.call('ZRANGE', leases, 0, 0, 'WITHSCORES')
        return {first[2] and integer(first[2] - now) or ''}
    end
    local count = redis.call('HINCRBY', counts, id, 1)
    local payload = redis.call('HGET', messages, id)
    if not payload then
        redis.call('HDEL', counts, id) -- the mailbox is being cleared, in several steps
    elseif count > max_deliveries then
        redis.call('RPUSH', dead, id)
    else
        local last = tonumber(redis.call('HGET', fences, '') or '0')
        -- Taken from the clock, so that it grows even if the mailbox was cleared.
        local fence = integer(math.max(last + 1, microseconds))
        redis.call('HSET', fences, '', fence)
        reply = {id, payload, tostring(count), fence}
        if lease == '' then
            acknowledge(id, fence, true)
        else
            redis.call('HSET', holders, id, fence .. ' ' .. token, '\\0' .. token, id)
            redis.call('ZADD', leases, integer(now + lease), id)
            redis.call('PEXPIRE', fences, ARGV[3])
        end
    end
end
local waiting = redis.call('LLEN', ready)
if waiting == 0 then
    redis.call('DEL', ready_signal)
elseif redis.call('LLEN', ready_signal) > waiting then
    redis.call('LTRIM', ready_signal, 0, waiting - 1)
end
return reply
"""
)

ACK = (
    _PRELUDE
    + """
local id, fence = ARGV[4], ARGV[5]
if holds_lease(id, fence) then
    acknowledge(id, fence)
    return 1
end
return redis.call('HGET', fences, id) == fence and 1 or 0
"""
)

RELEASE = (
    _PRELUDE
    + """
local id, fence = ARGV[2], ARGV[3]
if not holds_lease(id, fence) then
    return 0
end
end_lease(id)
redis.call('LPUSH', ready, id)
redis.call('RPUSH', ready_signal, '1')
return 1
"""
)

EXTEND = (
    _PRELUDE
    + """
local id, fence, lease = ARGV[2], ARGV[3], ARGV[4]
if not holds_lease(id, fence) then
    return 0
end
redis.call('ZADD', leases, integer(now + lease), id)
return 1
"""
)

# which: "ready" or "dead". last: the index of the last message, -1 for all. Returns {id, payload,
# deliveries, id, …}.
LIST_MESSAGES = (
    _PRELUDE
    + """
local which, last, max_deliveries = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
expire_leases()
local reply = {}
for _, id in ipairs(redis.call('LRANGE', which == 'dead' and dead or ready, 0, last)) do
    local payload = redis.call('HGET', messages, id)
    if payload then
        reply[#reply + 1] = id
        reply[#reply + 1] = payload
        local count = tonumber(redis.call('HGET', counts, id) or '0')
        reply[#reply + 1] = tostring(math.min(count, max_deliveries))
    end
end
return reply
"""
)

# id: a dead message, or "" for all.
REDRIVE = (
    _PRELUDE
    + """
local id = ARGV[2]
local ids = id == '' and redis.call('LRANGE', dead, 0, -1) or {id}
local moved = 0
for _, dead_id in ipairs(ids) do
    if redis.call('LREM', dead, 1, dead_id) == 1 then
        redis.call('HDEL', counts, dead_id)
        redis.call('RPUSH', ready, dead_id)
        redis.call('RPUSH', ready_signal, '1')
        moved = moved + 1
    end
end
return moved
"""
)

LENGTH = (
    _PRELUDE
    + """
return redis.call('HLEN', messages) - redis.call('LLEN', dead)
"""
)

# KEYS: the key. ARGV: the expected text and "", or "" and "absent"; the new text.
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
for index = 1, #KEYS do
    redis.call('SET', KEYS[index], ARGV[index + 1], 'PX', ARGV[1])
end
return 1
"""

# KEYS: the guard, then the keys to write. ARGV: the guard's text and "", or "" and "absent"; the
# ttl in ms or ""; the texts to write.
SET_GUARDED = """
local held = redis.call('GET', KEYS[1])
if ARGV[2] == 'absent' then
    if held then return 0 end
elseif held ~= ARGV[1] then
    return 0
end
for index = 2, #KEYS do
    if ARGV[3] == '' then
        redis.call('SET', KEYS[index], ARGV[index + 2])
    else
        redis.call('SET', KEYS[index], ARGV[index + 2], 'PX', ARGV[3])
    end
end
return 1
"""
