#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# How fast, how large and how quick to change is the forwarding table, beside DPDK's rte_lpm, rte_fib and rte_fib6?
#
# usage: run.sh [--rounds N] [--write]
#   --write     also write RESULTS.md beside this script
# Exit status: 0 only where every claim holds.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
command_line="benchmarks/peers/rte_lpm/run.sh${*:+ $*}"
rounds=15 write=''
while [ $# -gt 0 ]; do
    case $1 in
    --rounds) rounds=$2; shift 2 ;;
    --write) write=1; shift ;;
    *) sed -n '/^# usage/,/^set/{/^#/p}' "$0"; exit 2 ;;
    esac
done

# --- What Debian has and this needs

missing=()
command -v gcc >/dev/null || missing+=(gcc)
command -v jq >/dev/null || missing+=(jq)
command -v pkg-config >/dev/null || missing+=(pkg-config)
command -v taskset >/dev/null || missing+=(util-linux)
pkg-config --exists libdpdk 2>/dev/null || missing+=(libdpdk-dev)
[ -e /usr/share/tor/geoip6 ] || missing+=(tor-geoipdb)
if [ ${#missing[@]} -gt 0 ]; then
    sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    "${sudo[@]}" apt-get update -qq
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# --- Build. DPDK's flags are Debian's, hence for SSE4.2; the library picks AVX-512 only if told to.

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
trap 'exit 130' INT TERM
# Word splitting is wanted: these are lists of options.
# shellcheck disable=SC2046
gcc -O3 -Wall -Wextra -Werror -o "$build/peer" "$here/peer.c" $(pkg-config --cflags --libs libdpdk)
swift build --package-path "$here/../../micro" --configuration release >&2

# --- Measure: both on the last core, in turn

core=$(($(nproc) - 1))
echo "Measuring; DPDK takes minutes to insert the routes into rte_lpm." >&2
taskset -c $core "$here/../../micro/.build/release/micro" routing --rounds "$rounds" --peer "$build/peer" --json "$build/report.json" \
    >"$build/tables"

# --- Print

cat >"$build/verdict.jq" <<'EOF'
def median: sort | (.[((length - 1) / 2 | floor)] + .[(length / 2 | floor)]) / 2;
def round2: . * 100 | round / 100;
def times($peer; $own): [range(0; $peer.rounds | length) | $peer.rounds[.] / $own.rounds[.]] | median | round2;
def verdict($holds; $text): {holds: $holds, text: "\(if $holds then "PASS" else "FAIL" end): \($text)"};

(.lookups[] | . as $row | .results[0] as $own | .results[] | select(.name | startswith("rte_")) | times(.; $own) as $times
    | verdict($times >= 1; "\($row.table), \($row.traffic): \($own.name) look-ups, \($times) of \(.name)’s in bulk ≥ 1")),
(.tables[] | select(.dir24x8) | (.dir24x8 / .used | round2) as $times
    | verdict($times >= 8; "\(.table): DIR-24-8 takes \($times) times the memory ≥ 8")),
(.changes[] | verdict(.p99 < 100; "\(.table): 99 of 100 changes are published within \(.p99 | round2) µs of CPU time < 100"))
EOF
jq --from-file "$build/verdict.jq" "$build/report.json" >"$build/verdicts"

{
    echo "# Longest-prefix match beside DPDK's: results"
    echo
    echo "- command: \`$command_line\`"
    echo "- machine:$(sed -n 's/^model name\t*://p;T;q' /proc/cpuinfo), $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg) when done"
    echo "- kernel: $(uname -r), $(uname -m); DPDK $(dpkg-query -W -f '${Version}' libdpdk-dev), tor-geoipdb $(dpkg-query -W -f '${Version}' tor-geoipdb)"
    echo "- medians of $rounds rounds, in parentheses the best; ratios are the median of the rounds' ratios"
    echo
    cat "$build/tables"
    echo
    jq --raw-output '"- " + .text' "$build/verdicts"
} | if [ "$write" ]; then tee "$here/RESULTS.md"; else cat; fi

jq --exit-status --slurp 'all(.[]; .holds)' "$build/verdicts" >/dev/null
