// SPDX-License-Identifier: Apache-2.0
// Who forwards a frame: the kernel or a worker of the fast path. One decision for each frame, made once:
//
//   trunk ──tap──▶ frame_owned: the filter of a worker's packet socket. A worker's frame goes into its ring.
//         ──tc───▶ frame_taken: runs next, for the same frame, on the same CPU. What went into a ring ends here.
//
// A worker's is only what the kernel would forward for certain, and would forward in the same way; everything else (first
// packets, answers of the router's own, anything unusual) is left to the kernel. Where no worker is there to decide, or where
// it has not been heard of for a while, everything is the kernel's.
//
// Two things make it certain: that the packet belongs to a connection that the kernel has let pass in both directions (flows), or
// that the kernel does not look at connections there at all, so that the destination decides (stateless).
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// IEEE 802.1Q-2022 9.6: VLAN id in the lowest 12 bits.
#define VLAN_ID_MASK 0x0fff
// RFC 791 3.1: "more fragments" and the offset, of the flags and offset field.
#define FRAGMENT_MASK 0x3fff
#define MILLISECOND 1000000ULL
#define SECOND (1000 * MILLISECOND)
// A worker that has not been heard of for so long is taken to be gone. It beats every few milliseconds.
#define SILENCE_LIMIT (30 * MILLISECOND)
// A flow that sent super-frames stays with the kernel until it has sent none for so long.
#define BULK_MEMORY (1000 * MILLISECOND)

// RFC 9293 3.1: the 13th and 14th octet of a TCP header, in network order.
#define TCP_FIN 0x0001
#define TCP_SYN 0x0002
#define TCP_RST 0x0004
#define TCP_ACK 0x0010

// Read and written by the control plane: Sources/Kernel/Ownership.swift has the same layouts.

// Of the VLAN that a frame comes from.
struct ingress {
    __u16 mtu;          // IP MTU of the way in; 0: its frames are the kernel's
    __u8 checks_source; // whether only hosts of this VLAN may send (rp_filter)
    __u8 is_stateless;  // whether the destination decides
};

// What lies behind a destination address.
struct destination {
    __u16 vlan; // that it leaves into; 0: whatever goes there is the kernel's
    __u16 mtu;  // IP MTU of the way out
};

struct control {
    __u32 longest_frame; // that a slot of the ring takes, in octets without tag
    __u32 threshold;     // from so many frames a second on, on one CPU, they are a worker's
    __u32 has_prefixes;  // whether there is more than single addresses to look in
    __u32 has_flows;
};

// One direction of a connection, in network order: Sources/Forwarding/Flows.swift.
struct flow_id {
    __be16 source_port; // of an ICMP echo: its identifier
    __be16 destination_port; // of an ICMP echo: type and code
    __be16 vlan; // that it comes from
    __u8 protocol;
    __u8 state; // 0: free
};
#define FLOW_KNOWN 1
#define FLOW_OWNED 2
// A packet that ends connections has passed, and the rest of this one is the kernel's.
#define FLOW_ENDED 3
// The kernel's as long as it has no packets; the next one, which is the kernel's too, makes it a known one.
#define FLOW_RESTING 4

struct flow4 {
    __be32 source, destination;
    struct flow_id id;
    __be32 new_source, new_destination;
    __be16 new_source_port, new_destination_port;
    __be32 way; // of own_ways
};

struct flow6 {
    __be64 source[2], destination[2];
    struct flow_id id;
    __be64 new_source[2], new_destination[2];
    __be16 new_source_port, new_destination_port;
    __be32 way;
};

// A flow is in one of the two buckets that its hash names.
#define BUCKET 8
struct bucket4 {
    struct flow4 flows[BUCKET];
};
struct bucket6 {
    struct flow6 flows[BUCKET];
};

struct heartbeat {
    __u64 time; // CLOCK_MONOTONIC_COARSE, in nanoseconds
    __u64 padding[7];
};

struct prefix4 {
    __u32 length;
    __u32 address; // network order
};

