-- Requests of many clients for wrk: a third of them never fail, a third seldom, a third often.
-- Arguments: how many clients, and a seed. Each client is an address in X-Forwarded-For; half of them are IPv6 networks
-- with four hosts each.

local number = 0

function setup(thread)
  number = number + 1
  thread:set("number", number)
end

function init(arguments)
  clients = tonumber(arguments[1])
  math.randomseed(1000 * tonumber(arguments[2]) + number)
end

local function address(client)
  if client % 2 == 0 and client < 1200 then
    local networks = {"192.0.2", "198.51.100", "203.0.113"}
    return string.format("%s.%d", networks[client % 3 + 1], math.floor(client / 6) + 1)
  end
  local group = math.floor(client / 60000) + 1
  return string.format("2001:db8:%x:%x::%x", group, client % 60000 + 1, math.random(1, 4))
end

local fine = {
  function() return "GET", "/" end,
  function() return "GET", "/article?page=" .. math.random(1, 99) end,
  function() return "GET", '/search?q="%20404%20"' end,
  function() return "POST", "/form" end,
  function() return "GET", "/private" end,  -- asks for credentials first
  function() return "POST", "/login?ok" end,
}

local failing = {
  function() return "GET", "/missing/" .. math.random(1, 99) .. ".php" end,
  function() return "GET", "/forbidden" end,
  function() return "POST", "/login" end,
  function() return "GET", "/private", "Basic YWxpY2U6Z3Vlc3M=" end,
}

local agents = {
  "Mozilla/5.0 (X11; Linux x86_64)",
  'x" 404 1 "-" "203.0.113.1 - - [20/Nov/2026:09:11:02 +0000] "POST /login HTTP/1.1" 401 1 "-" "-"',
  '{"time":1.000,"client":"203.0.113.1","peer":"203.0.113.1","status":"404","',
  "\255\254 \\",
}

function request()
  local client = math.random(0, clients - 1)
  local chance = ({0, 0.3, 0.8})[math.floor(client / 7) % 3 + 1]
  local kinds = math.random() < chance and failing or fine
  local method, path, credentials = kinds[math.random(#kinds)]()
  local headers = {
    ["X-Forwarded-For"] = address(client),
    ["User-Agent"] = agents[math.random(#agents)],
    ["Authorization"] = credentials,
  }
  return wrk.format(method, path, headers)
end
