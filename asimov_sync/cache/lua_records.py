"""Lua scripts for the records of durable runs.

A record is five keys, which share a hash tag and therefore a slot of a cluster:

=========  ======  =============================================================================
head       hash    what `Snapshot` shows except for the fields, and the fields of `HEAD_FIELDS`
fields     hash    the fields
log        stream  the log; the entry with number 7 has the id 7-0
bell       list    items for the last posts and log entries, which waiting threads pop
post_bell  list    the same for threads that wait for posts only, which log entries do not wake
=========  ======  =============================================================================

The index of a namespace is a set of keys in one slot. A member is the moment of creation, padded
with zeros, and the id, so members sort by both:

===============  ======  =======================================================================
entries          hash    id: moment of creation, version, status and tags, a line for each
all              zset    every member; all scores are 0
status:<status>  zset    the members with this status
tag:<tag>        zset    the members with this tag
ready            zset    id: the moment from which the record is due and its lease has ended
expiring         zset    id: the moment at which the record is removed
statuses         set     the statuses that have members
===============  ======  =======================================================================

On a single server, one script writes a record and the index. On a cluster they are in different
slots, so a second script writes the index: before a record is created, and after it has changed.
Every change that the index shows gives the record a higher version, and an older one is not written
over a newer one. What a crash between the two steps leaves behind, lists find and correct.

Each moment is in milliseconds. The first argument of each script is the present one, or "" for the
server's own clock. The second one is the id of the record.
"""

RECORD_KEYS = ("head", "fields", "log", "bell", "post_bell")
"""The last parts of a record's keys, in the order of KEYS. They are data on the server."""

INDEX_KEYS = ("entries", "all", "ready", "expiring", "statuses")
"""The last parts of the index's keys, in the order of KEYS, after those of a record if any."""

MOMENT_WIDTH = 15
"""Digits of the moment with which a member of the index begins."""

MAX_EXAMINED = 1000
"""Members that one script of a list examines, so that it takes less than 5 ms."""

CREATION_MS = 30_000
"""Longest time between the two steps that create a record on a cluster."""

_TIME = """
local now = tonumber(ARGV[1])
local id = ARGV[2]
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local function integer(number)
    return string.format('%.0f', number)
end
"""

_INDEX = """
local function split(text)
    local parts = {}
    for part in string.gmatch(text .. '\\n', '(.-)\\n') do
        parts[#parts + 1] = part
    end
    return parts
end

local function member_of(created, id)
    return string.format('%015.0f', created) .. id
end

local function part(name)
    return string.sub(entries, 1, -#'entries' - 1) .. name
end

local function entry_of(id)
    local entry = redis.call('HGET', entries, id)
    return entry and split(entry)
end

local function remove_from_index(id)
    local entry = entry_of(id)
    if entry then
        local member = member_of(entry[1], id)
        redis.call('ZREM', all, member)
        redis.call('ZREM', part('status:' .. entry[3]), member)
        for index = 4, #entry do
            redis.call('ZREM', part('tag:' .. entry[index]), member)
        end
        redis.call('HDEL', entries, id)
    end
    redis.call('ZREM', ready, id)
    redis.call('ZREM', expiring, id)
end

-- state: moment of creation, version, status, moment of being ready or "", moment of removal or "",
-- and the tags, a line for each.
local function write_index(id, state)
    local created, version, status = state[1], state[2], state[3]
    local entry = entry_of(id)
    if entry and entry[1] ~= created then
        remove_from_index(id)
        entry = nil
    end
    local member = member_of(created, id)
    if not entry then
        redis.call('ZADD', all, 0, member)
        if state[6] ~= '' then
            for _, tag in ipairs(split(state[6])) do
                redis.call('ZADD', part('tag:' .. tag), 0, member)
            end
        end
    elseif entry[3] ~= status then
        redis.call('ZREM', part('status:' .. entry[3]), member)
    end
    if not entry or entry[3] ~= status then
        redis.call('ZADD', part('status:' .. status), 0, member)
        redis.call('SADD', statuses, status)
    end
    local lines = created .. '\\n' .. version .. '\\n' .. status
    redis.call('HSET', entries, id, state[6] == '' and lines or lines .. '\\n' .. state[6])
    for place, score in pairs({[ready] = state[4], [expiring] = state[5]}) do
        if score == '' then
            redis.call('ZREM', place, id)
        else
            redis.call('ZADD', place, score, id)
        end
    end
end

local function remove_expired()
    local ended = redis.call('ZRANGEBYSCORE', expiring, '-inf', integer(now), 'LIMIT', 0, 200)
    for _, id in ipairs(ended) do
        remove_from_index(id)
    end
end
"""

