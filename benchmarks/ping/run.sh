#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What does a packet's way through the fast path take at a light load, beside the kernel's way in the same router?
#
# usage: run.sh [--rounds N] [--pings N] [--vrouter FILE] [--write]
#   --vrouter   the program to measure; default: what `make build` has built
#   --write     also write the result into RESULTS.md beside this script
# Exit status: 0 only where the claim holds.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
rounds=9 pings=500 vrouter=$here/../../.build/release/vrouter write=
while [ $# -gt 0 ]; do
    case $1 in
    --rounds) rounds=$2 && shift 2 ;;
    --pings) pings=$2 && shift 2 ;;
    --vrouter) vrouter=$(realpath "$2") && shift 2 ;;
    --write) write=yes && shift ;;
    *) sed -n '3,9s/^# \{0,1\}//p' "$0" >&2 && exit 64 ;;
    esac
done
[ -x "$vrouter" ] || { echo "run.sh: no $vrouter: run 'make build', or name another with --vrouter" >&2; exit 64; }
work=$(mktemp -d)
trap '"$vrouter" lab down >/dev/null 2>&1 || :; rm -rf "$work"' EXIT

# The containers of the demonstration, in different VLANs on different hosts. Without masquerading on both sides.
"$vrouter" lab --keep >/dev/null
router=("$vrouter" lab exec host3 -- "$vrouter")
options=(up --vlan "100=172.16.10.1/24" --vlan "200=172.16.20.1/24" --masquerade none)

measure() { # WHO OPTIONS…: appends the round trips in microseconds to the file WHO
    "${router[@]}" "${options[@]}" "${@:2}" >/dev/null
    "$vrouter" lab exec d1 -- ping -q -c 20 -i 0.01 172.16.20.11 >/dev/null
    "$vrouter" lab exec d1 -- ping -c "$pings" -i 0.005 172.16.20.11 | sed -n 's/.*time=\([0-9.]*\) ms/\1/p' >"$work/once"
    [ "$(wc -l <"$work/once")" = "$pings" ] || { echo "run.sh: $1: not all of $pings pings were answered" >&2; exit 1; }
    awk '{print $1 * 1000}' "$work/once" >>"$work/$1"
    sort -n "$work/once" | awk -v n="$pings" 'NR == int((n + 1) / 2) {print $1 * 1000}' >>"$work/$1.medians"
}
for ((round = 1; round <= rounds; round++)); do
    echo "round $round of $rounds" >&2
    measure kernel
    measure af-packet --fast-path af-packet
    measure workers --fast-path af-packet --fast-path-from 0
    moved=$("${router[@]}" status --json | jq '[.fastPath.workers[].forwarded.packets] | add')
    [ "$moved" -ge $((2 * pings)) ] || { echo "run.sh: the fast path moved only $moved frames" >&2; exit 1; }
done

of() { sort -n "$work/$1" | awk -v share="$2" '{line[NR] = $1} END {print line[int((NR - 1) * share) + 1]}'; }
{
    printf '| way | median µs | 99 %% | 99.9 %% |\n|---|---|---|---|\n'
    for who in kernel af-packet workers; do printf '| %s | %d | %d | %d |\n' $who "$(of $who 0.5)" "$(of $who 0.99)" "$(of $who 0.999)"; done
} >"$work/table"
# The median of the rounds' ratios: what disturbs the machine disturbs both sides of a round.
ratio=$(paste "$work/kernel.medians" "$work/af-packet.medians" | awk '{print $2 / $1}' | sort -n | awk '{line[NR] = $1} END {printf "%.2f", line[int((NR + 1) / 2)]}')
holds=$(awk -v ratio="$ratio" 'BEGIN {print (ratio <= 1.2) ? "PASS" : "FAIL"}')
verdict="$holds: with the fast path on, the median round trip is $ratio of the kernel's; claimed: at most 1.2"
cat "$work/table"
echo "$verdict"
if [ -n "$write" ]; then
    {
        echo "# Round trips at a light load"
        echo
        echo "\`benchmarks/ping/run.sh --rounds $rounds --pings $pings\`, $(date -u +%F): two hundred pings a second from a container in VLAN 100 to one in VLAN 200,"
        echo "$rounds rounds of $pings each, in turn. \`af-packet\` is the fast path as it is by default, which leaves so few frames to the kernel;"
        echo "\`workers\` has them moved by a worker (\`--fast-path-from 0\`), which sleeps between them: each way wakes it, and to wake a processor of a"
        echo "virtual machine costs most of what is seen here. $(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores, Linux $(uname -r)."
        echo
        cat "$work/table"
        echo
        echo "$verdict"
    } >"$here/RESULTS.md"
fi
[ "$holds" = PASS ]