struct prefix6 {
    __u32 length;
    struct in6_addr address;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 4096);
    __type(key, __u32); // VLAN id
    __type(value, struct ingress);
} own_ingress SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1 << 20);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __u32); // network order
    __type(value, struct destination);
} own_hosts4 SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1 << 20);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct in6_addr);
    __type(value, struct destination);
} own_hosts6 SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, 1 << 21);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct prefix4);
    __type(value, __u32); // the number of a target
} own_prefixes4 SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, 1 << 21);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct prefix6);
    __type(value, __u32);
} own_prefixes6 SEC(".maps");

// Where prefixes lead; number 0 is the kernel. A million routes lead to a few next hops, which come and go at once.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1 << 16);
    __type(key, __u32);
    __type(value, struct destination);
} own_targets SEC(".maps");

// The same for flows: where they lead, by number.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1 << 16);
    __type(key, __u32);
    __type(value, struct destination);
} own_ways SEC(".maps");

// How many buckets there are is said when this is loaded.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct bucket4);
} own_flows4 SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct bucket6);
} own_flows6 SEC(".maps");

// Which buckets have flows, a bit for each: that most packets of no flow are of none is known without a look at a bucket, which is in no
// cache.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} own_filled4 SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} own_filled6 SEC(".maps");

// What the workers count of each flow; nothing here reads it.
struct counts {
    __u64 packets, bytes;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct counts);
} own_counts4 SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct counts);
} own_counts6 SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct control);
} own_control SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 64);
    __type(key, __u32); // worker
    __type(value, struct heartbeat);
} own_heartbeats SEC(".maps");

// How densely frames come on this CPU that a worker could take. To wake one costs more than to forward a few frames: as long as they
// come one by one, the kernel does that sooner and with less work.
struct pace {
    __u64 since; // the tick of the coarse clock that is counted
    __u32 frames;
    __u32 is_dense; // whether they were dense in the tick before
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct pace);
} own_pace SEC(".maps");

// The verdict on the frame that this CPU is at, from the first program to the second.
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} own_verdict SEC(".maps");

// Both directions of a flow that sends super-frames: the kernel moves those best, and moving the rest of it elsewhere would
// reorder it. They have the same addresses and ports, before and after translation, and so the same sums. Flows that share a
// place stay with the kernel if one of them does.
struct bulk_key {
    __u32 addresses;
    __u32 ports;
};
#define BULK_BITS 14

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1 << BULK_BITS);
    __type(key, __u32);
    __type(value, __u64); // when it last sent one
} own_bulk SEC(".maps");

// When the last super-frame of any flow was seen.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} own_last_bulk SEC(".maps");

// Set when this is loaded.
const volatile struct {
    __u32 worker;  // whose filter this is
    __u32 buckets; // of flows, of each family
    __u64 seed;    // of the hash
} settings = {};

// By the heartbeats of workers, which differ by a few milliseconds.
static __always_inline int is_recent(__u64 time, __u64 now) { return (__s64)(now - time) <= (__s64)BULK_MEMORY; }

// Whether anybody has sent super-frames lately; this one counts.
static __always_inline int sees_bulk(struct __sk_buff *skb, __u64 now) {
    __u32 zero = 0;
    __u64 *last = bpf_map_lookup_elem(&own_last_bulk, &zero);
    if (!last)
        return 1;
    // All CPUs read it, so it is written once a beat only.
    if (skb->gso_size && *last != now)
        *last = now;
    return is_recent(*last, now);
}

static __always_inline int is_bulk(struct __sk_buff *skb, struct bulk_key *key, __u64 now) {
    // The upper bits of the product depend on all of both.
    __u32 place = (((__u64)key->addresses << 32 | key->ports) * 0x9e3779b97f4a7c15ULL) >> (64 - BULK_BITS);
    __u64 *last = bpf_map_lookup_elem(&own_bulk, &place);
    if (!last)
        return 1;
    if (!skb->gso_size)
        return is_recent(*last, now);
    if (*last != now)
        *last = now;
    return 1;
}

// RFC 1812 5.3.7: addresses that are no host's. RFC 3927 2.6.2: nor is one that is of one link only.
static __always_inline int is_special4(__u32 address) {
    __u32 value = bpf_ntohl(address);
    return value >> 24 == 0 || value >> 24 == 127 || value >> 28 >= 14 || value >> 16 == 0xa9fe;
}

