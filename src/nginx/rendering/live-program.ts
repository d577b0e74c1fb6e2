/**
 * The Lua program that every worker runs where the host has the Lua module: it takes live state from the daemon, keeps it
 * in memory that all workers share, and chooses a server for each request; certificate-program.ts is a part of it. Text
 * alone; main-conf.ts puts it into nginx.conf.
 */

import { ASKED_VARIABLE } from '../../upstreams/judging/traffic.ts'
import { CERTIFICATE_PROGRAM } from './certificate-program.ts'
import type { HostLayout } from './host-layout.ts'
import { luaString } from './quote.ts'

/** The format of what is pushed and of the shared memory; a change of it takes another memory beside the old one. */
export const LIVE_FORMAT = 1
/** Of all live state; memory is taken when it is used. What does not fit is refused. */
const LIVE_MEMORY = '32m'
/** Of one push. */
export const LIVE_PUSH_BYTES_MAX = 16 * 1024 * 1024

/** The file from which a new master takes the state when its memory is empty. */
export function liveFile({ directory }: Pick<HostLayout, 'directory'>): string {
  return `${directory}/live.state`
}

/** Lines of the http block. */
export const LIVE_HTTP_LINES: readonly string[] = [
  `lua_shared_dict nxmesh_live_${LIVE_FORMAT} ${LIVE_MEMORY};`,
  `init_by_lua_block {\n${program()}}`,
  'log_by_lua_block { nxmesh.log(); }',
]

/** Lines of the server that only the daemon can ask. */
export const LIVE_SERVER_LINES: readonly string[] = [
  `location = /live { client_max_body_size ${LIVE_PUSH_BYTES_MAX}; client_body_buffer_size ${LIVE_PUSH_BYTES_MAX}; content_by_lua_block { nxmesh.serve(); } }`,
]

/** The line of an upstream block that has each request's server chosen. */
export function balanceLine(block: string): string {
  return `balancer_by_lua_block { nxmesh.balance(${luaString(block)}); }`
}

/**
 * Sets a variable to the block of an upstream, by the shares of the entry with this key.
 * @param client the variable that a client is told by
 * @param scope makes the choice another one than that of other sites
 * @param otherwise where there is no entry
 */
export function splitLine(variable: string, key: string, client: string, scope: string, otherwise: string): string {
  const call = [key, client, scope, otherwise].map(luaString).join(', ')
  return `set_by_lua_block $${variable} { return nxmesh.split(${call}); }`
}

/** Sets a variable to 1 for whom the entry with this key is up and `condition` holds a 1, else to nothing. */
export function flagLine(variable: string, key: string, condition: string): string {
  return `set_by_lua_block $${variable} { return nxmesh.flag(${luaString(key)}, ${luaString(condition)}); }`
}

