#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# How much of the kernel's forwarding rate is left when frames come and go through the ebpf VLAN driver?
#
#   generate ─XDP─▶ left  ──┐            ┌── right ─▶ sink    untagged: what the kernel does by itself
#   generate ─XDP─▶ trunk ──┤ ip_forward ├── trunk ─▶ sink    tagged 100 in, 200 out, by vlan_pop and vlan_push
#     namespace "wire"      └────────────┘    namespace "router"
#
# usage: run.sh [--rounds N] [--milliseconds N] [--write]
#   --write     also write RESULTS.md beside this script
# Exit status: 0 only where the driver forwards at least 0.75 of the untagged rate.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
command_line="benchmarks/vlan-driver/run.sh${*:+ $*}"
rounds=11 milliseconds=200 claimed=0.75 write=''
while [ $# -gt 0 ]; do
    case $1 in
    --rounds) rounds=$2; shift 2 ;;
    --milliseconds) milliseconds=$2; shift 2 ;;
    --write) write=1; shift ;;
    *) sed -n '/^# usage/,/^set/{/^#/p}' "$0"; exit 2 ;;
    esac
done
[ "$(id -u)" = 0 ] || { echo "run.sh: needs root (namespaces, BPF)" >&2; exit 1; }

# --- What Debian has and this needs

missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need gcc gcc
need clang clang
need ip iproute2
need ethtool ethtool
need taskset util-linux
need pgrep procps
[ -e /usr/include/bpf/libbpf.h ] || missing+=(libbpf-dev)
[ -e /usr/include/linux/bpf.h ] || missing+=(linux-libc-dev)
if [ ${#missing[@]} -gt 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
fi

# --- Build

build=$(mktemp -d)
wire=vrouter-bench-wire-$$ router=vrouter-bench-router-$$
clean_up() {
    ip netns del "$wire" 2>/dev/null || true # with them go interfaces and programs
    ip netns del "$router" 2>/dev/null || true
    rm -rf "$build"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

bpf() { clang -O2 -g -Wall -Werror -target bpf -I"/usr/include/$(gcc -print-multiarch)" -c "$1" -o "$2"; }
gcc -O2 -Wall -Wextra -Werror -o "$build/bench" "$here/bench.c" -lbpf
bpf "$here/traffic.bpf.c" "$build/traffic.o"
bpf "$here/../../Sources/Kernel/BPF/vlan.bpf.c" "$build/vlan.o"

# --- Interfaces. Forwarding and routes only; no firewall rules, no conntrack.

ip netns add "$wire"
ip netns add "$router"
r() { ip netns exec "$router" "$@"; }
r sysctl -qw net.ipv4.ip_forward=1
r ip link set lo up

# Both ends need GRO, which gives a veth end its NAPI: XDP frames are delivered to no other.
pair() {
    ip link add name "$1" netns "$router" type veth peer name "$1" netns "$wire"
    ip -n "$router" link set "$1" up
    ip -n "$wire" link set "$1" up
    r ethtool -K "$1" gro on
    ip netns exec "$wire" ethtool -K "$1" gro on
}

# Sixteen hosts behind an interface, all at one address of the wire.
hosts() {
    ip -n "$router" address add "$2.1/24" dev "$1"
    for host in $(seq 2 17); do
        echo "neighbour add $2.$host lladdr 02:00:00:00:00:02 dev $1 nud permanent"
    done | ip -n "$router" -batch -
}

network=0
# driver NAME tcx|clsact VLANS LABEL: a trunk NAME with two gateway interfaces, and VLANS entries in the driver's map
driver() {
    pair "$1"
    local mac vlan
    mac=$(r cat "/sys/class/net/$1/address")
    network=$((network + 1))
    for vlan in 100 200; do
        ip -n "$router" link add "$1.$vlan" address "$mac" type veth peer name "$1.$vlan.p"
        ip -n "$router" link set "$1.$vlan.p" up
        ip -n "$router" link set "$1.$vlan" up
        hosts "$1.$vlan" "10.$network.$vlan"
    done
    r "$build/bench" attach "$2" "$build/vlan.o" "$1" "$3" "100=$1.100" "200=$1.200"
    cases+=("$1")
    macs[$1]=$mac networks[$1]=10.$network vlans[$1]=$3 label[$1]=$4
}

declare -A macs networks vlans label
cases=()
pair left
pair right
hosts left 10.0.100
hosts right 10.0.200
macs[left]=$(r cat /sys/class/net/left/address)
ip -n "$wire" link add name out type veth peer name limit
for end in out limit; do
    ip -n "$wire" link set "$end" up
    ip netns exec "$wire" ethtool -K "$end" gro on
done

# The product attaches its programs by tcx where the kernel has it (Linux 6.6), else by clsact filters.
product=clsact
if [ "$(printf '%s\n' 6.6 "$(uname -r)" | sort -V | head -1)" = 6.6 ]; then product=tcx; fi
driver two "$product" 2 "ebpf driver by $product"
for count in 1000 4094; do driver "many$count" "$product" "$count" "ebpf driver by $product, $count VLANs"; done
[ "$product" = clsact ] || driver clsact clsact 2 "ebpf driver by clsact, as on older kernels"

# --- Measure

# send OUT SINK MAC SOURCE DESTINATION HOSTS TTL FIRST_VLAN VLANS
send() {
    ip netns exec "$wire" nice -n -20 taskset -c 0 \
        "$build/bench" traffic "$build/traffic.o" "$1" "$2" "$milliseconds" "${@:3}" "$(pgrep -x ksoftirqd/0)"
}

# measure CASE HOSTS: millions of frames per second
measure() {
    case $1 in
    limit) send out limit 02:00:00:00:00:02 10.0.100.2 10.0.200.2 "$2" 64 0 0 ;;
    untagged) send left right "${macs[left]}" 10.0.100.2 10.0.200.2 "$2" 63 0 0 ;;
    *)
        local first=100 spread=1
        [ "${vlans[$1]}" = 2 ] || first=1 spread=${vlans[$1]}
        send "$1" "$1" "${macs[$1]}" "${networks[$1]}.100.2" "${networks[$1]}.200.2" "$2" 63 "$first" "$spread"
        ;;
    esac
}

median() { sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

for round in $(seq "$rounds"); do
    echo "round $round of $rounds" >&2
    for hosts in 16 1; do
        for case in limit untagged "${cases[@]}"; do
            echo "$hosts $case $(measure "$case" "$hosts")"
        done
    done
done >"$build/rounds"

# --- Print

# The median of the ratios to the untagged rate of the same round.
ratio() { # HOSTS CASE
    awk -v h="$1" -v c="$2" '$1 != h { next } $2 == "untagged" { u = $3 } $2 == c { print $3 / u }' "$build/rounds" | median
}

# row HOSTS CASE LABEL: each round's rate, their median, the median ratio, and the ratio of the best rates, which other load on
# the machine has disturbed least
row() {
    local rates ratio best
    rates=$(awk -v h="$1" -v c="$2" '$1 == h && $2 == c { print $3 }' "$build/rounds")
    ratio=$(ratio "$1" "$2")
    best=$(awk -v h="$1" -v c="$2" '$1 != h { next } $2 == "untagged" && $3 > u { u = $3 } $2 == c && $3 > b { b = $3 }
                                    END { print b / u }' "$build/rounds")
    [ "$2" != limit ] || ratio='' best=''
    printf '| %s | %s | %s | %s | %s |\n' "$3" "$(echo "$rates" | awk '{ printf "%s%.2f", (NR > 1 ? " " : ""), $1 }')" \
        "$(echo "$rates" | median | awk '{ printf "%.2f", $1 }')" \
        "${ratio:+$(printf '%.2f' "$ratio")}" "${best:+$(printf '%.2f' "$best")}"
}

table() {
    echo "| $2 | Mpps, round by round | median | of untagged: median of rounds | best of rounds |"
    echo "|---|---|---|---|---|"
    row "$1" limit "the generator alone, into an XDP drop"
    row "$1" untagged "untagged, veth to veth"
    for case in "${cases[@]}"; do row "$1" "$case" "${label[$case]}"; done
    echo
}

report() {
    echo "Forwarding minimum-size (\"64-byte\") UDP frames, no firewall rules. One core does all of it (generator, router and sink);"
    echo "Mpps are millions of frames in a second of its time."
    echo
    echo "- command: \`$command_line\`"
    echo "- machine: $(lscpu | sed -n 's/^Model name: *//p'), $(nproc) cores$(lscpu | sed -n 's/^Hypervisor vendor: */, under /p'), load $(cut -d' ' -f1 /proc/loadavg) when done"
    echo "- kernel: $(uname -r), $(uname -m); $(clang --version | head -1 | sed 's/ *(.*//')"
    echo
    table 16 "16 × 16 hosts"
    table 1 "one host to one host, 256 ports"
    ratio 16 two | awk -v c="$claimed" -v l="${label[two]}" '
        { printf "%s: %s forwards %.2f of what is forwarded untagged, 16 × 16 hosts; claimed: %.2f\n", ($1 >= c) ? "PASS" : "FAIL", l, $1, c }'
}

report | tee "$build/report"
if [ -n "$write" ]; then
    { echo "# The ebpf VLAN driver: results"; echo; cat "$build/report"; } | sed -e :a -e '/^\n*$/{$d;N;ba' -e '}' >"$here/RESULTS.md"
fi
if grep -q '^FAIL' "$build/report"; then exit 1; fi
