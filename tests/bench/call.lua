-- For wrk: one MCP request again and again. The last line of output is the result as JSON.
-- BENCH_BODY is the body, in which __ID__ becomes an id that no other request has, also of other runs with another
-- BENCH_RUN; BENCH_HEADERS is a header a line.
local body = os.getenv("BENCH_BODY")
local unique = body:find("__ID__", 1, true)
local run = os.getenv("BENCH_RUN")
local fixed
local sent = 0

wrk.method = "POST"
for line in os.getenv("BENCH_HEADERS"):gmatch("[^\n]+") do
  local name, value = line:match("^([^:]+): (.*)$")
  wrk.headers[name] = value
end

function init()
  if not unique then fixed = wrk.format(nil, nil, nil, body) end
end

function request()
  if fixed then return fixed end
  sent = sent + 1
  return wrk.format(nil, nil, nil, (body:gsub("__ID__", run .. "-" .. sent)))
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"seconds":%.6f,"failures":%d,"p50_us":%.0f,"p95_us":%.0f,"p99_us":%.0f,"max_us":%.0f}\n',
    summary.requests, summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99), latency.max))
end