_INDEX_PRELUDE = _TIME + "local entries, all, ready, expiring, statuses = unpack(KEYS)" + _INDEX

HEAD_FIELDS = (
    "status",
    "tags",
    "summary",
    "created",
    "updated",
    "owner",
    "epoch",
    "lease_until",
    "due",
    "news",
    "version",
    "expires",
    "last_number",
    "untouched",
    "released",
    "posts",
    "indexed",
    "commits",
)
"""The fields of a head. The first thirteen are the reply of the scripts that return one.

tags: a line for each, in JSON.
due, expires: "" for never.
version: the number of changes that the index shows.
last_number: the number of the last log entry.
untouched: "1" if nothing was written since the claim that created the record.
released: identifies the commit that gave the lease up, to recognize its repetition.
posts: the tokens of the last posts, for the same purpose.
indexed: the moment of being ready in the index. It may be earlier than the real one.
commits: the number of commits of the present epoch.
"""

_HEAD_WORDS = ", ".join(f"'{name}'" for name in HEAD_FIELDS)

_READ_HEAD = f"""
local names = {{{_HEAD_WORDS}}}

-- Returns the fields of a head by name, numbers as text; or nil without a record, and whether one
-- has expired.
local function read_head(key)
    local values = redis.call('HMGET', key, unpack(names))
    if not values[4] then
        return nil
    end
    local head = {{}}
    for index, name in ipairs(names) do
        head[name] = values[index]
    end
    head.commits = head.commits or '0' -- of a release that did not count them
    if head.expires ~= '' and tonumber(head.expires) <= now then
        return nil, true
    end
    return head
end

local function describe(head)
    local reply = {{}}
    for index = 1, 13 do
        reply[index] = head[names[index]]
    end
    return reply
end

local function ready_from(head)
    if head.due == '' then
        return ''
    end
    return integer(math.max(tonumber(head.due), tonumber(head.lease_until)))
end
"""

_RECORD_PRELUDE = (
    _TIME
    + "local head_key, fields_key, log_key, bell_key, post_bell_key = unpack(KEYS)\n"
    + "local entries, all, ready, expiring, statuses = unpack(KEYS, 6)"
    + _READ_HEAD
    + _INDEX
    + """
local record_keys = {head_key, fields_key, log_key, bell_key, post_bell_key}
local head, has_expired = read_head(head_key)
if has_expired then
    redis.call('DEL', unpack(record_keys))
end

-- Writes ARGV[first] to ARGV[last], which are names and values, to a hash.
local function write_fields(first, last)
    for index = first, last, 2000 do
        redis.call('HSET', fields_key, unpack(ARGV, index, math.min(index + 1999, last)))
    end
end

-- Writes the head and, on a single server, the index.
local function write_head(is_indexed)
    if is_indexed then
        head.version = integer(head.version + 1)
        head.indexed = ready_from(head)
    end
    local words = {}
    for _, name in ipairs(names) do
        words[#words + 1] = name
        words[#words + 1] = head[name]
    end
    redis.call('HSET', head_key, unpack(words))
    if is_indexed and entries then
        write_index(id, {
            head.created, head.version, head.status, head.indexed, head.expires, head.tags,
        })
    end
end

-- The server removes records by its own clock. If another one is given, they only become invisible.
local function set_expiry(had_expiry)
    if ARGV[1] ~= '' then
        return
    end
    for _, key in ipairs(record_keys) do
        if head.expires ~= '' then
            redis.call('PEXPIREAT', key, head.expires)
        elseif had_expiry then
            redis.call('PERSIST', key)
        end
    end
end

-- Wakes a few threads at once. If more wait, they look by themselves soon.
local function ring(key)
    redis.call('RPUSH', key, '1', '1', '1', '1')
    redis.call('LTRIM', key, -8, -1)
end
"""
)

