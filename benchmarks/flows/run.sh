#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# How many connections can the stateful fast path carry, in how much memory, and how fast does it learn of them?
#
# usage: run.sh [--connections N] [--vrouter FILE] [--write]
#   --connections  default: 1000000
#   --vrouter      the program to measure; default: what `make build` has built
#   --write        also write RESULTS.md beside this script
# The kernel's connection table is filled by `conntrack`, in namespaces of its own; the number of connections that the kernel
# allows is raised for that time. Exit status: 0 only where every claim holds.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

# --- Inside: in namespaces of its own (network, mounts, processes), which end with it

inside() { # COUNT VROUTER: prints lines of "WHAT NUMBER"
    local count=$1 vrouter=$2
    mount -t tmpfs run /run
    ip link add trunk type veth peer name far
    printf 'link set %s up\n' lo far trunk | ip -batch -
    "$vrouter" up --parent trunk --vlan 100=10.0.0.1/16 --vlan 200=10.1.0.1/16 >/dev/null
    # Two hosts: all connections are between those.
    printf 'neigh add 10.%s.0.2 lladdr 02:00:00:00:00:0%s dev trunk.%s nud permanent\n' 0 1 100 1 2 200 | ip -batch -
    local flags=(--fast-path af-packet --fast-path-from 0 --fast-path-connections "$count")
    up "${flags[@]}" >/dev/null
    echo "memory-empty $(resident)"

    # Somebody listens: what begins now will be told of when it ends.
    entries "$count" | conntrack -R - >/dev/null
    echo "kernel $(conntrack -C)"
    # The forwarder is told of nothing that begins: it finds them when it looks.
    local start=$EPOCHREALTIME
    pkill -KILL -f "$vrouter forward"
    up "${flags[@]}" >/dev/null
    settled
    echo "found $(carried)"
    echo "found-milliseconds $(since "$start")"
    echo "memory $(resident)"
    echo "maps4 $(maps 4)"
    echo "maps6 $(maps 6)"

    # Each is changed once, which is an event, as its first answer would be.
    start=$EPOCHREALTIME
    local before
    before=$(processor)
    change "$count"
    echo "change-milliseconds $(since "$start")"
    settled
    echo "event-milliseconds $(($(processor) - before))"
    # All end.
    start=$EPOCHREALTIME
    conntrack -F 2>/dev/null
    while [ "$(carried)" != 0 ]; do sleep 0.02; done
    echo "end-milliseconds $(since "$start")"
}

up() { "$vrouter" up --parent trunk --vlan 100=10.0.0.1/16 --vlan 200=10.1.0.1/16 "$@"; }
carried() { "$vrouter" status --json | jq .fastPath.connections; }
since() { echo $(((${EPOCHREALTIME/[.,]/} - ${1/[.,]/}) / 1000)); }
# Octets: what the process has for itself, and the maps that it shares with the filter, which are for IPv4 (4) or IPv6 (6).
resident() { echo $(($(awk '/^RssAnon/ { print $2 }' "/proc/$(pgrep -f "$vrouter forward")/status") * 1024)); }
maps() { bpftool --json map show | jq "[.[] | select(.name == \"own_flows$1\" or .name == \"own_counts$1\") | .bytes_memlock] | add"; }
# Milliseconds of its processor time.
processor() { awk '{ print ($14 + $15) * 10 }' "/proc/$(pgrep -f "$vrouter forward")/stat"; }
# Until the number stays the same.
settled() {
    local last=-1 now=0
    while [ "$now" != "$last" ] || [ "$now" = 0 ]; do
        last=$now
        sleep 1
        now=$(carried)
    done
}

entries() { # COUNT
    awk -v count="$1" 'BEGIN {
        for (n = 0; n < count; n++) {
            port = 1024 + n % 60000; server = 1 + int(n / 60000)
            printf "-A -p tcp -s 10.0.0.2 -d 10.1.0.2 --sport %d --dport %d", port, server
            printf " -r 10.1.0.2 -q 10.1.0.1 --reply-port-src %d --reply-port-dst %d", server, port
            print " --state ESTABLISHED -u SEEN_REPLY,ASSURED -t 86400"
        }
    }'
}