// RFC 4291 2.5.6 and 2.7: of one link only, multicast; ::/8 has the unspecified, the loopback and IPv4's addresses.
static __always_inline int is_special6(struct in6_addr *address) {
    __u8 first = address->s6_addr[0];
    return first == 0 || first == 0xff || (first == 0xfe && (address->s6_addr[1] & 0xc0) == 0x80);
}

// A super-frame is longer than any way is wide: it is for is_bulk to remember, which keeps it from the workers.
static __always_inline int fits(struct __sk_buff *skb, struct destination *to, __u32 from, __u32 packet_length) {
    return to && to->vlan && to->vlan != from && (skb->gso_size || packet_length <= to->mtu);
}

enum part {
    NO_PART, // of no flow, whatever its addresses are
    PART,
    END, // the kernel's, as is all that comes after it
};

// The start of a transport header: ports or identifier; of TCP, the flags are the last.
struct transport {
    __be16 word[7];
};
#define PORTS_LENGTH 4
#define HEAD_LENGTH 8

struct head4 {
    struct iphdr ip;
    struct transport transport;
};

struct head6 {
    struct ipv6hdr ip;
    struct transport transport;
};

// What is there of a head, with one call, as that is what costs. Returns how many octets it has behind the IP header; negative: not even that.
static __always_inline int read_head(struct __sk_buff *skb, void *head, __u32 ip_length, __u32 length) {
    // Of what is no frame, more than there is: then nothing is read.
    __u64 size = (__u32)(skb->len - ETH_HLEN);
    // Else Linux 6.1 would have the bounds of a copy of it.
    asm volatile("" : "+r"(size));
    if (size > length)
        size = length;
    if (size < ip_length)
        return -1;
    return bpf_skb_load_bytes(skb, ETH_HLEN, head, size) ? -1 : size - ip_length;
}

// What of a transport header tells one flow from another.
//
// available: octets of `head` that have been read; length: octets that the IP header tells of.
static __always_inline enum part read_id(struct transport *head, __u32 available, __u8 protocol, __u32 length, struct flow_id *id) {
    if (available < (protocol == IPPROTO_TCP ? sizeof(*head) : HEAD_LENGTH))
        return NO_PART;
    id->protocol = protocol;
    id->source_port = head->word[0];
    id->destination_port = head->word[1];
    switch (protocol) {
    case IPPROTO_TCP: {
        __u32 flags = bpf_ntohs(head->word[6]);
        __u32 header = (flags >> 12) * 4;
        if (flags & (TCP_FIN | TCP_SYN | TCP_RST))
            return END;
        return flags & TCP_ACK && header >= 20 && header <= length ? PART : NO_PART;
    }
    case IPPROTO_UDP: {
        __u32 said = bpf_ntohs(head->word[2]);
        return said >= 8 && said <= length ? PART : NO_PART;
    }
    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6:
        id->source_port = head->word[2];
        id->destination_port = head->word[0];
        return PART;
    }
    return NO_PART;
}

// As Forwarding/Flows.swift has it.
static __always_inline __u64 mix(__u64 hash, __u64 word) {
    hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
    return hash ^ hash >> 32;
}

static __always_inline __u32 bucket(__u32 hash) { return (__u64)hash * settings.buckets >> 32; }

static __always_inline int is_filled(void *filled, __u32 bucket) {
    __u32 index = bucket / 64;
    __u64 *word = bpf_map_lookup_elem(filled, &index);
    return word && *word >> (bucket % 64) & 1;
}

static __always_inline __u64 id_word(struct flow_id *id) {
    return (__u64)bpf_ntohs(id->source_port) << 48 | (__u64)bpf_ntohs(id->destination_port) << 32 | id->protocol << 8;
}

static __always_inline int is_same(struct flow_id *one, struct flow_id *other) {
    return one->source_port == other->source_port && one->destination_port == other->destination_port &&
           one->protocol == other->protocol;
}

static __always_inline int is_owned(struct flow_id *flow, __u32 vlan) {
    if (flow->state == FLOW_RESTING)
        flow->state = FLOW_KNOWN;
    return flow->state == FLOW_OWNED && bpf_ntohs(flow->vlan) == vlan;
}

