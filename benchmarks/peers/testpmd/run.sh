#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# DPDK's testpmd on AF_PACKET (net_af_packet). It sets the MAC addresses and the tag, and leaves the time to live alone, so it does
# less than a router. For `vrouter bench --forwarder`, which gives the environment and ends what is started here.
set -eu
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
trap 'exit 143' TERM
printf '%s\n' 'port stop 0' "tx_vlan set 0 $VLAN_2" 'port start 0' >"$state/commands"
# The core of the generator only waits; the other one receives, rewrites and sends, and never sleeps. It all ends with its input.
tail -f /dev/null | dpdk-testpmd --no-shconf --no-huge -m 128 --no-pci --no-telemetry -l 0,1 --main-lcore 0 \
    --vdev "net_af_packet0,iface=$TRUNK,blocksz=4096,framesz=2048,framecnt=2048,qdisc_bypass=1" -- \
    --total-num-mbufs=16384 --eth-peer="0,$HOST_MAC" --port-topology=loop --forward-mode=mac --disable-link-check --enable-hw-vlan-strip \
    --cmdline-file="$state/commands" &
wait "$!"
