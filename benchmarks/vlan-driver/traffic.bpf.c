// SPDX-License-Identifier: Apache-2.0
// The two ends of the benchmark, as XDP programs: `generate` writes a frame and sends it, `sink` counts what the router forwarded.
//
// Run by bench.c. Both stay in the kernel, because a generator that hands over its frames through a socket is slower than the
// router that it is to measure.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "traffic.h"

// Set by bench.c before loading, hence constants for the verifier.
const volatile struct traffic traffic;

// Of the one generator, on one CPU.
struct {
    __u32 frames;
    __u32 vlan; // the next, counted from first_vlan
} progress;

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} received SEC(".maps");

SEC("xdp")
int generate(struct xdp_md *ctx) {
    __u8 *data = (void *)(long)ctx->data;
    __u8 *end = (void *)(long)ctx->data_end;

    // The whole frame, every time: the kernel recycles the pages, with whatever the router has left in them.
    if (data + UNTAGGED_BYTES > end)
        return XDP_ABORTED;
    for (int i = 0; i < UNTAGGED_BYTES / 4; i++)
        ((__u32 *)data)[i] = traffic.frame[i];

    __u8 *ip = data + sizeof(struct ethhdr);
    if (traffic.vlans) {
        if (data + TAGGED_BYTES > end)
            return XDP_ABORTED;
        ((__u32 *)data)[TAGGED_BYTES / 4 - 1] = traffic.frame[TAGGED_BYTES / 4 - 1];
        *(__u16 *)ip = bpf_htons(traffic.first_vlan + progress.vlan);
        if (++progress.vlan == traffic.vlans)
            progress.vlan = 0;
        ip += 4;
    }
    // From each source host to each destination host in turn. What the addresses gain, the identification loses: the
    // header's checksum stays as it is.
    __u32 n = progress.frames++;
    __u8 source = n / traffic.hosts % traffic.hosts, destination = n % traffic.hosts;
    *(__u16 *)(ip + 4) = bpf_htons(IDENTIFICATION - source - destination);
    ip[15] += source;
    ip[19] += destination;
    // The UDP checksum is zero, "none".
    *(__u16 *)(ip + 20) = bpf_htons(1024 + n % FLOWS);
    return XDP_TX;
}

SEC("xdp")
int sink(struct xdp_md *ctx) {
    struct ethhdr *eth = (void *)(long)ctx->data;
    struct iphdr *ip = (void *)(eth + 1);

    // A tag is not in the bytes here: the sending veth end leaves it in the frame's metadata.
    if ((void *)(ip + 1) > (void *)(long)ctx->data_end || eth->h_proto != bpf_htons(ETH_P_IP))
        return XDP_PASS;
    if (ip->protocol != IPPROTO_UDP || ip->ttl != traffic.expected_ttl)
        return XDP_PASS;
    __u32 zero = 0;
    __u64 *count = bpf_map_lookup_elem(&received, &zero);
    if (count)
        *count += 1;
    return XDP_DROP;
}