static __always_inline struct destination *way(__be32 number) {
    __u32 index = bpf_ntohl(number);
    return bpf_map_lookup_elem(&own_ways, &index);
}

static __always_inline struct flow4 *find4(__be32 source, __be32 destination, struct flow_id *id) {
    __u64 hash = mix(settings.seed, (__u64)bpf_ntohl(source) << 32 | bpf_ntohl(destination));
    hash = mix(mix(hash, id_word(id)), 0);
    for (int turn = 0; turn < 2; turn++) {
        __u32 index = bucket(turn ? hash >> 32 : hash);
        if (!is_filled(&own_filled4, index))
            continue;
        struct bucket4 *bucket = bpf_map_lookup_elem(&own_flows4, &index);
        if (!bucket)
            return 0;
        for (int slot = 0; slot < BUCKET; slot++) {
            struct flow4 *flow = &bucket->flows[slot];
            if (flow->source == source && flow->destination == destination && is_same(&flow->id, id))
                return flow;
        }
    }
    return 0;
}

static __always_inline struct flow6 *find6(__be64 *address, struct flow_id *id) {
    __u64 hash = settings.seed;
    for (int word = 0; word < 4; word++)
        hash = mix(hash, bpf_be64_to_cpu(address[word]));
    hash = mix(mix(hash, id_word(id)), 0);
    for (int turn = 0; turn < 2; turn++) {
        __u32 index = bucket(turn ? hash >> 32 : hash);
        if (!is_filled(&own_filled6, index))
            continue;
        struct bucket6 *bucket = bpf_map_lookup_elem(&own_flows6, &index);
        if (!bucket)
            return 0;
        for (int slot = 0; slot < BUCKET; slot++) {
            struct flow6 *flow = &bucket->flows[slot];
            if (flow->source[0] == address[0] && flow->source[1] == address[1] && flow->destination[0] == address[2] &&
                flow->destination[1] == address[3] && is_same(&flow->id, id))
                return flow;
        }
    }
    return 0;
}

static __always_inline void end(struct flow_id *id) {
    if (id->state)
        id->state = FLOW_ENDED;
}

// What its answers look like; of TCP, which alone has an end that can be seen.
static __noinline int end_answers4(struct flow4 *flow) {
    if (!flow)
        return 0;
    struct flow_id id = {.source_port = flow->new_destination_port, .destination_port = flow->new_source_port,
                         .protocol = IPPROTO_TCP};
    struct flow4 *other = find4(flow->new_destination, flow->new_source, &id);
    if (other)
        end(&other->id);
    return 0;
}

static __noinline int end_answers6(struct flow6 *flow) {
    if (!flow)
        return 0;
    struct flow_id id = {.source_port = flow->new_destination_port, .destination_port = flow->new_source_port,
                         .protocol = IPPROTO_TCP};
    __be64 address[4] = {flow->new_destination[0], flow->new_destination[1], flow->new_source[0], flow->new_source[1]};
    struct flow6 *other = find6(address, &id);
    if (other)
        end(&other->id);
    return 0;
}

// The flow that says where this packet goes.
static __always_inline struct flow4 *flow4(struct head4 *head, __u32 available, __u32 vlan) {
    struct iphdr *ip = &head->ip;
    struct flow_id id = {};
    enum part part = read_id(&head->transport, available, ip->protocol, bpf_ntohs(ip->tot_len) - sizeof(*ip), &id);
    struct flow4 *flow = part == NO_PART ? 0 : find4(ip->saddr, ip->daddr, &id);
    if (!flow)
        return 0;
    if (part == PART)
        return is_owned(&flow->id, vlan) ? flow : 0;
    end(&flow->id);
    end_answers4(flow);
    return 0;
}

static __always_inline struct flow6 *flow6(struct head6 *head, __u32 available, __u32 vlan) {
    struct ipv6hdr *ip = &head->ip;
    struct flow_id id = {};
    enum part part = read_id(&head->transport, available, ip->nexthdr, bpf_ntohs(ip->payload_len), &id);
    __be64 address[4];
    __builtin_memcpy(address, &ip->saddr, sizeof(address));
    struct flow6 *flow = part == NO_PART ? 0 : find6(address, &id);
    if (!flow)
        return 0;
    if (part == PART)
        return is_owned(&flow->id, vlan) ? flow : 0;
    end(&flow->id);
    end_answers6(flow);
    return 0;
}