# Sets the mark of all of them, with many requests in one message.
change() { # COUNT
    python3 - "$1" <<'END'
import socket, struct, sys
def attribute(kind, value):
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)
NEST, NETLINK_NETFILTER, CT_NEW = 0x8000, 12, 0x100
kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
kernel.bind((0, 0))
addresses = attribute(NEST | 1, attribute(1, socket.inet_aton("10.0.0.2")) + attribute(2, socket.inet_aton("10.1.0.2")))
mark = attribute(8, struct.pack("!I", 1))
count, sent = int(sys.argv[1]), 0
while sent < count:
    batch = b""
    for n in range(sent, min(sent + 256, count)):
        ports = attribute(2, struct.pack("!H", 1024 + n % 60000)) + attribute(3, struct.pack("!H", 1 + n // 60000))
        body = bytes([2, 0, 0, 0]) + attribute(NEST | 1, addresses + attribute(NEST | 2, attribute(1, b"\6") + ports)) + mark
        last = n == min(sent + 256, count) - 1
        batch += struct.pack("=IHHII", len(body) + 16, CT_NEW, 1 | (4 if last else 0), n, 0) + body
    kernel.send(batch)
    error = struct.unpack_from("=i", kernel.recv(65536), 16)[0]
    assert error == 0, error
    sent += 256
END
}

if [ "${1-}" = inside ]; then shift; vrouter=$2; inside "$@"; exit; fi

# --- Outside

count=1000000 vrouter=$here/../../.build/release/vrouter write=
arguments=$*
while [ $# -gt 0 ]; do
    case $1 in
    --connections) count=$2; shift 2 ;;
    --vrouter) vrouter=$2; shift 2 ;;
    --write) write=1; shift ;;
    *) sed -n '/^# usage/,/^set/{/^#/p}' "$0"; exit 64 ;;
    esac
done
[ -x "$vrouter" ] || { echo "run.sh: there is no $vrouter: run 'make build'" >&2; exit 1; }
vrouter=$(realpath "$vrouter")

allowed=/proc/sys/net/netfilter/nf_conntrack_max
before=$(cat $allowed)
trap 'echo "$before" >$allowed' EXIT
[ "$before" -ge $((count + 1000)) ] || echo $((count + 1000)) >$allowed

echo "$count connections: filled into the kernel's table, found there, changed, ended" >&2
declare -A got
while read -r what number; do got[$what]=$number; done < <(
    unshare --net --mount --pid --fork --mount-proc "$0" inside "$count" "$vrouter")
[ -n "${got[end-milliseconds]-}" ] || { echo "run.sh: it did not come to its end" >&2; exit 1; }

failed=0
claim() { # TEXT NUMBER LIMIT: the number is not more than the limit
    if [ "$2" -le "$3" ]; then echo "- PASS: $1: $2 ≤ $3"; else echo "- FAIL: $1: $2 > $3"; failed=1; fi
}
report() {
    local kernel=${got[kernel]} found=${got[found]}
    local maps4=${got[maps4]} maps6=${got[maps6]} memory=${got[memory]}
    local kept=$((memory - got[memory-empty]))
    echo "- command: \`benchmarks/flows/run.sh${arguments:+ $arguments}\`"
    echo "- machine: $(sed -n '/^model name/{s/.*: //p;q}' /proc/cpuinfo), $(nproc) cores, kernel $(uname -r)"
    echo
    echo "| what | |"
    echo "|---|---|"
    echo "| connections in the kernel's table | ${got[kernel]} |"
    echo "| of those, carried by the workers after they were found | ${got[found]} |"
    echo "| milliseconds to find them, from the start of \`vrouter forward\` on | ${got[found-milliseconds]} |"
    echo "| milliseconds in which all of them were changed, each an event | ${got[change-milliseconds]} |"
    echo "| milliseconds of \`vrouter forward\`'s processor time for that | ${got[event-milliseconds]} |"
    echo "| milliseconds to see that all of them had ended | ${got[end-milliseconds]} |"
    echo "| octets for a connection, both directions: its places in the table of IPv4 | $((maps4 / count)) |"
    echo "| … what \`vrouter forward\` keeps of it besides | $((kept / count)) |"
    echo "| … the places for as many connections of IPv6 | $((maps6 / count)) |"
    echo "| MiB in all | $(((memory + maps4 + maps6) >> 20)) |"
    echo
    claim "connections that found no place" $((kernel - found)) $((count / 10000))
    claim "octets of a connection's places in the table of IPv4" $((maps4 / count)) 128
    claim "microseconds of processor time for an event" $((${got[event-milliseconds]} * 1000 / count)) 20
}
report=$(report)
echo "$report"
[ -z "$write" ] || { echo "# Many connections: results"; echo; echo "$report"; } >"$here/RESULTS.md"
grep -q FAIL <<<"$report" && failed=1
exit $failed
