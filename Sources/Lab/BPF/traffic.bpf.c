// SPDX-License-Identifier: Apache-2.0
// The two ends of `vrouter bench`, as XDP programs: `generate` writes frames, `sink` counts those that the router has forwarded.
//
//   generate ─▶ trunk ═══ router's trunk ─▶ the router ─▶ router's trunk ═══ trunk ─▶ sink
//
// Both stay in the kernel, because a generator that hands over its frames through a socket is slower than the router that it
// is to measure. Sources/Lab/Traffic.swift has the same layouts.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stddef.h>

// A tag in the frame's bytes. linux/if_vlan.h keeps this for the kernel.
struct tag {
    __be16 tci;
    __be16 type;
};

// The start of a frame's payload. The shortest frame has 18 octets of it.
struct probe {
    __be32 mark;
    __be16 destination_tci; // the VLAN that it is to arrive in
    __u16 is_nudge;         // beyond the limit: counted by nobody
    __u64 sent; // nanoseconds of the machine's clock
} __attribute__((packed));
#define MARK 0x76724231

// What a generated frame starts with.
struct headers {
    struct ethhdr ethernet;
    struct tag tag;
    struct iphdr ip;
    struct udphdr udp;
    struct probe probe;
} __attribute__((packed));

// What it starts with on the way back: the kernel leaves a tag in the frame's metadata, a socket in its bytes.
struct untagged {
    struct ethhdr ethernet;
    struct iphdr ip;
    struct udphdr udp;
    struct probe probe;
} __attribute__((packed));

// RFC 863. A frame from this port is an answer.
#define DISCARD 9

// All hosts have the MAC address 02:00:00:00:00:02.
#define is_host(mac) ((mac)[0] == 2 && !(mac)[1] && !(mac)[2] && !(mac)[3] && !(mac)[4] && (mac)[5] == 2)

struct parameters {
    __u64 interval; // between two frames, in nanoseconds/256; 0: one after the other
    __u64 limit;    // how many frames are counted; 0: all
    __u32 bytes;    // of a frame with its tag, without frame check sequence
    __u32 flows;
    __u32 timed;        // write and read the time
    __u32 answering;    // the sink answers each frame
    __u32 expected_ttl; // of a frame that was forwarded; 0: any
    __u32 reserved;
};

// What differs from flow to flow; as in a frame.
struct flow {
    __be32 source;
    __be32 destination;
    __be16 source_port;
    __sum16 checksum; // of the IPv4 header
    __be16 tci;
    __be16 destination_tci;
};

// Of the one generator, on one CPU.
struct progress {
    __u64 next; // when the next frame is due, as the interval
    __u64 frames;
    __u32 flow;
    __u32 reserved;
};

struct counters {
    __u64 sent;
    __u64 idle; // no frame was due yet
    __u64 received;
    __u64 answered;
    __u64 wrong; // came back, but not as a router forwards a frame
};

// More than a live frame can be: one page, less what the kernel needs of it.
#define FRAME_BYTES 4096
struct pattern {
    __u8 bytes[FRAME_BYTES];
};

// Octaves of nanoseconds, 32 steps each: 3 % from one to the next.
#define STEP_BITS 5