# ARGV: 3 owner; 4 lease; 5 status; 6 dead owner or ""; 7 "create" or ""; 8 moment of creation,
# "" for now; 9 the number of statuses; the statuses; tags; summary; names and values of the fields.
# Returns {} without a record; {"late"}; or {won, created, now, fields, describe…}.
CLAIM = (
    _RECORD_PRELUDE
    + f"local creation_ms = {CREATION_MS}"
    + """
local owner, lease, status, dead_owner = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local last_status = 9 + tonumber(ARGV[9])
local had_expiry = false
if not head then
    if ARGV[7] == '' then
        return {}
    end
    local created = ARGV[8] == '' and integer(now) or ARGV[8]
    if now - created > creation_ms then
        return {'late'} -- the entry in the index may have been removed
    end
    head = {
        status = status, tags = ARGV[last_status + 1], summary = ARGV[last_status + 2],
        created = created, updated = created, owner = owner, epoch = '1', lease_until = '0',
        due = '', news = '0', version = '0', expires = '', last_number = '0', untouched = '1',
        released = '', posts = '', indexed = '', commits = '0',
    }
    redis.call('DEL', unpack(record_keys)) -- the server may have evicted only the head
    write_fields(last_status + 3, #ARGV)
elseif head.owner ~= owner or head.lease_until == '0' then
    local is_free = tonumber(head.lease_until) <= now or head.owner == dead_owner
    local has_status = false
    for index = 10, last_status do
        has_status = has_status or ARGV[index] == head.status
    end
    if not is_free or not has_status then
        return {0, 0, integer(now), redis.call('HGETALL', fields_key), describe(head)}
    end
    head.epoch, head.untouched, head.commits = integer(head.epoch + 1), '', '0'
end
had_expiry = head.expires ~= ''
head.owner, head.status, head.lease_until = owner, status, integer(now + lease)
head.due, head.updated, head.expires = integer(now), integer(now), ''
write_head(true)
set_expiry(had_expiry)
local created = head.untouched == '1' and 1 or 0
return {1, created, integer(now), redis.call('HGETALL', fields_key), describe(head)}
"""
)

# ARGV: 3 owner; 4 epoch; 5 lease or ""; 6 status or ""; 7 due or ""; 8 "summary" or ""; 9 summary;
# 10 time to live or ""; 11 news or ""; 12 what identifies this commit, if it gives the lease up;
# 13 MAX_LOG_ENTRIES; 14 the number of fields to write; 15 of those to remove; 16 the number of
# commits that the caller knows of; names and values to write; names to remove; numbers and data of
# the log. If there were fewer commits, a failover has lost some: the lease is given up, so that the
# next driver continues from what is left.
# Returns {}, or {applied, lease_until, now, news, commits, describe… if the index changes}.
COMMIT = (
    _RECORD_PRELUDE
    + """
local owner, epoch, lease, status, released = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[12]
if not head then
    return {}
end
if released ~= '' and head.released == released then
    return {1, '0', integer(now), head.news, head.commits, describe(head)}
end
if head.owner ~= owner or head.epoch ~= epoch or head.lease_until == '0' then
    return {}
end
if tonumber(head.commits) < tonumber(ARGV[16]) then
    head.lease_until = '0'
    write_head(true)
    return {}
end
if ARGV[11] ~= '' and tonumber(head.news) > tonumber(ARGV[11]) then
    return {0, head.lease_until, integer(now), head.news, head.commits}
end
local had_expiry = head.expires ~= ''
head.commits = integer(head.commits + 1)
local first_removed = 17 + 2 * tonumber(ARGV[14])
local first_entry = first_removed + tonumber(ARGV[15])
write_fields(17, first_removed - 1)
for index = first_removed, first_entry - 1, 1000 do
    redis.call('HDEL', fields_key, unpack(ARGV, index, math.min(index + 999, first_entry - 1)))
end
for index = first_entry, #ARGV, 2 do
    if tonumber(ARGV[index]) > tonumber(head.last_number) then
        redis.call('XADD', log_key, ARGV[index] .. '-0', 'data', ARGV[index + 1])
        head.last_number = ARGV[index]
    end
end
if first_entry <= #ARGV then
    redis.call('XTRIM', log_key, 'MAXLEN', ARGV[13])
    ring(bell_key)
end
head.lease_until = lease == '' and '0' or integer(now + lease)
head.updated, head.untouched = integer(now), ''
if lease == '' then
    head.released = released
end
if ARGV[8] ~= '' then
    head.summary = ARGV[9]
end
if status ~= '' then
    head.status, head.due = status, ARGV[7]
    head.expires = ARGV[10] == '' and '' or integer(now + ARGV[10])
end
-- An index that shows a record as ready too early is corrected by the lists.
local moment = ready_from(head)
local shown = tonumber(head.indexed) or math.huge
local is_indexed = status ~= '' or (moment ~= '' and tonumber(moment) < shown)
write_head(is_indexed)
set_expiry(had_expiry)
local reply = {1, head.lease_until, integer(now), head.news, head.commits}
if is_indexed then
    reply[6] = describe(head)
end
return reply
"""
)

