// SPDX-License-Identifier: Apache-2.0
// VLAN gateway interfaces for kernels without 8021q, as two tc programs.
//
//   trunk ──ingress──▶ vlan_pop:  look up the VLAN id, take the tag off, receive on the gateway interface
//   gateway ─egress──▶ vlan_push: look up the VLAN id, put the tag on, send on the trunk
//
// The gateway interface is one end of a veth pair; nothing ever passes through the pair. One filter on the trunk serves
// every VLAN. Frames without a tag, with a priority tag (VLAN id 0), with a service tag (802.1ad), or with an id that has no
// gateway here go on to the next filter untouched.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define VLAN_ID_MASK 0x0fff
#define VLAN_PRIORITY_MASK 0xe000
// Set in tc_index beside the three priority bits of a frame that vlan_pop has seen: "priority known".
#define PRIORITY_KNOWN 0x0800

// One VLAN. Read by the control plane: Sources/Kernel/VLANProgram.swift has the same layout.
struct port {
    __u32 gateway; // interface index; 0: no gateway for this VLAN id
    __u32 trunk;   // interface index
    __u64 received_packets;
    __u64 received_bytes;
    __u64 sent_packets;
    __u64 sent_bytes;
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); // by VLAN id
    __uint(max_entries, 4096);
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
    if (!port || !port->gateway)
        return TC_ACT_UNSPEC;
    if (bpf_skb_vlan_pop(skb))
        return TC_ACT_SHOT;
    port->received_packets += 1;
    port->received_bytes += skb->len;
    skb->tc_index = PRIORITY_KNOWN | (tci & VLAN_PRIORITY_MASK);
    return bpf_redirect(port->gateway, BPF_F_INGRESS);
}

SEC("tc")
int vlan_push(struct __sk_buff *skb) {
    // The filter on each gateway has its VLAN id as class, which stands here before the program runs.
    __u32 vlan = skb->tc_classid & VLAN_ID_MASK;
    struct port *port = bpf_map_lookup_elem(&vlan_ports, &vlan);
    if (!port || port->gateway != skb->ifindex)
        return TC_ACT_SHOT;
    // A routed frame keeps the priority that it came with; one that starts here has priority 0, as on a VLAN device.
    __u32 priority = skb->tc_index & PRIORITY_KNOWN ? skb->tc_index & VLAN_PRIORITY_MASK : 0;
    skb->tc_index = 0;
    port->sent_packets += 1;
    port->sent_bytes += skb->len;
    if (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), vlan | priority))
        return TC_ACT_SHOT;
    return bpf_redirect(port->trunk, 0);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
