#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What does the fast path cost where connections begin as fast as they can and nothing comes of them?
#
# usage: run.sh [--rounds N] [--connections "N…"] [--vrouter FILE] [--write]
#   --rounds       default: 15
#   --connections  how many the fast path carries meanwhile, each more than the one before; default: "0 256 4000"
#   --vrouter      the program to measure; default: what `make build` has built
#   --write        also write the result into RESULTS.md beside this script
# Then the other way round: what becomes of a ping each millisecond, which a worker carries, during a scan. Exit status: 0 only where all
# claims hold. Installs hping3, conntrack, nftables, python3 and jq from Debian where they are missing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
rounds=15 connections="0 256 4000" vrouter=$here/../../.build/release/vrouter write=
arguments=$*
while [ $# -gt 0 ]; do
    case $1 in
    --rounds) rounds=$2 && shift 2 ;;
    --connections) connections=$2 && shift 2 ;;
    --vrouter) vrouter=$2 && shift 2 ;;
    --write) write=yes && shift ;;
    *) sed -n '3,13s/^# \{0,1\}//p' "$0" >&2 && exit 64 ;;
    esac
done
[ -x "$vrouter" ] || { echo "run.sh: no $vrouter: run 'make build', or name another with --vrouter" >&2; exit 64; }
vrouter=$(realpath "$vrouter")
for tool in hping3 conntrack nft python3 jq; do
    command -v $tool >/dev/null || { apt-get -qq install --yes --no-install-recommends hping3 conntrack nftables python3 jq >&2 && break; }
done
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || :; "$vrouter" lab down >/dev/null 2>&1 || :; rm -rf "$work"' EXIT

"$vrouter" lab --keep >/dev/null
on() { "$vrouter" lab exec "$@"; }
router=(on host3 -- "$vrouter" up --vlan "100=172.16.10.1/24" --vlan "200=172.16.20.1/24")

held=0
# So many connections between d1 and d2 are there from now on.
hold() {
    local more=$(($1 - held))
    [ $more -gt 0 ] || return 0
    ulimit -Sn $((more + 100))
    on d2 -- python3 -c 'import socket, sys
server = socket.create_server(("172.16.20.10", int(sys.argv[1])))
held = [server.accept() for _ in range(int(sys.argv[2]))]
server.accept()' $((1000 + held)) $more &
    sleep 0.5
    on d1 -- python3 -c 'import socket, sys, time
held = [socket.create_connection(("172.16.20.10", int(sys.argv[1]))) for _ in range(int(sys.argv[2]))]
time.sleep(100000)' $((1000 + held)) $more &
    sleep 0.5
    held=$1
}
forwarded() { on host3 -- "$vrouter" status --json | jq '[.fastPath.workers[].forwarded.packets] | add'; }

# Those that are held stay. To forget the others takes those who listen some time.
forget() {
    on host3 -- conntrack -D -d 172.16.20.11 >/dev/null 2>&1 || :
    on host3 -- conntrack -D -p icmp >/dev/null 2>&1 || :
    sleep 1
}
kernel() {
    "${router[@]}" >/dev/null
    forget
}
# With the options given.
fast() {
    "${router[@]}" --fast-path af-packet "$@" >/dev/null
    until [ "$(on host3 -- "$vrouter" status --json | jq .fastPath.connections)" = "$held" ]; do sleep 0.1; done
    forget
}
# A second of SYNs, each from a port and to a port that had none yet. What d4 does not answer is a flood; what it refuses is a scan.
# Prints how many d4 got a second, and the processor time that `vrouter forward` took, where there is one.
syns() {
    local before after begin end used
    before=$(received) used=$(processor)
    begin=$EPOCHREALTIME
    on d1 -- timeout --signal=INT 1 hping3 --flood --quiet --syn --destport ++1024 172.16.20.11 >/dev/null 2>&1 || :
    end=$EPOCHREALTIME
    after=$(received) used=$(($(processor) - used))
    awk "BEGIN {printf \"%d %d\n\", ($after - $before) / ($end - $begin), $used}"
}
# Of 800 pings, one each millisecond, all of them during a scan: how many were not answered, their mean time in µs, and how many SYNs
# came in the scan's second.
pings() {
    local scanned
    syns >"$work/scan" &
    sleep 0.15
    on d1 -- ping -q -i 0.001 -c 800 -W 1 172.16.20.10 >"$work/ping" || :
    kill -0 $! || echo "run.sh: the scan was over before the pings" >&2
    wait $!
    read -r scanned _ <"$work/scan"
    sed -n 's/^\([0-9]*\) packets transmitted, \([0-9]*\) received.*/\1 \2/p; s|^rtt [^=]*= [^/]*/\([^/]*\)/.*|\1|p' "$work/ping" |
        tr '\n' ' ' | awk -v scanned="$scanned" '{ print $1 - $2, $3 * 1000, scanned }'
}
# IP packets (InReceives), also those that a filter drops later.
received() { on d4 -- cat /proc/net/snmp | awk '$1 == "Ip:" && $2 ~ /^[0-9]/ {print $4}'; }
# The other processor's: what the fast path does with what it is told, in milliseconds.
processor() {
    local process
    if process=$(pgrep -f "$vrouter forward"); then awk '{print ($14 + $15) * 10}' "/proc/$process/stat"; else echo 0; fi
}

