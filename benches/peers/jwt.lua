-- Checks a bearer token with what the distribution has: cjson, and OpenSSL by luaossl.

local cjson = require("cjson.safe")
local digest = require("openssl.digest")
local hmac = require("openssl.hmac")
local pkey = require("openssl.pkey")

-- Base64url is what ngx decodes after two replacements and some padding.
local function decode(text)
  text = text:gsub("-", "+"):gsub("_", "/")
  return ngx.decode_base64(text .. ("="):rep(-#text % 4))
end

local function read(text)
  local bytes = decode(text)
  local object = bytes and cjson.decode(bytes)
  return type(object) == "table" and object or nil
end

local M = {}

-- key: a secret, or the path of a public key.
function M.new(algorithm, key)
  local verify
  if algorithm == "HS256" then
    verify = function(signed, signature)
      return hmac.new(key, "sha256"):final(signed) == signature
    end
  else
    local file = assert(io.open(key))
    local public = pkey.new(file:read("*a"))
    file:close()
    verify = function(signed, signature)
      return public:verify(signature, digest.new("sha256"):update(signed))
    end
  end
  return function()
    local bearer = ngx.var.http_authorization
    local header, payload, signature = (bearer or ""):match("^Bearer ([%w_-]+)%.([%w_-]+)%.([%w_-]+)$")
    local head = header and read(header)
    local claims = head and head.alg == algorithm and read(payload)
    signature = claims and decode(signature)
    if not signature or not verify(header .. "." .. payload, signature)
      or type(claims.exp) ~= "number" or claims.exp <= ngx.time() then
      ngx.exit(401)
    end
  end
end

return M