function program(): string {
  return String.raw`
-- What mesh-node changes without a reload. The daemon posts entries to /live on its own socket; they lie in a
-- dictionary that all workers share, under a stamp that grows with each post. A worker compares the stamp at each
-- request, so that what was posted counts from the next request on, in every worker.
local balancer = require "ngx.balancer"
local ffi = require "ffi"
local base = require "resty.core.base"
local dict = ngx.shared.nxmesh_live_${LIVE_FORMAT}
local band, bxor, rshift, tobit = bit.band, bit.bxor, bit.rshift, bit.tobit
local BUSY = -3 -- nginx answers 502: no live upstreams

nxmesh = {}

-- ---------------------------------------------------------------------------------------- state

-- Takes "nxmesh-live <stamp> <base>", then lines "key value" or "-key". With base 0 it is the whole state. Entries that
-- were put before a failure stay, and the next attempt puts them again.
local function put_all(text)
  local stamp, from, start = text:match("^nxmesh%-live (%d+) (%d+)\n()")
  if not stamp then return 400, "this is no live state" end
  local whole, current = from == "0", dict:get("stamp") or 0
  if tonumber(stamp) <= current or not (whole or tonumber(from) == current) then
    return 409, "the state is at stamp " .. current
  end
  local named = { stamp = true, lock = true }
  for line in text:sub(start):gmatch("[^\n]+") do
    local key, value = line:match("^(%S+) (.*)$")
    if key then
      local ok, reason = dict:safe_set(key, value)
      if not ok then return 507, reason end
      named[key] = true
    else
      dict:delete(line:sub(2))
    end
  end
  if whole then
    for _, key in ipairs(dict:get_keys(0)) do
      if not named[key] then dict:delete(key) end
    end
  end
  dict:set("stamp", tonumber(stamp))
  return 200
end

-- One at a time: a worker that was posted to, or the master that reads the file.
local function receive(text)
  if not dict:add("lock", true, 5) then return 503, "another change is under way" end
  local ok, status, reason = pcall(put_all, text)
  dict:delete("lock")
  if not ok then return 500, status end
  return status, reason
end

-- In the master, at a start or reload: after a crash, or when the first generation with this program is loaded, the file
-- is newer than the memory.
do
  local file = io.open(ngx.config.prefix() .. "live.state")
  local text = file and file:read("*a")
  if file then file:close() end
  if text then
    local status, reason = receive(text)
    if status ~= 200 and status ~= 409 then ngx.log(ngx.ERR, "live.state: ", reason) end
  end
end

-- Answers "<stamp> <pid>": what this worker goes by. A POST changes it first.
function nxmesh.serve()
  ngx.header.content_type = "text/plain"
  if ngx.req.get_method() == "POST" then
    ngx.req.read_body()
    local status, reason = receive(ngx.req.get_body_data() or "")
    if status ~= 200 then
      ngx.status = status
      ngx.say(reason)
      return
    end
  end
  ngx.say(string.format("%d %d", dict:get("stamp") or 0, ngx.worker.pid()))
end

${CERTIFICATE_PROGRAM}
-- ---------------------------------------------------------------------------------------- servers

-- Of this worker, by block, as upstream_of() makes them.
local upstreams = {}
-- Requests whose end somebody waits for: the peer by the request's address.
local watched = {}

-- One that stays keeps what this worker knows of it.
local function peers_of(list, old)
  local known, peers = {}, {}
  for _, peer in ipairs(old) do known[peer.address] = peer end
  for address, weight, backup, down, max_fails, fail_timeout in list:gmatch("(%S+),(%d+),(%d),(%d),(%d+),(%d+)") do
    local peer = known[address]
      or { address = address, seed = ngx.crc32_long(address), current = 0, active = 0, fails = 0, failed_at = 0 }
    peer.weight = tonumber(weight)
    peer.backup, peer.down = backup == "1", down == "1"
    peer.max_fails, peer.fail_timeout = tonumber(max_fails), tonumber(fail_timeout)
    peers[#peers + 1] = peer
  end
  return peers
end

local function key_parts(text)
  local parts = {}
  for kind, value in text:gmatch("([vts])([^,]*)") do
    if kind == "t" then
      value = value:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
    end
    parts[#parts + 1] = { is_variable = kind ~= "t", is_sticky = kind == "s", value = value }
  end
  return parts
end

local function upstream_of(name)
  local stamp = dict:get("stamp")
  local known = upstreams[name]
  if known and known.stamp == stamp then return known end
  local text = dict:get("u:" .. name)
  if not text then
    upstreams[name] = nil
    return nil
  end
  if known and known.text == text then
    known.stamp = stamp
    return known
  end
  local how, key, list = text:match("^(%S+) (%S+) ?(.*)$")
  local peers = peers_of(list, known and known.peers or {})
  known = { stamp = stamp, text = text, how = how, key = key_parts(key), peers = peers, tries = -1, total = 0 }
  -- Without exceptions and failures every peer may take every request, and nobody looks for those that may.
  known.has_exceptions, known.has_failed = #peers == 0, true
  for _, peer in ipairs(peers) do
    known.total = known.total + peer.weight
    if peer.down or peer.backup then known.has_exceptions = true end
    if not peer.down then known.tries = known.tries + 1 end
  end
  upstreams[name] = known
  return known
end

-- After max_fails failures within fail_timeout a peer is left alone for fail_timeout; then one request tries it.
local function is_failing(peer, now)
  return peer.max_fails > 0 and peer.fails >= peer.max_fails and now - peer.failed_at <= peer.fail_timeout
end

local function count_failure(peer)
  local now = ngx.now()
  if now - peer.failed_at > peer.fail_timeout then peer.fails = 0 end
  peer.fails = peer.fails + 1
  peer.failed_at = now
end

-- Peers that may take this request: those that do not fail, else backups, else those that do fail: better than none.
local function candidates(upstream, now, tried)
  local peers = upstream.peers
  upstream.has_failed = false
  for i = 1, #peers do
    if peers[i].fails > 0 then upstream.has_failed = true end
  end
  local function select(backup, failing)
    local found = {}
    for i = 1, #peers do
      local peer = peers[i]
      local may = not peer.down and not (tried and tried[peer.address])
      if may and (failing or (peer.backup == backup and not is_failing(peer, now))) then found[#found + 1] = peer end
    end
    return found[1] and found
  end
  return select(false) or select(true) or select(nil, true)
end

-- ---------------------------------------------------------------------------------------- methods

-- Smooth weighted round robin, as nginx does it.
local function round_robin(peers)
  local best, total = nil, 0
  for i = 1, #peers do
    local peer = peers[i]
    peer.current = peer.current + peer.weight
    total = total + peer.weight
    if not best or peer.current > best.current then best = peer end
  end
  best.current = best.current - total
  return best
end

-- Fewest requests under way in this worker by weight; equal ones in turns.
local function least_conn(peers)
  local least, found = nil, nil
  for i = 1, #peers do
    local peer = peers[i]
    local load = peer.active / peer.weight
    if not least or load < least then
      least, found = load, { peer }
    elseif load == least then
      found[#found + 1] = peer
    end
  end
  return found[2] and round_robin(found) or found[1]
end

-- The peer in whose share of the weights a number from 0 on lies.
local function at(peers, number)
  for i = 1, #peers do
    number = number - peers[i].weight
    if number < 0 then return peers[i] end
  end
  return peers[#peers]
end

local function random(peers)
  local total = 0
  for i = 1, #peers do total = total + peers[i].weight end
  return at(peers, math.random(0, total - 1))
end

local function hash_key(parts)
  local values = {}
  for i, part in ipairs(parts) do
    local value = part.is_variable and (ngx.var[part.value] or "") or part.value
    -- The site gives this client a cookie of the same text.
    if part.is_sticky and value == "" then value = ngx.var.request_id end
    values[i] = value
  end
  return table.concat(values)
end

-- Murmur3's last step: every bit of the number counts for every bit of the result.
local function multiply(a, b)
  local low, high = band(a, 0xffff), rshift(a, 16)
  return tobit(low * b + bit.lshift(tobit(high * b), 16))
end
local function mix(h)
  h = multiply(bxor(h, rshift(h, 16)), 0x85ebca6b)
  h = multiply(bxor(h, rshift(h, 13)), 0xc2b2ae35)
  return bxor(h, rshift(h, 16))
end

-- Rendezvous hashing: whoever comes or goes moves only its own share of the keys, and there is no ring to compute.
local function rendezvous(peers, key)
  local hash, best, most = ngx.crc32_long(key), nil, nil
  for i = 1, #peers do
    local peer = peers[i]
    local part = (band(mix(bxor(hash, peer.seed)), 0x7fffffff) + 0.5) / 0x80000000
    local score = -peer.weight / math.log(part)
    if not most or score > most then best, most = peer, score end
  end
  return best
end

-- The same key, the same place among all peers; when that one may not be taken, the next of a row of places, as nginx does.
local function hashed(upstream, allowed, hash_of)
  local is_allowed, sum = {}, 0
  for _, peer in ipairs(allowed) do is_allowed[peer] = true end
  for try = 0, 20 do
    sum = hash_of(sum, try)
    local peer = at(upstream.peers, sum % upstream.total)
    if is_allowed[peer] then return peer end
  end
  return round_robin(allowed)
end

local function by_address(sum)
  local address = ngx.var.binary_remote_addr
  -- Of IPv4 the network counts.
  for i = 1, #address == 4 and 3 or #address do sum = (sum * 113 + address:byte(i)) % 6271 end
  return sum
end

local choose = {
  round_robin = function(_, peers) return round_robin(peers) end,
  least_conn = function(_, peers) return least_conn(peers) end,
  random = function(_, peers) return random(peers) end,
  consistent = function(upstream, peers)
    local key = hash_key(upstream.key)
    return key == "" and round_robin(peers) or rendezvous(peers, key)
  end,
  ip_hash = function(upstream, peers)
    return hashed(upstream, peers, function(sum, try) return by_address(try == 0 and 89 or sum) end)
  end,
  hash = function(upstream, peers)
    local key = hash_key(upstream.key)
    -- As nginx does: who sends no key is nobody in particular.
    if key == "" then return round_robin(peers) end
    return hashed(upstream, peers, function(sum, try)
      local crc = ngx.crc32_long(try == 0 and key or try .. key)
      return sum + band(rshift(crc, 16), 0x7fff)
    end)
  end,
}

-- ---------------------------------------------------------------------------------------- requests

local function request_id()
  return tonumber(ffi.cast("uintptr_t", base.get_request()))
end

-- Ends what was watched of this request.
local function unwatch(id)
  local peer = watched[id]
  if peer then
    watched[id] = nil
    peer.active = peer.active - 1
  end
  return peer
end

-- Addresses that this request was passed to in this upstream, in order.
local function tried_addresses()
  local all = (ngx.var.upstream_addr or ""):gsub(" : $", "")
  local last, set = nil, {}
  for address in (all:match(".* : (.*)$") or all):gmatch("[^, ]+") do
    last, set[address] = address, true
  end
  return set, last
end

local function fail(upstream, address)
  upstream.has_failed = true
  for _, peer in ipairs(upstream.peers) do
    if peer.address == address then count_failure(peer) end
  end
end

-- Chooses the server of a request, and another one when that fails.
function nxmesh.balance(name)
  local upstream = upstream_of(name)
  if not upstream then return ngx.exit(BUSY) end
  local tried, last
  local failure = balancer.get_last_failure()
  if failure then
    tried, last = tried_addresses()
    if failure == "failed" then fail(upstream, last) end
  elseif upstream.tries > 0 then
    balancer.set_more_tries(upstream.tries)
  end
  local now = ngx.now()
  local peers = upstream.peers
  if tried or upstream.has_exceptions or upstream.has_failed then peers = candidates(upstream, now, tried) end
  if not peers then return ngx.exit(BUSY) end
  local peer = choose[upstream.how](upstream, peers)
  local probes = peer.fails > 0 and now - peer.failed_at > peer.fail_timeout
  if probes then peer.failed_at = now end
  -- The end of a subrequest is not told.
  if not ngx.is_subrequest then
    local id = request_id()
    unwatch(id)
    if upstream.how == "least_conn" or probes then
      peer.active = peer.active + 1
      watched[id] = peer
    end
  end
  local ok, reason = balancer.set_current_peer(peer.address)
  if not ok then
    ngx.log(ngx.ERR, name, ": ", reason)
    return ngx.exit(BUSY)
  end
end

-- ---------------------------------------------------------------------------------------- sites

-- As nginx's split_clients hashes, so that hosts without this program choose alike.
local function murmur2(text)
  local size, i, m = #text, 1, 0x5bd1e995
  local h = size
  while size >= 4 do
    local a, b, c, d = text:byte(i, i + 3)
    local k = multiply(bit.bor(a, bit.lshift(b, 8), bit.lshift(c, 16), bit.lshift(d, 24)), m)
    h = bxor(multiply(h, m), multiply(bxor(k, rshift(k, 24)), m))
    i, size = i + 4, size - 4
  end
  if size > 0 then
    if size > 2 then h = bxor(h, bit.lshift(text:byte(i + 2), 16)) end
    if size > 1 then h = bxor(h, bit.lshift(text:byte(i + 1), 8)) end
    h = multiply(bxor(h, text:byte(i)), m)
  end
  h = multiply(bxor(h, rshift(h, 13)), m)
  return bxor(h, rshift(h, 15)) % 0x100000000
end

local splits = {}

-- The block of the upstream that a client gets: parts of 10,000 in a row, the last one has the rest.
function nxmesh.split(key, variable, scope, otherwise)
  local text = dict:get(key)
  if not text then return otherwise end
  local known = splits[key]
  if not known or known.text ~= text then
    known = { text = text }
    local sum = 0
    for block, parts in text:gmatch("(%S+)=(%d+)") do
      sum = sum + math.floor(tonumber(parts) * 0xffffffff / 10000)
      known[#known + 1] = { block = block, below = sum }
    end
    splits[key] = known
  end
  if not known[2] then return known[1] and known[1].block or otherwise end
  local hash = murmur2((ngx.var[variable] or "") .. " " .. scope)
  for i = 1, #known - 1 do
    if hash < known[i].below then return known[i].block end
  end
  return known[#known].block
end

function nxmesh.flag(key, condition)
  return dict:get(key) == "1" and ngx.var[condition] == "1" and "1" or ""
end

-- "a, b : c": one text for each upstream that was asked.
local function groups(text)
  local all = {}
  for group in ((text or "") .. " : "):gmatch("(.-) : ") do all[#all + 1] = group end
  return all
end

-- Whether an upstream was given up at its last try, without a header of its own, and counts that; that another one made
-- the page for it is told by what locations add to nxmesh_asked.
local function fail_silent()
  local times = ngx.var.upstream_header_time
  if not times or not times:find("-", 1, true) then return false end
  local blocks = {}
  for before, block in (ngx.var.${ASKED_VARIABLE} or ""):gmatch("([^;]-) ([^; ]+);") do
    blocks[before == "" and 1 or #groups(before) + 1] = block
  end
  local addresses, statuses = groups(ngx.var.upstream_addr), groups(ngx.var.upstream_status)
  local is_dead = false
  for i, group in ipairs(groups(times)) do
    local upstream = upstreams[blocks[i] or ""]
    local status, last = (statuses[i] or ""):match("%d+$"), (addresses[i] or ""):match("[^, ]+$")
    if upstream and last and group:find("%-$") and (status == "502" or status == "504") then
      fail(upstream, last)
      is_dead = true
    end
  end
  return is_dead
end

-- A request has ended.
function nxmesh.log()
  local peer = next(watched) and unwatch(request_id())
  local is_dead = fail_silent()
  -- What a client gave up says nothing.
  if peer and not is_dead and ngx.status ~= 499 then peer.fails = 0 end
end
`
}
