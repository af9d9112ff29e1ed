# What .ci/stack and .ci/swarm share: steps with a bound, the queries, and what is shown when one fails. Source it.
# shellcheck shell=bash

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

# step TEXT: one line per step, with the seconds since the start.
step() { printf '[%3d s] %s\n' "$SECONDS" "$*"; }

# wait_for SECONDS WHAT COMMAND...: until the command succeeds.
wait_for() {
    local bound=$1 what=$2 end=$((SECONDS + $1))
    shift 2
    until "$@"; do
        ((SECONDS < end)) || fail "waited $bound s for: $what"
        sleep 0.5
    done
}

# The sum of the values in an answer of Prometheus or promtool; "none" if it has no series.
sum_of_series() {
    python3 -c '
import json, sys
answer = json.load(sys.stdin)
series = answer if isinstance(answer, list) else answer["data"]["result"]
values = [float(each["value"][1]) for each in series]
print(sum(values) if values else "none")' 2> /dev/null || echo none
}

# query EXPRESSION: the sum over all series that PromQL gives for it.
query() {
    curl --silent --fail --max-time 5 --data-urlencode "query=$1" "$PROMETHEUS/api/v1/query" | sum_of_series
}

# holds EXPRESSION: true if PromQL gives a series, as a comparison does that holds.
holds() { [ "$(query "$1")" != none ]; }

# whole EXPRESSION: its sum as an integer, 0 where it gives no series.
whole() {
    local sum
    sum=$(query "$1")
    [ "$sum" != none ] || sum=0
    printf '%.0f\n' "$sum"
}
