#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# How fast does vrouter route between VLANs, and what do others make of the same machine?
#
# usage: run.sh [--peers "reflector reflector-owned ovs testpmd"] [--write] [options of `vrouter bench`]
#   --peers     what is measured beside it, of benchmarks/peers; "" for nothing
#   --write     also write benchmarks/RESULTS.md and forwarding/results.json and .svg
# `make bench` builds vrouter, installs what the peers need, and runs this.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
peers="reflector reflector-owned ovs testpmd" write='' options=()
while [ $# -gt 0 ]; do
    case $1 in
    --peers) peers=$2; shift 2 ;;
    --write) write=1; shift ;;
    --help) sed -n '/^# usage/,/^set/{/^#/p}' "$0"; exit 0 ;;
    *) options+=("$1"); shift ;;
    esac
done
vrouter=${VROUTER:-$here/../../.build/release/vrouter}
[ -x "$vrouter" ] || { echo "run.sh: there is no $vrouter: run 'make build'" >&2; exit 1; }

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
forwarders=()
for peer in $peers; do
    case $peer in
    reflector*)
        gcc -O2 -Wall -Wextra -Werror -o "$build/reflector" "$here/../peers/reflector/reflector.c" -lbpf
        object=
        if [ "$peer" = reflector-owned ]; then
            object=$build/ownership.bpf.o
            clang -O2 -g -Wall -Werror -target bpf -I"/usr/include/$(gcc -dumpmachine)" \
                -c -o "$object" "$here/../../Sources/Kernel/BPF/ownership.bpf.c"
        fi
        # The shell that runs it expands what vrouter bench puts in its environment.
        # shellcheck disable=SC2016
        forwarders+=(--forwarder "$peer=exec $build/reflector "'$TRUNK $HOST_MAC $VLAN_1 $VLAN_2 '"$object")
        ;;
    *) forwarders+=(--forwarder "$peer=exec $here/../peers/$peer/run.sh") ;;
    esac
done

# So many flows, so many connections: what the kernel holds is raised for that time, and its hash table with it.
most=$(printf '%s\n' "${options[@]}" | sed -n '/^--flows$/{n;s/,/\n/g;p}' | sort -n | tail -n 1)
limit=/proc/sys/net/netfilter/nf_conntrack
if [ "${most:-0}" -gt "$(cat ${limit}_max)" ]; then
    before="$(cat ${limit}_max) $(cat ${limit}_buckets)"
    trap 'rm -rf "$build"; echo "${before% *}" >${limit}_max; echo "${before#* }" >${limit}_buckets' EXIT
    echo "$most" >${limit}_max
    echo "$most" >${limit}_buckets
fi
"$vrouter" bench --json "$build/results.json" --plot "$build/results.svg" "${forwarders[@]}" "${options[@]}"
[ -n "$write" ] || exit 0
cp "$build/results.json" "$build/results.svg" "$here"
command_line="make bench${options:+ BENCH=\"${options[*]}\"}"
jq --raw-output --arg command "$command_line" --from-file "$here/results.jq" "$build/results.json" >"$here/../RESULTS.md"
echo "benchmarks/RESULTS.md and benchmarks/forwarding/results.json and .svg are written"