#define ARRAY(name, kind, element, count)       \
    struct {                                    \
        __uint(type, BPF_MAP_TYPE_##kind);      \
        __uint(max_entries, count);             \
        __type(key, __u32);                     \
        __type(value, element);                 \
    } name SEC(".maps")

ARRAY(parameters, ARRAY, struct parameters, 1);
ARRAY(patterns, ARRAY, struct pattern, 1);
ARRAY(flows, ARRAY, struct flow, 1); // Traffic.swift makes it as large as is asked for
ARRAY(progress, ARRAY, struct progress, 1);
ARRAY(counters, PERCPU_ARRAY, struct counters, 1);
ARRAY(latencies, PERCPU_ARRAY, __u64, 64 << STEP_BITS);

// A generator that was held up does not make up for more frames than this.
#define BACKLOG 32

static const __u32 zero = 0;

SEC("xdp")
int generate(struct xdp_md *ctx) {
    struct parameters *wanted = bpf_map_lookup_elem(&parameters, &zero);
    struct progress *progress_now = bpf_map_lookup_elem(&progress, &zero);
    struct counters *count = bpf_map_lookup_elem(&counters, &zero);
    struct pattern *pattern = bpf_map_lookup_elem(&patterns, &zero);
    if (!wanted || !progress_now || !count || !pattern)
        return XDP_ABORTED;

    if (wanted->interval) {
        __u64 now = bpf_ktime_get_ns() << 8;
        if (now < progress_now->next) {
            count->idle += 1;
            return XDP_DROP;
        }
        if (now - progress_now->next > BACKLOG * wanted->interval)
            progress_now->next = now;
        progress_now->next += wanted->interval;
    }
    __u32 number = progress_now->flow;
    progress_now->flow = number + 1 < wanted->flows ? number + 1 : 0;
    struct flow *flow = bpf_map_lookup_elem(&flows, &number);
    if (!flow)
        return XDP_ABORTED;

    // The whole frame, every time: the kernel recycles the pages, with whatever the router has left in them.
    __u32 bytes = wanted->bytes;
    if (bytes < sizeof(struct headers))
        return XDP_ABORTED;
    barrier_var(bytes); // two comparisons made one are beyond the verifiers of older kernels
    if (bytes > FRAME_BYTES || bpf_xdp_store_bytes(ctx, 0, pattern, bytes))
        return XDP_ABORTED;
    struct headers *frame = (void *)(long)ctx->data;
    if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
        return XDP_ABORTED;
    frame->tag.tci = flow->tci;
    frame->ip.saddr = flow->source;
    frame->ip.daddr = flow->destination;
    frame->ip.check = flow->checksum;
    // The UDP checksum is zero, "none".
    frame->udp.source = flow->source_port;
    frame->probe.destination_tci = flow->destination_tci;
    // A veth end without an XDP program does not notice an answer before the next frame comes (veth_xdp_flush), so frames
    // never end.
    frame->probe.is_nudge = wanted->limit && progress_now->frames >= wanted->limit;
    if (wanted->timed)
        frame->probe.sent = bpf_ktime_get_ns();
    progress_now->frames += 1;
    count->sent += 1;
    return XDP_TX;
}

static __always_inline __u16 checksum(void *ip) {
    __u16 *words = ip;
    __u32 sum = 0;
    for (int i = 0; i < 10; i++)
        sum += words[i];
    sum = (sum & 0xffff) + (sum >> 16);
    return ~(sum + (sum >> 16));
}

static __always_inline void note_latency(__u64 sent) {
    __u64 latency = bpf_ktime_get_ns() - sent;
    __u32 octave = 0;
    // The steps of an octave are what follows the highest bit.
    for (__u32 width = 32; width; width >>= 1)
        if (latency >> (octave + width))
            octave += width;
    __u32 step = octave < STEP_BITS ? latency : latency >> (octave - STEP_BITS);
    __u32 index = octave < STEP_BITS ? step : octave << STEP_BITS | (step & ((1 << STEP_BITS) - 1));
    __u64 *frames = bpf_map_lookup_elem(&latencies, &index);
    if (frames)
        *frames += 1;
}

// Sends a frame back to where it came from, in the VLAN that it was to arrive in. The whole of it need not be there.
static __always_inline int answer(struct xdp_md *ctx, int is_tagged) {
    if (!is_tagged && bpf_xdp_adjust_head(ctx, -(int)sizeof(struct tag)))
        return XDP_ABORTED;
    struct headers *frame = (void *)(long)ctx->data;
    if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
        return XDP_ABORTED;
    struct ethhdr ethernet;
    if (is_tagged)
        ethernet = frame->ethernet;
    else
        ethernet = *(struct ethhdr *)((void *)frame + sizeof(struct tag));
    __builtin_memcpy(frame->ethernet.h_dest, ethernet.h_source, ETH_ALEN);
    __builtin_memcpy(frame->ethernet.h_source, ethernet.h_dest, ETH_ALEN);
    frame->ethernet.h_proto = bpf_htons(ETH_P_8021Q);
    frame->tag.tci = frame->probe.destination_tci;
    frame->tag.type = bpf_htons(ETH_P_IP);
    __be32 address = frame->ip.saddr;
    frame->ip.saddr = frame->ip.daddr;
    frame->ip.daddr = address;
    frame->ip.ttl = 64;
    frame->ip.check = 0;
    frame->ip.check = checksum((void *)frame + offsetof(struct headers, ip));
    frame->udp.dest = frame->udp.source;
    frame->udp.source = bpf_htons(DISCARD);
    return XDP_TX;
}

SEC("xdp")
int sink(struct xdp_md *ctx) {
    struct parameters *wanted = bpf_map_lookup_elem(&parameters, &zero);
    struct counters *count = bpf_map_lookup_elem(&counters, &zero);
    struct ethhdr *ethernet = (void *)(long)ctx->data;
    void *end = (void *)(long)ctx->data_end;
    if (!wanted || !count || (void *)(ethernet + 1) > end)
        return XDP_PASS;
    int is_tagged = ethernet->h_proto == bpf_htons(ETH_P_8021Q);
    struct untagged *frame = (void *)ethernet + (is_tagged ? sizeof(struct tag) : 0);
    // The addresses before, the type and what follows behind the tag.
    if ((void *)(frame + 1) > end || frame->ethernet.h_proto != bpf_htons(ETH_P_IP) ||
        frame->ip.protocol != IPPROTO_UDP || frame->probe.mark != bpf_htonl(MARK))
        return XDP_PASS;

    if (frame->probe.is_nudge)
        return XDP_DROP;
    if (frame->udp.source == bpf_htons(DISCARD)) {
        count->answered += 1;
        return XDP_DROP;
    }
    if (!is_host(ethernet->h_dest) || (wanted->expected_ttl && frame->ip.ttl != wanted->expected_ttl) ||
        checksum((void *)frame + sizeof(struct ethhdr)) ||
        (is_tagged && ((struct headers *)ethernet)->tag.tci != frame->probe.destination_tci)) {
        count->wrong += 1;
        return XDP_DROP;
    }
    count->received += 1;
    if (wanted->timed)
        note_latency(frame->probe.sent);
    return wanted->answering ? answer(ctx, is_tagged) : XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