# ARGV: 3 what identifies this post; 4 due or ""; names and values.
# Returns {}, or {written, now, describe…}.
POST = (
    _RECORD_PRELUDE
    + """
local token, due = ARGV[3], ARGV[4]
if not head then
    return {}
end
if string.find(head.posts, token, 1, true) then
    return {1, integer(now), describe(head)}
end
for index = 5, #ARGV, 2 do
    if redis.call('HEXISTS', fields_key, ARGV[index]) == 1 then
        return {0, integer(now), describe(head)}
    end
end
write_fields(5, #ARGV)
head.news, head.updated = integer(head.news + 1), integer(now)
head.posts = string.sub(head.posts .. token, -16 * #token)
local is_earlier = due ~= '' and (head.due == '' or tonumber(due) < tonumber(head.due))
if is_earlier then
    head.due = due
end
ring(bell_key)
ring(post_bell_key)
write_head(is_earlier)
set_expiry(false)
return {1, integer(now), describe(head)}
"""
)

# ARGV: 3 "fields" or "". Returns {}, or {now, fields, describe…}.
GET = (
    _RECORD_PRELUDE
    + """
if not head then
    return {}
end
local fields = ARGV[3] == '' and {} or redis.call('HGETALL', fields_key)
return {integer(now), fields, describe(head)}
"""
)

# ARGV: 3 after; 4 limit. Returns the entries as XRANGE does.
READ_LOG = (
    _RECORD_PRELUDE
    + """
if not head then
    return {}
end
return redis.call('XRANGE', log_key, integer(ARGV[3] + 1) .. '-0', '+', 'COUNT', ARGV[4])
"""
)

DELETE = (
    _RECORD_PRELUDE
    + """
redis.call('DEL', unpack(record_keys))
if head then
    for _, key in ipairs({bell_key, post_bell_key}) do
        ring(key)
        redis.call('PEXPIRE', key, 1000)
    end
end
if entries then
    remove_from_index(id)
end
return head and 1 or 0
"""
)

# KEYS: heads of records. ARGV: 2 "". Returns {now, describe… or {} for each}.
READ_HEADS = (
    _TIME
    + _READ_HEAD
    + """
local reply = {integer(now)}
for index, key in ipairs(KEYS) do
    local head = read_head(key)
    reply[index + 1] = head and describe(head) or {}
end
return reply
"""
)

# Begins the creation of a record on a cluster. ARGV: 3 status; 4 lease; 5 tags. Returns the
# moment of creation.
BEGIN_CREATION = (
    _INDEX_PRELUDE
    + f"local creation_ms = {CREATION_MS}"
    + """
local entry = entry_of(id)
local created = now
if entry then
    if entry[2] == '0' and now - entry[1] < creation_ms / 2 then
        created = tonumber(entry[1]) -- another caller creates the same record
    else
        created = math.max(now, entry[1] + 1)
    end
end
created = integer(created)
write_index(id, {created, '0', ARGV[3], integer(created + ARGV[4]), '', ARGV[5]})
return created
"""
)

# Writes the state of a record, unless the index shows a newer one. ARGV: 3… see write_index.
WRITE_INDEX = (
    _INDEX_PRELUDE
    + """
local entry = entry_of(id)
local created, version = tonumber(ARGV[3]), tonumber(ARGV[4])
if entry then
    local shown, shown_version = tonumber(entry[1]), tonumber(entry[2])
    if created < shown or (created == shown and version < shown_version) then
        return 0
    end
end
write_index(id, {unpack(ARGV, 3, 8)})
return 1
"""
)

# Corrects what lists have found. ARGV: 2 ""; then ten for each record: id; the moment of
# creation and the version that the index showed; "record" or "absent"; six, see write_index.
CORRECT_INDEX = (
    _INDEX_PRELUDE
    + f"local creation_ms = {CREATION_MS}"
    + """
for index = 3, #ARGV, 10 do
    local id = ARGV[index]
    local entry = entry_of(id) or {'', ''}
    if entry[1] == ARGV[index + 1] and entry[2] == ARGV[index + 2] then
        if ARGV[index + 3] == 'record' then
            write_index(id, {unpack(ARGV, index + 4, index + 9)})
        elseif entry[1] == '' or now - entry[1] > 2 * creation_ms then
            remove_from_index(id)
        else -- its creation may have begun
            redis.call('ZADD', ready, integer(entry[1] + 2 * creation_ms + 1), id)
        end
    end
end
return 1
"""
)

