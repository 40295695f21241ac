#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# How long do `vrouter up` and `vrouter down` take, by number of VLANs, beside standard tools that do the same?
#
# usage: run.sh [--sizes "2 100 1000 4094"] [--rounds N] [--vrouter FILE] [--write]
#   --vrouter   the program to measure; default: what `make build` has built
#   --write     also write the results into RESULTS.md beside this script, in the place of this driver's former ones
# Exit status: 0 only where every claim holds.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

# --- Inside: one measurement, in namespaces of its own (network, mounts, processes) which end with it

# inside product|tools SIZE one|group: prints lines of "WHAT MILLISECONDS", and how many rules there were
inside() {
    local who=$1 size=$2 deletion=$3 id trunk=trunk driver=8021q mac
    mount -t tmpfs run /run
    cd /run
    ip link add name $trunk type veth peer name far
    printf 'link set %s up\n' lo far $trunk | ip -batch -
    if ip link add link $trunk name probe type vlan id 1 2>/dev/null; then ip link del probe; else driver=ebpf; fi
    mac=$(ip -json link show $trunk | jq -r '.[].address')
    local vlans=() before
    before=$(ip -o link | wc -l)
    for ((id = 1; id <= size; id++)); do vlans+=(--vlan "$id=10.$((id / 256)).$((id % 256)).1/24"); done
    "$vrouter" rules --parent $trunk "${vlans[@]}" >rules.nft

    if [ "$who" = product ]; then
        timed up "$vrouter" up --parent $trunk "${vlans[@]}"
        expect "$size" "$(ip -o link show up | grep -c " $trunk\.")" gateways
        expect "$size" "$(ip -o -4 address show | grep -c " $trunk\.")" addresses
        timed again "$vrouter" up --parent $trunk "${vlans[@]}"
        "$vrouter" up --parent $trunk "${vlans[@]:2}" >/dev/null
        timed one "$vrouter" up --parent $trunk "${vlans[@]}"
        echo "rules $(nft --json list table inet vrouter | jq '[.nftables[] | select(.rule)] | length')"
        timed down "$vrouter" down
    else
        prepare
        timed up tools_up
        expect "$size" "$(ip -o link show up | grep -c " $trunk\.")" gateways
        timed "$deletion" tools_down
    fi
    expect "$before" "$(ip -o link | wc -l)" links
}

timed() { # WHAT COMMAND…
    local start=$EPOCHREALTIME end
    "${@:2}" >log 2>&1 || { cat log >&2; exit 1; }
    end=$EPOCHREALTIME
    echo "$1 $(((${end/[.,]/} - ${start/[.,]/}) / 1000))"
}

expect() { [ "$1" = "$2" ] || { echo "run.sh: $2 $3 where $1 were expected" >&2; exit 1; }; }

# The files that the tools read.
prepare() {
    local group=4711
    {
        if [ $driver = 8021q ]; then
            for ((id = 1; id <= size; id++)); do echo "link add link $trunk name $trunk.$id group $group type vlan id $id"; done
        else
            echo "link set $trunk promisc on"
            for ((id = 1; id <= size; id++)); do
                echo "link add name $trunk.$id address $mac mtu 1500 group $group type veth peer name peer.$id mtu 68"
                echo "link set peer.$id up"
            done
        fi
        for ((id = 1; id <= size; id++)); do echo "address add 10.$((id / 256)).$((id % 256)).1/24 brd + dev $trunk.$id"; done
    } >links.ip
    for ((id = 1; id <= size; id++)); do echo "link set $trunk.$id up"; done >up.ip
    {
        for ((id = 1; id <= size; id++)); do echo "net/ipv4/conf/$trunk.$id/arp_ignore = 1"; done
        echo "net/ipv4/ip_forward = 1"
    } >sysctl.conf
    echo "net/ipv4/ip_forward = 0" >before.conf
    if [ $driver = ebpf ]; then
        mkdir bpf
        mount -t bpf bpf bpf
        clang -O2 -g -target bpf -I"/usr/include/$(uname -m)-linux-gnu" -c "$here/../../Sources/Kernel/BPF/vlan.bpf.c" -o vlan.o
        local filter="pref 1 handle 1 bpf direct-action object-pinned $PWD/bpf/programs"
        {
            echo "qdisc add dev $trunk clsact"
            echo "filter add dev $trunk ingress $filter/vlan_pop"
            for ((id = 1; id <= size; id++)); do
                echo "qdisc add dev $trunk.$id clsact"
                echo "filter add dev $trunk.$id egress $filter/vlan_push"
            done
        } >filters.tc
    fi
    if [ "$deletion" = one ]; then
        for ((id = 1; id <= size; id++)); do echo "link del $trunk.$id"; done >delete.ip
    else
        echo "link del group $group" >delete.ip
    fi
}

tools_up() {
    ip -batch links.ip
    if [ $driver = ebpf ]; then
        bpftool prog loadall vlan.o bpf/programs
        tc -batch filters.tc
    fi
    ip -batch up.ip
    sysctl -q -p sysctl.conf
    nft -f rules.nft
}

tools_down() {
    ip -batch delete.ip
    nft delete table inet vrouter
    sysctl -q -p before.conf
    if [ $driver = ebpf ]; then
        tc qdisc del dev "$trunk" clsact
        ip link set "$trunk" promisc off
        rm -r bpf/programs
    fi
}

