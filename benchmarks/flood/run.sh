#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What does the fast path cost where connections begin as fast as they can and nothing comes of them?
#
# usage: run.sh [--rounds N] [--vrouter FILE] [--write]
#   --vrouter   the program to measure; default: what `make build` has built
#   --write     also write the result into RESULTS.md beside this script
# The fast path carries 256 connections meanwhile, so that it has reason to ask for what ends. Exit status: 0 only where both claims
# hold. Installs hping3, conntrack, nftables, python3 and jq from Debian where they are missing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
rounds=9 vrouter=$here/../../.build/release/vrouter write=
while [ $# -gt 0 ]; do
    case $1 in
    --rounds) rounds=$2 && shift 2 ;;
    --vrouter) vrouter=$2 && shift 2 ;;
    --write) write=yes && shift ;;
    *) sed -n '3,10s/^# \{0,1\}//p' "$0" >&2 && exit 64 ;;
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

# Connections between d1 and d2 that are there from now on.
held=256
hold() {
    on d2 -- python3 -c 'import socket
server = socket.create_server(("172.16.20.10", 7))
held = [server.accept() for _ in range('$held')]
server.accept()' &
    sleep 0.5
    on d1 -- python3 -c 'import socket, time
held = [socket.create_connection(("172.16.20.10", 7)) for _ in range('$held')]
time.sleep(100000)' &
    sleep 0.5
}
carried() { on host3 -- "$vrouter" status --json | jq .fastPath.connections; }

# A second of SYNs, each from a port and to a port that had none yet. What d4 does not answer is a flood; what it refuses is a scan.
# Prints how many d4 got a second.
syns() {
    local before after begin end
    # Those that are held stay.
    on host3 -- conntrack -D -d 172.16.20.11 >/dev/null 2>&1 || :
    sleep 0.5
    before=$(received)
    begin=$EPOCHREALTIME
    on d1 -- timeout --signal=INT 1 hping3 --flood --quiet --syn --destport ++1024 172.16.20.11 >/dev/null 2>&1 || :
    end=$EPOCHREALTIME
    after=$(received)
    awk "BEGIN {printf \"%d\n\", ($after - $before) / ($end - $begin)}"
}
# IP packets (InReceives), also those that a filter drops later.
received() { on d4 -- cat /proc/net/snmp | awk '$1 == "Ip:" && $2 ~ /^[0-9]/ {print $4}'; }
# The other processor's: what the fast path does with what it is told, in milliseconds.
processor() { awk '{print ($14 + $15) * 10}' "/proc/$(pgrep -f "$vrouter forward")/stat"; }

# The kernel tells of the ends of those that begin while somebody listens.
"${router[@]}" --fast-path af-packet >/dev/null
hold
for kind in flood scan; do
    [ $kind = scan ] || on d4 -- nft 'table ip flood { chain input { type filter hook input priority 0; tcp flags syn drop; }; }'
    [ $kind = flood ] || on d4 -- nft delete table ip flood
    for ((round = 1; round <= rounds; round++)); do
        echo "$kind: round $round of $rounds" >&2
        "${router[@]}" >/dev/null
        kernel=$(syns)
        "${router[@]}" --fast-path af-packet >/dev/null
        until [ "$(carried)" = $held ]; do sleep 0.1; done
        before=$(processor)
        fast=$(syns)
        echo "$kernel $fast $(($(processor) - before))" >>"$work/$kind"
    done
done

median() { sort -n | awk '{line[NR] = $1} END {print line[int((NR + 1) / 2)]}'; }
report() {
    local kind ratio=()
    echo "| SYNs | forwarded a second by the kernel | with the fast path on | ratio | processor time of \`vrouter forward\`, ms |"
    echo "|---|---|---|---|---|"
    for kind in flood scan; do
        # The median of the rounds' ratios: what disturbs the machine disturbs both sides of a round.
        ratio[${#ratio[@]}]=$(awk '{printf "%.3f\n", $2 / $1}' "$work/$kind" | median)
        echo "| $kind | $(cut -d' ' -f1 "$work/$kind" | median) | $(cut -d' ' -f2 "$work/$kind" | median) | ${ratio[-1]} | $(cut -d' ' -f3 "$work/$kind" | median) |"
    done
    echo
    for kind in 0 1; do
        awk -v ratio="${ratio[$kind]}" -v kind="$([ $kind = 0 ] && echo flood || echo scan)" 'BEGIN {
            print (ratio >= 0.95 ? "- PASS" : "- FAIL") ": " kind ": with the fast path on, " ratio " of what the kernel forwards without; claimed: at least 0.95"
        }'
    done
}
report >"$work/report"
cat "$work/report"
if [ -n "$write" ]; then
    {
        echo "# SYN flood and port scan: results"
        echo
        echo "- command: \`benchmarks/flood/run.sh --rounds $rounds --write\`, $(date -u +%F)"
        echo "- machine: $(sed -n '/^model name/{s/.*: //p;q}' /proc/cpuinfo), $(nproc) cores, kernel $(uname -r)"
        echo
        cat "$work/report"
    } >"$here/RESULTS.md"
fi
! grep -q FAIL "$work/report"