# ARGV: 3 the moment of creation. Removes the entry of a record that was deleted.
REMOVE_FROM_INDEX = (
    _INDEX_PRELUDE
    + """
local entry = entry_of(id)
if not entry or entry[1] == ARGV[3] then
    remove_from_index(id)
end
return 1
"""
)

# ARGV: 2 ""; 3 limit; 4 and 5 the upper and lower limit, as ZREVRANGEBYLEX takes them; 6 the number
# of statuses, or "" for all; the statuses; tags.
# Returns {the last member that was examined, or "" at the end; member, entry, …}.
LIST = (
    _INDEX_PRELUDE
    + f"local max_examined = {MAX_EXAMINED}"
    + """
local limit, upper, lower = tonumber(ARGV[3]), ARGV[4], ARGV[5]
local count = tonumber(ARGV[6])
local with_status, with_tags = {}, {}
for index = 7, 6 + (count or 0) do
    with_status[#with_status + 1] = part('status:' .. ARGV[index])
end
for index = 7 + (count or 0), #ARGV do
    with_tags[#with_tags + 1] = part('tag:' .. ARGV[index])
end
remove_expired()

-- The smallest source of candidates: all members, those of the statuses, or those of one tag.
local function size_of(source)
    local size = 0
    for _, key in ipairs(source) do
        size = size + redis.call('ZCARD', key)
    end
    return size
end
local source = {all}
local size = size_of(source)
local is_checked = not count -- the source implies the status
local candidates = {}
if count then
    candidates[1] = with_status
end
for _, key in ipairs(with_tags) do
    candidates[#candidates + 1] = {key}
end
for index, candidate in ipairs(candidates) do
    local other = size_of(candidate)
    if other <= size then
        source, size = candidate, other
        is_checked = not count or index == 1
    end
end

-- Compares bytes. Lua's own comparison depends on the server's locale.
local function is_before(member, other)
    for index = 1, math.min(#member, #other) do
        local byte, other_byte = string.byte(member, index), string.byte(other, index)
        if byte ~= other_byte then
            return byte > other_byte
        end
    end
    return #member > #other
end

local function has_status(member)
    for _, key in ipairs(with_status) do
        if redis.call('ZSCORE', key, member) then
            return true
        end
    end
    return false
end

local function is_wanted(member)
    for _, key in ipairs(with_tags) do
        if key ~= source[1] and not redis.call('ZSCORE', key, member) then
            return false
        end
    end
    return is_checked or has_status(member)
end

local is_exact = is_checked and #with_tags - (source[1] == with_tags[1] and 1 or 0) == 0
local batch = is_exact and limit or math.min(max_examined, math.max(limit, 250))
local examined = 0
local reply = {''}
while examined < max_examined do
    local members = {}
    for _, key in ipairs(source) do
        local found = redis.call('ZREVRANGEBYLEX', key, upper, lower, 'LIMIT', 0, batch)
        for _, member in ipairs(found) do
            members[#members + 1] = member
        end
    end
    if #source > 1 then
        table.sort(members, is_before)
    end
    for index = 1, math.min(batch, #members) do
        local member = members[index]
        upper = '(' .. member
        examined = examined + 1
        if is_wanted(member) then
            reply[#reply + 1] = member
            reply[#reply + 1] = redis.call('HGET', entries, string.sub(member, 16)) or ''
            if #reply > 2 * limit then
                reply[1] = member
                return reply
            end
        end
    end
    if #members < batch then
        return reply
    end
end
reply[1] = string.sub(upper, 2)
return reply
"""
)

# ARGV: 2 ""; 3 limit. Returns {id, score, entry, …}.
READY = (
    _INDEX_PRELUDE
    + """
remove_expired()
local found = redis.call(
    'ZRANGEBYSCORE', ready, '-inf', integer(now), 'WITHSCORES', 'LIMIT', 0, ARGV[3]
)
local reply = {}
for index = 1, #found, 2 do
    reply[#reply + 1] = found[index]
    reply[#reply + 1] = integer(found[index + 1])
    reply[#reply + 1] = redis.call('HGET', entries, found[index]) or ''
end
return reply
"""
)

# Returns {status, number, …}, and whether more have to be removed first.
COUNT = (
    _INDEX_PRELUDE
    + """
remove_expired()
local more = redis.call('ZCOUNT', expiring, '-inf', integer(now))
local reply = {more}
for _, status in ipairs(redis.call('SMEMBERS', statuses)) do
    local number = redis.call('ZCARD', part('status:' .. status))
    if number == 0 then
        redis.call('SREM', statuses, status)
    else
        reply[#reply + 1] = status
        reply[#reply + 1] = number
    end
end
return reply
"""
)