// Where the destination alone decides.
static __always_inline struct destination *stateless4(struct control *control, struct ingress *ingress,
                                                      struct iphdr *ip, __u32 vlan) {
    __u32 address = ip->saddr;
    if (ingress->checks_source) {
        struct destination *from = bpf_map_lookup_elem(&own_hosts4, &address);
        if (!from || from->vlan != vlan)
            return 0;
    }
    address = ip->daddr;
    struct destination *to = bpf_map_lookup_elem(&own_hosts4, &address);
    if (to || !control->has_prefixes || is_special4(address))
        return to;
    struct prefix4 key = {.length = 32, .address = address};
    __u32 *target = bpf_map_lookup_elem(&own_prefixes4, &key);
    return target ? bpf_map_lookup_elem(&own_targets, target) : 0;
}

static __always_inline struct destination *stateless6(struct control *control, struct ipv6hdr *ip) {
    struct destination *to = bpf_map_lookup_elem(&own_hosts6, &ip->daddr);
    if (to || !control->has_prefixes || is_special6(&ip->daddr))
        return to;
    struct prefix6 key = {.length = 128, .address = ip->daddr};
    __u32 *target = bpf_map_lookup_elem(&own_prefixes6, &key);
    return target ? bpf_map_lookup_elem(&own_targets, target) : 0;
}

static __always_inline int has_ports(__u8 protocol) { return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP; }

static __always_inline __u32 port_sum(struct flow_id *id, __be16 new_source, __be16 new_destination) {
    return id->source_port + id->destination_port + new_source + new_destination;
}

static __always_inline int owns4(struct __sk_buff *skb, struct control *control, struct ingress *ingress, __u32 vlan,
                                 __u64 now) {
    struct head4 head = {};
    struct iphdr *ip = &head.ip;
    int available = read_head(skb, &head, sizeof(*ip), sizeof(head));
    if (available < 0)
        return 0;
    if (ip->version != 4 || ip->ihl != 5 || ip->ttl <= 1 || ip->frag_off & bpf_htons(FRAGMENT_MASK))
        return 0;
    if (is_special4(ip->saddr))
        return 0;
    struct flow4 *flow = control->has_flows ? flow4(&head, available, vlan) : 0;
    struct destination *to = 0;
    if (flow)
        to = way(flow->way);
    else if (ingress->is_stateless)
        to = stateless4(control, ingress, ip, vlan);
    if (!fits(skb, to, vlan, bpf_ntohs(ip->tot_len)))
        return 0;
    if (!sees_bulk(skb, now) || !has_ports(ip->protocol))
        return !skb->gso_size;
    struct bulk_key key;
    if (flow) {
        key.addresses = flow->source + flow->destination + flow->new_source + flow->new_destination;
        key.ports = port_sum(&flow->id, flow->new_source_port, flow->new_destination_port);
    } else {
        // Where no flow says which answers belong to it, nothing is translated either.
        if (available < PORTS_LENGTH)
            return 0;
        key.addresses = ip->saddr + ip->daddr;
        key.ports = head.transport.word[0] + head.transport.word[1];
    }
    return !is_bulk(skb, &key, now);
}

static __always_inline __u32 address_sum(__be64 *address) {
    __u64 sum = address[0] + address[1];
    return (sum >> 32) + sum;
}