# --- Outside

if [ "${1-}" = --inside ]; then
    vrouter=$2
    inside "${@:3}"
    exit
fi

command_line=benchmarks/scale/run.sh
for word in "$@"; do case $word in *' '*) command_line+=" \"$word\"" ;; *) command_line+=" $word" ;; esac; done
sizes="2 100 1000 4094" rounds=3 vrouter=$here/../../.build/release/vrouter write=''
while [ $# -gt 0 ]; do
    case $1 in
    --sizes) sizes=$2; shift 2 ;;
    --rounds) rounds=$2; shift 2 ;;
    --vrouter) vrouter=$(realpath "$2"); shift 2 ;;
    --write) write=1; shift ;;
    *) sed -n '/^# usage/,/^set/{/^#/p}' "$0"; exit 2 ;;
    esac
done
[ "$(id -u)" = 0 ] || { echo "run.sh: needs root (namespaces, BPF)" >&2; exit 1; }
[ -x "$vrouter" ] || { echo "run.sh: there is no $vrouter: run 'make build' first" >&2; exit 1; }

missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need ip iproute2
need nft nftables
need sysctl procps
need jq jq
need unshare util-linux
driver=8021q
if ! unshare --net sh -c 'ip link add far type veth && ip link add link far name probe type vlan id 1' 2>/dev/null; then
    driver=ebpf
    need bpftool bpftool
    need clang clang
fi
if [ ${#missing[@]} -gt 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
fi

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
trap 'exit 130' INT TERM

measure() { # product|tools SIZE one|group
    unshare --net --mount --pid --fork --kill-child --mount-proc "$0" --inside "$vrouter" "$@" |
        sed "s/^/$2 $1 /" >>"$results/all"
}
for round in $(seq "$rounds"); do
    for size in $sizes; do
        echo "round $round of $rounds: $size VLANs" >&2
        measure product "$size" group
        measure tools "$size" group
        # Minutes, where there are many: once is enough to know, and a thousand is enough to see.
        if [ "$round" = 1 ] && [ "$size" -le 1000 ]; then measure tools "$size" one; fi
    done
done

# --- Print

median() { sort -g | awk '{ v[NR] = $1 } END { if (NR) print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
value() { awk -v s="$1" -v w="$2" -v k="$3" '$1 == s && $2 == w && $3 == k { print $4 }' "$results/all" | median; } # SIZE WHO WHAT
seconds() { awk -v v="$(value "$@")" 'BEGIN { if (v != "") printf "%.2f", v / 1000; else printf "–" }'; }

claim() { # VALUE LIMIT TEXT
    local verdict=FAIL
    if awk -v a="$1" -v b="$2" 'BEGIN { exit !(a <= b) }'; then verdict=PASS; fi
    printf -- '- %s: %s: %s ≤ %s\n' "$verdict" "$3" "$1" "$2"
}

report() {
    echo "- command: \`$command_line\`"
    echo "- machine: $(lscpu | sed -n 's/^Model name: *//p'), $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg) when done"
    echo "- kernel: $(uname -r), $(uname -m); medians of $rounds"
    echo
    echo "| seconds |$(for size in $sizes; do printf ' %s VLANs |' "$size"; done)"
    echo "|---|$(for size in $sizes; do printf -- '---|'; done)"
    local row size largest=0
    while IFS=: read -r who what row; do
        printf '| %s |' "$row"
        for size in $sizes; do printf ' %s |' "$(seconds "$size" "$who" "$what")"; done
        echo
    done <<'END'
product:up:`vrouter up`
tools:up:the same by `ip -batch`, `sysctl -p`, `nft -f`
product:again:`vrouter up` again, nothing to do
product:one:`vrouter up` with one VLAN more
product:down:`vrouter down`
tools:group:the same by `ip link del group`, `nft`, `sysctl -p`
tools:one:the same by `ip -batch`, links one by one, once
END
    echo
    for size in $sizes; do
        [ "$size" -gt "$largest" ] && largest=$size
        [ "$size" != 1000 ] || claim "$(value 1000 product up)" "$(value 1000 tools up)" "1000 VLANs: milliseconds of up, and of the tools"
        # With few VLANs both are a few waits for the kernel, of which `down` has more: see the table.
        [ "$size" -lt 1000 ] || claim "$(value "$size" product down)" "$(value "$size" product up)" "$size VLANs: milliseconds of down, and of up"
    done
    echo "- PASS: $largest VLANs work: all gateways are up with their addresses, and gone after \`down\`"
    local fewest=${sizes%% *}
    claim "$(value "$largest" product rules)" "$(value "$fewest" product rules)" "rules with $largest VLANs, and with $fewest"
}

report | tee "$results/report"
if [ -n "$write" ]; then
    {
        # All but this driver's section.
        if [ -e "$here/RESULTS.md" ]; then
            awk -v h="## Driver $driver" '/^## / { skip = $0 == h } !skip' "$here/RESULTS.md"
        else
            printf '# How long up and down take: results\n\n'
        fi
        printf '## Driver %s\n\n' "$driver"
        cat "$results/report"
        echo
    } >"$results/new"
    sed -e :a -e '/^\n*$/{$d;N;ba' -e '}' "$results/new" >"$here/RESULTS.md"
fi
if grep -q '^- FAIL' "$results/report"; then exit 1; fi
