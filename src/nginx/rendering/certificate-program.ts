/**
 * The part of the Lua program that shows certificates at handshakes: it takes those that workers were told, keeps the last
 * used ones parsed, and the last good one of each. Text alone, which live-program.ts puts behind that of the state.
 */

import { luaString } from './quote.ts'

/** Pairs that a worker keeps parsed, the last used ones. */
const CERTIFICATES_PARSED_MAX = 1024

/** The line of a server that shows the certificate of the entry with this key. */
export function certificateLine(key: string): string {
  return `ssl_certificate_by_lua_block { nxmesh.certify(${luaString(key)}); }`
}

/** The keys of those lines in a text. */
export function certificateKeysIn(text: string): readonly string[] {
  return [...text.matchAll(/\bnxmesh\.certify\("([^"]+)"\)/g)].map(([, key]) => key as string)
}

/** It finds `dict`, the memory of all workers, and `nxmesh`. */
export const CERTIFICATE_PROGRAM = String.raw`-- ---------------------------------------------------------------------------------------- certificates

-- Of this worker, parsed: { stamp, version, pair, reason, good }.
local has_ssl, ssl = pcall(require, "ngx.ssl")
local certificates = has_ssl and require("resty.lrucache").new(${CERTIFICATES_PARSED_MAX})

local function parse_pair(chain, key)
  local pair, reason = {}, nil
  chain, key = ngx.decode_base64(chain), ngx.decode_base64(key)
  if not chain or not key then return nil, "this is no certificate" end
  pair.chain, reason = ssl.parse_pem_cert(chain)
  if not pair.chain then return nil, reason end
  pair.key, reason = ssl.parse_pem_priv_key(key)
  if not pair.key then return nil, reason end
  return pair
end

local function certificate_of(name)
  local stamp = dict:get("stamp")
  local known = certificates:get(name)
  if known and known.stamp == stamp then return known end
  local version, chain, key = (dict:get(name) or ""):match("^(%S+) (%S+) (%S+)$")
  known = known or {}
  known.stamp = stamp
  if not version then
    known.version, known.pair, known.reason = nil, nil, "there is none"
  elseif known.version ~= version then
    known.version = version
    known.pair, known.reason = parse_pair(chain, key)
  end
  certificates:set(name, known)
  return known
end

local function show(pair)
  ssl.clear_certs()
  local ok, reason = ssl.set_cert(pair.chain)
  if ok then ok, reason = ssl.set_priv_key(pair.key) end
  return ok, reason
end

-- At a handshake. One that cannot be shown leaves the one before it; without any there is no handshake.
function nxmesh.certify(name)
  local known = certificate_of(name)
  local ok, reason = nil, known.reason
  if known.pair then ok, reason = show(known.pair) end
  if ok then
    known.good = known.pair
    return
  end
  ngx.log(ngx.ERR, "the certificate ", name, " cannot be shown: ", reason)
  if not (known.good and show(known.good)) then return ngx.exit(ngx.ERROR) end
end
`