static __always_inline int owns6(struct __sk_buff *skb, struct control *control, struct ingress *ingress, __u32 vlan,
                                 __u64 now) {
    struct head6 head = {};
    struct ipv6hdr *ip = &head.ip;
    int available = read_head(skb, &head, sizeof(*ip), sizeof(head));
    if (available < 0)
        return 0;
    if (ip->version != 6 || ip->hop_limit <= 1)
        return 0;
    switch (ip->nexthdr) {
    case 0:  // hop-by-hop options
    case 43: // routing
    case 44: // fragment
    case 51: // authentication
    case 60: // destination options
        return 0;
    }
    if (is_special6(&ip->saddr))
        return 0;
    struct flow6 *flow = control->has_flows ? flow6(&head, available, vlan) : 0;
    struct destination *to = 0;
    if (flow)
        to = way(flow->way);
    else if (ingress->is_stateless)
        to = stateless6(control, ip);
    if (!fits(skb, to, vlan, bpf_ntohs(ip->payload_len) + sizeof(*ip)))
        return 0;
    if (!sees_bulk(skb, now) || !has_ports(ip->nexthdr))
        return !skb->gso_size;
    struct bulk_key key;
    if (flow) {
        key.addresses = address_sum(flow->source) + address_sum(flow->destination) + address_sum(flow->new_source) +
                        address_sum(flow->new_destination);
        key.ports = port_sum(&flow->id, flow->new_source_port, flow->new_destination_port);
    } else {
        if (available < PORTS_LENGTH)
            return 0;
        __be64 address[4];
        __builtin_memcpy(address, &ip->saddr, sizeof(address));
        key.addresses = address_sum(address) + address_sum(address + 2);
        key.ports = head.transport.word[0] + head.transport.word[1];
    }
    return !is_bulk(skb, &key, now);
}

static __always_inline int is_dense(struct control *control, __u64 now) {
    __u32 zero = 0;
    struct pace *pace = bpf_map_lookup_elem(&own_pace, &zero);
    if (!pace)
        return 0;
    __u64 elapsed = now - pace->since;
    if (elapsed) {
        // Frames a second, times nanoseconds. Half of the threshold is enough to go on.
        __u64 needed = (__u64)control->threshold * (elapsed < SECOND ? elapsed : SECOND);
        pace->is_dense = pace->frames * SECOND >= (pace->is_dense ? needed / 2 : needed);
        pace->since = now;
        pace->frames = 0;
    }
    pace->frames += 1;
    return pace->is_dense;
}

// Returns how many octets go into the ring: all or none.
SEC("socket")
int frame_owned(struct __sk_buff *skb) {
    __u32 zero = 0;
    __u32 *verdict = bpf_map_lookup_elem(&own_verdict, &zero);
    if (!verdict)
        return 0;
    // Somebody else's program may have dropped the frame before, and the verdict on it stands yet.
    *verdict = 0;
    if (!skb->vlan_present || skb->vlan_proto != bpf_htons(ETH_P_8021Q) || skb->pkt_type != PACKET_HOST)
        return 0;
    __u32 vlan = skb->vlan_tci & VLAN_ID_MASK;
    struct ingress *ingress = bpf_map_lookup_elem(&own_ingress, &vlan);
    if (!ingress || !ingress->mtu || (!skb->gso_size && skb->len > ingress->mtu + ETH_HLEN))
        return 0;
    __u32 index = settings.worker;
    struct heartbeat *heartbeat = bpf_map_lookup_elem(&own_heartbeats, &index);
    struct control *control = bpf_map_lookup_elem(&own_control, &zero);
    if (!heartbeat || !control)
        return 0;
    int owned;
    switch (skb->protocol) {
    case bpf_htons(ETH_P_IP):
        owned = owns4(skb, control, ingress, vlan, heartbeat->time);
        break;
    case bpf_htons(ETH_P_IPV6):
        owned = owns6(skb, control, ingress, vlan, heartbeat->time);
        break;
    default:
        return 0;
    }
    if (!owned || skb->len > control->longest_frame)
        return 0;
    // Only now: to ask for the time is a call, and most frames that are the kernel's have gone.
    __u64 now = bpf_ktime_get_coarse_ns();
    // The worker's clock may be a tick ahead of this CPU's.
    if ((__s64)(now - heartbeat->time) > (__s64)SILENCE_LIMIT || !is_dense(control, now))
        return 0;
    *verdict = 1;
    return -1;
}

SEC("tc")
int frame_taken(struct __sk_buff *skb) {
    __u32 zero = 0;
    __u32 *verdict = bpf_map_lookup_elem(&own_verdict, &zero);
    if (!verdict || !*verdict)
        return TC_ACT_UNSPEC;
    *verdict = 0;
    return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
