-- Puts accepted requests in line, each among its user's own by priority, then acceptance. Repeatable: one that is in
-- line, backing off, leased or ended already is left alone. May be refused at maxmemory (the sweep repeats it).
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3..]  thirteen for each request: id, tier, share, user, estimated input tokens, estimated output tokens, kind, most
--            output tokens, attempts begun so far, not_before in ms (0: at once), priority (-10 to 10, higher first),
--            what it has in common with its equals ('': it has none), number of its acceptance
-- ARGV's last  the number below every event number of this epoch
-- Returns the number of requests placed.
local bucket, _, limits = load_bucket()
local placed, wake, floor, tiers, came = 0, false, ARGV[#ARGV], {}, {}
local sequence = redis.call('HINCRBY', meta, 'sequence', (#ARGV - 3) / 13) - (#ARGV - 3) / 13

-- How much comes, by how deep in the line (see service.lua) it enters: less than one turn, 1 to 2, 3 to 6, 7 to 14 ...
-- What is deeper is overtaken by it.
local function count_arrival(r)
  local class = math.min(7, math.floor(math.log(depth(r) + 1) / math.log(2)))
  local name = 'arrived:' .. r.tier .. ':' .. class
  came[name] = (came[name] or 0) + r.cost
end

for i = 3, #ARGV - 1, 13 do
  local r = redis.call('EXISTS', key('req:' .. ARGV[i])) == 1 and read(ARGV[i]) or {id = ARGV[i]}
  if not r.closed and not (r.member and held(r)) then
    -- One that SQL says is queued and that is known and nowhere: begin anew.
    if r.member then unqueue(r, false) end
    sequence = sequence + 1
    r.tier, r.user, r.input, r.output, r.kind, r.max = ARGV[i + 1], ARGV[i + 3], unpack(ARGV, i + 4, i + 7)
    r.cost = precise(cost_of(bucket, limits, expected(bucket, r)))
    -- A sequence number first, so that equal tags keep the order of arrival.
    r.member = string.format('%012d', sequence) .. r.id
    -- By acceptance, not by arrival here: what was accepted first may come here second.
    r.rank = precise(ARGV[i + 12] - tonumber(ARGV[i + 10]) * 1e12)
    -- Its attempt is never lowered: the caller's row may be older than what was seen here.
    r.attempt = math.max(tonumber(r.attempt) or 0, tonumber(ARGV[i + 8]))
    r.work = ARGV[i + 11] ~= '' and ARGV[i + 11] or nil
    redis.call('HSET', key('req:' .. r.id), 'tier', r.tier, 'user', r.user, 'member', r.member, 'cost', r.cost,
      'rank', r.rank, 'input', r.input, 'output', r.output, 'kind', r.kind, 'max', r.max, 'attempt', r.attempt,
      'seq', r.seq or floor)
    if r.work then redis.call('HSET', key('req:' .. r.id), 'work', r.work) end
    if not tiers[r.tier] then
      tiers[r.tier] = redis.call('HSET', meta, 'share:' .. r.tier, ARGV[i + 2])
      redis.call('SADD', key('tiers'), r.tier)
    end
    queue(r, tonumber(ARGV[i + 9]), true)
    count_arrival(r)
    placed = placed + 1
    -- Behind another one of its tier: whoever dispatches knows already when to look again.
    wake = wake or (redis.call('ZRANK', key('line:' .. r.tier), r.member) or 0) == 0
  end
end
for name, cost in pairs(came) do redis.call('HINCRBYFLOAT', meta, name, precise(cost)) end
if wake then redis.call('PUBLISH', base .. 'wake', placed) end
return placed
