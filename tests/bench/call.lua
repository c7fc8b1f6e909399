-- For wrk: one MCP request again and again. The last line of output is the result as JSON.
-- BENCH_BODY is the body, BENCH_HEADERS is a header a line.
local fixed

wrk.method = "POST"
for line in os.getenv("BENCH_HEADERS"):gmatch("[^\n]+") do
  local name, value = line:match("^([^:]+): (.*)$")
  wrk.headers[name] = value
end

function init()
  fixed = wrk.format(nil, nil, nil, os.getenv("BENCH_BODY"))
end

function request()
  return fixed
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"seconds":%.6f,"failures":%d,"p50_us":%.0f,"p95_us":%.0f,"p99_us":%.0f,"max_us":%.0f}\n',
    summary.requests, summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99), latency.max))
end
