#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Open vSwitch's userspace datapath as the router between two VLANs, on AF_PACKET: the work of vrouter's fast path, with its rules
# written by hand. For `vrouter bench --forwarder`, which gives the environment and ends what is started here.
set -eu
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
trap 'exit 143' TERM
export OVS_RUNDIR="$state" OVS_LOGDIR="$state" OVS_DBDIR="$state" OVS_SYSCONFDIR="$state"
ovsdb-tool create "$state/conf.db" /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server --remote="punix:$state/db.sock" --pidfile --detach --no-chdir --log-file "$state/conf.db"
ovs-vsctl --no-wait init
# One thread for receiving and sending, away from the generator's core.
ovs-vswitchd "unix:$state/db.sock" --pidfile --no-chdir --log-file --verbose=console:off &
switch=$!
ovs-vsctl --timeout=10 add-br router -- set bridge router datapath_type=netdev \
    -- add-port router "$TRUNK" -- set interface "$TRUNK" ofport_request=1
ovs-ofctl del-flows router
for pair in "$VLAN_1 $VLAN_2" "$VLAN_2 $VLAN_1"; do
    # shellcheck disable=SC2086 # two words
    set -- $pair
    ovs-ofctl add-flow router "in_port=1,dl_vlan=$1,dl_dst=$TRUNK_MAC,ip,actions=dec_ttl,mod_dl_src:$TRUNK_MAC,mod_dl_dst:$HOST_MAC,mod_vlan_vid:$2,in_port"
done
wait "$switch"
