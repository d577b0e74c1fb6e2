/**
 * The Lua program that judges JSON Web Tokens. It asks the OpenSSL that nginx itself runs on, compares in constant time,
 * and whatever it does not expect is a refusal. Text alone; jwt.ts adds the keys and puts it into a file.
 */

/** Takes what to judge by as JSON; returns a function that judges the request under way. */
export const JWT_PROGRAM = String.raw`
local ffi = require "ffi"
pcall(ffi.cdef, [[
void *nxmesh_d2i_PUBKEY(void **a, const unsigned char **pp, long length) __asm__("d2i_PUBKEY");
void *nxmesh_EVP_MD_CTX_new(void) __asm__("EVP_MD_CTX_new");
void nxmesh_EVP_MD_CTX_free(void *ctx) __asm__("EVP_MD_CTX_free");
const void *nxmesh_EVP_sha256(void) __asm__("EVP_sha256");
int nxmesh_EVP_DigestVerifyInit(void *ctx, void **pctx, const void *type, void *e, void *pkey) __asm__("EVP_DigestVerifyInit");
int nxmesh_EVP_DigestVerify(void *ctx, const unsigned char *sig, size_t siglen, const unsigned char *tbs, size_t tbslen) __asm__("EVP_DigestVerify");
unsigned char *nxmesh_HMAC(const void *md, const void *key, int key_len, const unsigned char *d, size_t n, unsigned char *out, unsigned int *out_len) __asm__("HMAC");
int nxmesh_CRYPTO_memcmp(const void *a, const void *b, size_t len) __asm__("CRYPTO_memcmp");
void nxmesh_ERR_clear_error(void) __asm__("ERR_clear_error");
]])
local C = ffi.C
local NULL, LIST = {}, {}

local function utf8(code)
  local char, floor = string.char, math.floor
  if code < 0x80 then return char(code) end
  if code < 0x800 then return char(0xc0 + floor(code / 0x40), 0x80 + code % 0x40) end
  if code < 0x10000 then
    return char(0xe0 + floor(code / 0x1000), 0x80 + floor(code / 0x40) % 0x40, 0x80 + code % 0x40)
  end
  return char(0xf0 + floor(code / 0x40000), 0x80 + floor(code / 0x1000) % 0x40, 0x80 + floor(code / 0x40) % 0x40, 0x80 + code % 0x40)
end

local ESCAPES = { ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

-- JSON as it is written down, each name once: what is said twice could be read in two ways.
local function parse(text)
  local at = 1
  local value
  local function fail() error("json", 0) end
  local function skip() at = text:find("[^ \t\r\n]", at) or #text + 1 end
  local function is(character)
    skip()
    if text:sub(at, at) ~= character then return false end
    at = at + 1
    return true
  end
  local function quoted()
    if not is('"') then fail() end
    local out = {}
    while true do
      local stop = text:find('["\\%c]', at)
      if not stop then fail() end
      out[#out + 1] = text:sub(at, stop - 1)
      local found = text:sub(stop, stop)
      at = stop + 1
      if found == '"' then return table.concat(out) end
      if found ~= "\\" then fail() end
      local kind = text:sub(at, at)
      at = at + 1
      if kind == "u" then
        local code = tonumber(text:match("^%x%x%x%x", at) or fail(), 16)
        at = at + 4
        if code >= 0xd800 and code < 0xdc00 then
          local low = tonumber(text:match("^\\u([dD][c-fC-F]%x%x)", at) or fail(), 16)
          at = at + 6
          code = 0x10000 + (code - 0xd800) * 0x400 + (low - 0xdc00)
        elseif code >= 0xdc00 and code < 0xe000 then
          fail()
        end
        out[#out + 1] = utf8(code)
      else
        out[#out + 1] = ESCAPES[kind] or fail()
      end
    end
  end
  local function object(depth)
    local out = {}
    if is("}") then return out end
    repeat
      local name = quoted()
      if not is(":") or out[name] ~= nil then fail() end
      out[name] = value(depth + 1)
    until not is(",")
    if not is("}") then fail() end
    return out
  end
  local function list(depth)
    local out = setmetatable({}, LIST)
    if is("]") then return out end
    repeat out[#out + 1] = value(depth + 1) until not is(",")
    if not is("]") then fail() end
    return out
  end
  function value(depth)
    if depth > 16 then fail() end
    if is("{") then return object(depth) end
    if is("[") then return list(depth) end
    if text:sub(at, at) == '"' then return quoted() end
    local word = text:match("^%a+", at)
    if word then
      at = at + #word
      if word == "true" then return true end
      if word == "false" then return false end
      if word == "null" then return NULL end
      fail()
    end
    local number = text:match("^-?%d+%.?%d*[eE]?[+-]?%d*", at)
    if not number or number:find("^-?0%d") or number:find("%.$") or number:find("%.[eE]") or not tonumber(number) then fail() end
    at = at + #number
    return tonumber(number)
  end
  local found = value(1)
  skip()
  if at <= #text then fail() end
  return found
end

local function unpack64(text)
  if not text:find("^[A-Za-z0-9_-]+$") or #text % 4 == 1 then return nil end
  local padded = text:gsub("-", "+"):gsub("_", "/") .. ("="):rep((4 - #text % 4) % 4)
  return ngx.decode_base64(padded)
end

-- A number of a signature, as DER has it.
local function integer(bytes)
  bytes = bytes:gsub("^%z+", "")
  if bytes == "" then return nil end
  if bytes:byte() > 127 then bytes = "\0" .. bytes end
  return "\2" .. string.char(#bytes) .. bytes
end

local function checks(key, signed, signature)
  if key.alg == "HS256" then
    local out, length = ffi.new("unsigned char[32]"), ffi.new("unsigned int[1]")
    local made = C.nxmesh_HMAC(C.nxmesh_EVP_sha256(), key.bytes, #key.bytes, signed, #signed, out, length)
    return made ~= nil and length[0] == 32 and #signature == 32 and C.nxmesh_CRYPTO_memcmp(out, signature, 32) == 0
  end
  if key.alg == "ES256" then
    if #signature ~= 64 then return false end
    local r, s = integer(signature:sub(1, 32)), integer(signature:sub(33))
    if not r or not s then return false end
    signature = "\48" .. string.char(#r + #s) .. r .. s
  elseif key.alg ~= "RS256" then
    return false
  end
  local context = C.nxmesh_EVP_MD_CTX_new()
  if context == nil then return false end
  local good = C.nxmesh_EVP_DigestVerifyInit(context, nil, C.nxmesh_EVP_sha256(), nil, key.handle) == 1
    and C.nxmesh_EVP_DigestVerify(context, signature, #signature, signed, #signed) == 1
  C.nxmesh_EVP_MD_CTX_free(context)
  C.nxmesh_ERR_clear_error()
  return good
end

local function includes(wanted, found)
  if getmetatable(found) ~= LIST then found = { found } end
  for _, one in ipairs(wanted) do
    for _, other in ipairs(found) do
      if one == other then return true end
    end
  end
  return false
end

local function escaped(byte)
  return ("%%%02X"):format(byte:byte())
end

-- A claim as one line of printable ASCII. A number that is not exact here names nobody, lest it names two.
local function worded(value)
  if getmetatable(value) == LIST then
    local out = {}
    for _, one in ipairs(value) do
      local word = worded(one)
      if word then out[#out + 1] = word:gsub(",", escaped) end
    end
    return table.concat(out, ",")
  end
  if type(value) == "table" or value == nil then return nil end
  if type(value) == "number" then
    if math.abs(value) >= 2 ^ 53 then return nil end
    return (value % 1 == 0 and "%.0f" or "%.14g"):format(value)
  end
  return (tostring(value):gsub("[^ -~]", escaped))
end

local function claims(settings, keys, token)
  if not token or #token > 16384 then return nil end
  local head, body, signature = token:match("^([^.]+)%.([^.]+)%.([^.]+)$")
  if not head then return nil end
  local header, mark = parse(unpack64(head)), unpack64(signature)
  if type(header) ~= "table" or header.crit ~= nil or not mark then return nil end
  local named = type(header.kid) == "string" and keys[header.kid]
  local good = false
  for id, key in pairs(keys) do
    if key.alg == header.alg and (not named or named == key) then
      good = checks(key, head .. "." .. body, mark) or good
    end
  end
  if not good then return nil end
  local told = parse(unpack64(body))
  if type(told) ~= "table" or getmetatable(told) == LIST then return nil end
  local now, leeway = ngx.time(), settings.leeway
  if told.exp == nil and settings.requireExp then return nil end
  if told.exp ~= nil and not (type(told.exp) == "number" and now < told.exp + leeway) then return nil end
  if told.nbf ~= nil and not (type(told.nbf) == "number" and now >= told.nbf - leeway) then return nil end
  if settings.issuers and not (type(told.iss) == "string" and includes(settings.issuers, told.iss)) then return nil end
  if settings.audiences and not (told.aud ~= nil and includes(settings.audiences, told.aud)) then return nil end
  return told
end

-- Of several cookies of the name nginx takes the first; the upstream may take another.
local function single(name)
  local count = 0
  for part in (ngx.var.http_cookie or ""):gmatch("[^;,]+") do
    local found = part:match("^%s*([^=%s]+)%s*=")
    if found and found:lower() == name then count = count + 1 end
  end
  return count == 1
end

return function(packed)
  local settings = parse(ngx.decode_base64(packed))
  local keys = {}
  for id, key in pairs(settings.keys) do
    local bytes = ngx.decode_base64(key.bytes)
    local start = ffi.new("const unsigned char *[1]", ffi.cast("const unsigned char *", bytes))
    local handle = key.alg ~= "HS256" and C.nxmesh_d2i_PUBKEY(nil, start, #bytes) or nil
    if key.alg ~= "HS256" and handle == nil then
      error("the OpenSSL of this nginx cannot read the publicKey of the key " .. id .. " of a jwt policy: give it another key", 0)
    end
    keys[id] = { alg = key.alg, bytes = bytes, handle = handle }
  end
  return function()
    local given
    if settings.cookie then
      given = single(settings.cookie) and ngx.var["cookie_" .. settings.cookie] or nil
    else
      given = (ngx.var.http_authorization or ""):match("^[Bb][Ee][Aa][Rr][Ee][Rr] +(%S+)$")
    end
    -- What is not as it should be anywhere is an error, and no token.
    local fine, told = pcall(claims, settings, keys, given)
    if not fine or not told then
      ngx.header["WWW-Authenticate"] = given and 'Bearer error="invalid_token"' or "Bearer"
      return ngx.exit(401)
    end
    for header, claim in pairs(settings.headers) do
      local text = worded(told[claim])
      if text then ngx.req.set_header(header, text) else ngx.req.clear_header(header) end
    end
  end
end
`
