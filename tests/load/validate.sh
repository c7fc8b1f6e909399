#!/usr/bin/env bash
# Compares mcp-load with hey and wrk on the same endpoint, and finds the rate one core generates.
# Needs: hey, wrk, python3 (Debian: apt-get install hey wrk python3) and two free cores. Takes about two minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."

for tool in hey wrk python3 taskset; do
  command -v "$tool" >/dev/null || { echo "validate.sh: $tool is missing: apt-get install hey wrk python3 util-linux" >&2; exit 1; }
done

cargo build --quiet --release -p mcp-load --bin mcp-load --example fixed_delay_server
built=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')/release
work=$(mktemp -d)
server=""
stop_server() { if [ -n "$server" ]; then kill "$server"; wait "$server" || true; server=""; fi; } 2>/dev/null
trap 'stop_server; rm -rf "$work"' EXIT

address=127.0.0.1:18080
url=http://$address/mcp
body='{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"wait","arguments":{}}}'

start_server() { # MILLISECONDS: the server has core 0 for itself, load comes from core 1
  stop_server
  taskset -c 0 "$built/examples/fixed_delay_server" "$address" "$1" &
  server=$!
  for _ in $(seq 100); do (exec 3<>"/dev/tcp/${address/:/\/}") 2>/dev/null && return; sleep 0.05; done
  echo "validate.sh: the test server does not listen on $address" >&2; exit 1
}
mcp_load() { taskset -c 1 "$built/mcp-load" run --url "$url" --tool wait --json "$work/report.json" "$@" >"$work/table"; }
field() { python3 -c 'import json,sys; r=json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$work/report.json" "$1"; }
ratio() { python3 -c 'import sys; print(f"{float(sys.argv[1])/float(sys.argv[2]):.3f}")' "$1" "$2"; }

echo "== 500 requests per second for 10 s, 20 ms per call: mcp-load against hey (ratios; 1.000 is equal)"
start_server 20
taskset -c 1 hey -z 10s -c 50 -q 10 -m POST -T application/json -d "$body" "$url" >"$work/hey"
mcp_load --phase constant:500:10s
hey_rate=$(awk '/Requests\/sec/ {print $2}' "$work/hey")
echo "rate        $(ratio "$(field 'r["total"]["completed"]/10')" "$hey_rate")"
for quantile in 50 95 99; do
  hey_ms=$(awk -v q="$quantile%" '$1 == q {print $3 * 1000}' "$work/hey")
  echo "p$quantile sent    $(ratio "$(field "r['service_latency']['p${quantile}_ms']")" "$hey_ms")   p$quantile due     $(ratio "$(field "r['latency']['p${quantile}_ms']")" "$hey_ms")"
done

echo "== the rate that 40 connections of wrk reach at 20 ms per call, offered by mcp-load"
printf 'wrk.method="POST"\nwrk.body=[[%s]]\nwrk.headers["Content-Type"]="application/json"\n' "$body" >"$work/post.lua"
taskset -c 1 wrk -t1 -c40 -d10s --latency -s "$work/post.lua" "$url" >"$work/wrk"
wrk_rate=$(awk '/Requests\/sec/ {print $2}' "$work/wrk")
wrk_p50=$(awk '$1 == "50%" {print $2 + 0}' "$work/wrk")
mcp_load --phase "constant:$wrk_rate:10s"
echo "rate        $(ratio "$(field 'r["total"]["completed"]/10')" "$wrk_rate")"
echo "p50 sent    $(ratio "$(field 'r["service_latency"]["p50_ms"]')" "$wrk_p50")"

echo "== most requests per second that one core generates with a valid run (p99 of the own lag below 10 ms)"
start_server 0
for rate in 5000 10000 15000 20000 25000 30000 40000 50000; do
  if mcp_load --phase "constant:$rate:5s" --max-lag 10ms --max-in-flight 500; then
    echo "$rate/s: valid, lag p99 $(field 'round(r["lag"]["p99_ms"],2)') ms"
  else
    echo "$rate/s: not valid: $(field 'r["invalid"] or r["total"]')"
    break
  fi
done
