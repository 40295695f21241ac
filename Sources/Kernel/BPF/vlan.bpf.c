// SPDX-License-Identifier: Apache-2.0
// VLAN gateway interfaces for kernels without 8021q, as two BPF programs.
//
//   trunk ──ingress──▶ vlan_pop:  look up the VLAN id, take the tag off, receive on the gateway interface
//   gateway ─egress──▶ vlan_push: look up the interface, put its tag on, send on the trunk
//
// The gateway interface is one end of a veth pair; nothing ever passes through the pair. One program on the trunk serves
// every VLAN. Frames without a tag, with a priority tag (VLAN id 0), with a service tag (802.1ad), or with an id that has no
// gateway here go on untouched, to the next program and then to the host.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// IEEE 802.1Q-2022 9.6: priority (3 bits), drop eligible (1), VLAN id (12).
#define VLAN_ID_MASK 0x0fff
#define VLAN_PRIORITY_MASK 0xf000
// Stands in tc_index for the VLAN id of a frame that vlan_pop has seen: "the bits above are its priority". Routing leaves
// tc_index alone. A value that no classifier of the administrator's is likely to write there.
#define PRIORITY_KNOWN 0x0b1d

// Where frames go. Read by the control plane: Sources/Kernel/VLANProgram.swift has the same layout.
struct port {
    __u32 target; // interface index: of the gateway, or of the trunk
    __u32 vlan;   // VLAN id
    __u64 packets;
    __u64 bytes;
};

// Keys: a VLAN id on the way in; an interface index with this bit on the way out.
#define GATEWAY_KEY 0x80000000

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_HASH);
    __uint(max_entries, 2 * 4094);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __u32);
    __type(value, struct port);
} vlan_ports SEC(".maps");

SEC("tc")
int vlan_pop(struct __sk_buff *skb) {
    if (!skb->vlan_present || skb->vlan_proto != bpf_htons(ETH_P_8021Q))
        return TC_ACT_UNSPEC;
    __u32 tci = skb->vlan_tci;
    __u32 vlan = tci & VLAN_ID_MASK;
    struct port *port = bpf_map_lookup_elem(&vlan_ports, &vlan);
    if (!port)
        return TC_ACT_UNSPEC;
    if (bpf_skb_vlan_pop(skb))
        return TC_ACT_SHOT;
    port->packets += 1;
    port->bytes += skb->len;
    skb->tc_index = (tci & VLAN_PRIORITY_MASK) | PRIORITY_KNOWN;
    return bpf_redirect(port->target, BPF_F_INGRESS);
}

SEC("tc")
int vlan_push(struct __sk_buff *skb) {
    __u32 gateway = skb->ifindex | GATEWAY_KEY;
    struct port *port = bpf_map_lookup_elem(&vlan_ports, &gateway);
    if (!port)
        return TC_ACT_SHOT;
    __u32 bytes = skb->len;
    // A routed frame keeps the priority that it came with; one that starts here has priority 0, as on a VLAN device.
    __u32 index = skb->tc_index;
    __u32 priority = (index & VLAN_ID_MASK) == PRIORITY_KNOWN ? index & VLAN_PRIORITY_MASK : 0;
    skb->tc_index = 0; // it would outlive the wire, where that is a veth pair
    if (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), port->vlan | priority))
        return TC_ACT_SHOT;
    port->packets += 1;
    port->bytes += bytes;
    return bpf_redirect(port->target, 0);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