for count in $connections; do
    # The kernel tells of the ends of those that begin while somebody listens.
    fast
    hold "$count"
    for kind in flood scan; do
        [ $kind = scan ] || on d4 -- nft 'table ip flood { chain input { type filter hook input priority 0; tcp flags syn drop; }; }'
        [ $kind = flood ] || on d4 -- nft delete table ip flood
        for ((round = 1; round <= rounds; round++)); do
            echo "$kind, $count connections: round $round of $rounds" >&2
            # What drifts is not to be for one of them only.
            if ((round % 2)); then
                kernel
                by_kernel=$(syns)
                fast
                by_fast=$(syns)
            else
                fast
                by_fast=$(syns)
                kernel
                by_kernel=$(syns)
            fi
            echo "$by_kernel $by_fast" >>"$work/$kind-$count"
        done
    done
done
for ((round = 1; round <= rounds; round++)); do
    echo "pings: round $round of $rounds" >&2
    kernel
    by_kernel=$(pings)
    fast --fast-path-from 0
    before=$(forwarded)
    by_fast=$(pings)
    echo "$by_kernel $by_fast $(($(forwarded) - before))" >>"$work/pings"
done

median() { sort -n | awk '{line[NR] = $1} END {print line[int((NR + 1) / 2)]}'; }
column() { cut -d' ' -f"$2" "$work/$1" | median; }
claim() { # TEXT CONDITION
    if awk "BEGIN {exit !($2)}"; then echo "- PASS: $1"; else echo "- FAIL: $1"; fi
}
report() {
    local kind count ratio file lost
    echo "| SYNs | connections carried | forwarded a second by the kernel | with the fast path on | ratio | processor time of \`vrouter forward\`, ms |"
    echo "|---|---|---|---|---|---|"
    for count in $connections; do
        for kind in flood scan; do
            file=$kind-$count
            # The median of the rounds' ratios: what disturbs the machine disturbs both sides of a round.
            ratio=$(awk '{printf "%.3f\n", $3 / $1}' "$work/$file" | median)
            echo "| $kind | $count | $(column "$file" 1) | $(column "$file" 3) | $ratio | $(column "$file" 4) |"
            claim "$kind, $count connections: with the fast path on, $ratio of what the kernel forwards without; claimed: at least 0.93" \
                "$ratio >= 0.93" >&3
        done
    done
    echo
    echo "| 800 pings during a scan | not answered | mean, µs | SYNs a second meanwhile | of 1,600 packets, forwarded by the worker |"
    echo "|---|---|---|---|---|"
    echo "| by the kernel | $(column pings 1) | $(column pings 2) | $(column pings 3) | |"
    lost=$(column pings 4)
    echo "| with the fast path on, for every frame | $lost | $(column pings 5) | $(column pings 6) | $(column pings 7) |"
    claim "pings during a scan that were not answered: $lost; claimed: no more than 1" "$lost <= 1" >&3
    claim "of their 1,600 packets, the worker forwarded $(column pings 7); claimed: at least 1,500" "$(column pings 7) >= 1500" >&3
}
report 3>"$work/claims" >"$work/report"
{ echo; cat "$work/claims"; } >>"$work/report"
cat "$work/report"
if [ -n "$write" ]; then
    {
        echo "# SYN flood and port scan: results"
        echo
        echo "- command: \`benchmarks/flood/run.sh${arguments:+ $arguments}\`, $(date -u +%F)"
        echo "- machine: $(sed -n '/^model name/{s/.*: //p;q}' /proc/cpuinfo), $(nproc) cores, kernel $(uname -r)"
        echo
        cat "$work/report"
    } >"$here/RESULTS.md"
fi
! grep -q FAIL "$work/report"
