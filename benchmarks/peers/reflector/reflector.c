// SPDX-License-Identifier: Apache-2.0
// The least that a router on AF_PACKET can do, as fast as that goes: what comes in one VLAN leaves in the other, on the same
// interface. It looks nothing up and asks nobody. What it forwards is the ceiling for this kind of input and output.
//
//   reflector INTERFACE HOST_MAC VLAN VLAN [OBJECT]
//
// With OBJECT, the compiled Sources/Kernel/BPF/ownership.bpf.c, it gets only frames that vrouter's workers would get: the same filter
// and the same program at the trunk's ingress, with the hosts that vrouter bench has; and its heart beats as theirs does. Needs tcx hooks.
//
// A frame is received into a ring shared with the kernel (TPACKET_V2), rewritten where it lies, with the tag in room that was
// reserved in front of it, and copied into the ring of another socket, from which up to 64 are sent with one call. The kernel's virtio_net
// header goes along, and says that the kernel is to copy the whole frame.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <netinet/ether.h>
#include <netinet/ip.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 2048
#define OUTGOING_SLOTS 512
// A frame of up to 1518 octets, its tag, and the kernel's headers.
#define SLOT_BYTES 2048
#define BATCH 64
#define TAG_BYTES 4
// linux/if_packet.h
#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

static void die(const char *what) {
    fprintf(stderr, "reflector: %s: %s\n", what, strerror(errno));
    exit(1);
}

// A ring of slots, in blocks of a page, so that the kernel finds room for them.
static unsigned char *make_ring(int socket, int option, unsigned slots) {
    struct tpacket_req ring = {
        .tp_block_size = 4096, .tp_block_nr = slots * SLOT_BYTES / 4096, .tp_frame_size = SLOT_BYTES, .tp_frame_nr = slots,
    };
    if (setsockopt(socket, SOL_PACKET, option, &ring, sizeof ring))
        die("ring");
    unsigned char *memory = mmap(NULL, slots * SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, socket, 0);
    if (memory == MAP_FAILED)
        die("mmap");
    return memory;
}

static void set(int socket, int option, int value, const char *name) {
    if (setsockopt(socket, SOL_PACKET, option, &value, sizeof value))
        die(name);
}

struct router {
    unsigned char mac[ETH_ALEN], host[ETH_ALEN];
    unsigned vlans[2];
};

// Makes of a received slot the frame to send: at `*start`, behind its virtio_net header. Returns its size; 0: not ours.
static size_t rewrite(const struct router *router, struct tpacket2_hdr *slot, unsigned char **start) {
    if (!(slot->tp_status & TP_STATUS_VLAN_VALID) || slot->tp_snaplen != slot->tp_len)
        return 0;
    unsigned vlan = slot->tp_vlan_tci & 0xfff;
    if (vlan != router->vlans[0] && vlan != router->vlans[1])
        return 0;
    unsigned char *frame = (unsigned char *)slot + slot->tp_mac;
    if (slot->tp_snaplen < ETH_HLEN + sizeof(struct iphdr) || frame[12] != 0x08 || frame[13] != 0x00)
        return 0;
    struct iphdr *ip = (void *)(frame + ETH_HLEN);
    if (ip->ttl <= 1 || memcmp(frame, router->mac, ETH_ALEN))
        return 0;
    // RFC 1624: the sum gains what the field loses, 1 in its upper octet.
    unsigned sum = ntohs(ip->check) + 0x100;
    ip->check = htons(sum + (sum >> 16));
    ip->ttl--;

    struct virtio_net_hdr header;
    memcpy(&header, frame - sizeof header, sizeof header);
    frame -= TAG_BYTES;
    memcpy(frame, router->host, ETH_ALEN);
    memcpy(frame + ETH_ALEN, router->mac, ETH_ALEN);
    unsigned to = vlan == router->vlans[0] ? router->vlans[1] : router->vlans[0];
    const unsigned char tag[TAG_BYTES] = {0x81, 0x00, (slot->tp_vlan_tci >> 8 & 0xf0) | to >> 8, to};
    memcpy(frame + 2 * ETH_ALEN, tag, sizeof tag);

    size_t size = slot->tp_snaplen + TAG_BYTES;
    if (header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
        header.csum_start += TAG_BYTES;
    // What is within hdr_len is copied, the rest becomes page fragments.
    header.hdr_len = size;
    header.flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
    *start = frame - sizeof header;
    memcpy(*start, &header, sizeof header);
    return size + sizeof header;
}

// Sets the filter's maps as vrouter would; the layouts are those of ownership.bpf.c. Returns the heartbeat.
static volatile __u64 *own(const char *path, int packets, unsigned interface, const unsigned vlans[2]) {
    // linux/bpf.h, since Linux 6.6
    enum { TCX_INGRESS = 46, BEFORE = 1 << 3 };
    struct bpf_object *object = bpf_object__open_file(path, NULL);
    if (!object || bpf_object__load(object))
        die(path);
    struct { __u16 mtu; __u8 checks_source, is_stateless; } ingress = {.mtu = 1500, .is_stateless = 1};
    struct { __u16 vlan, mtu; } destination = {.mtu = 1500};
    struct { __u32 longest_frame, threshold, has_prefixes, has_flows; } control = {.longest_frame = SLOT_BYTES - 128};
    __u32 zero = 0;
    int failed = bpf_map_update_elem(bpf_object__find_map_fd_by_name(object, "own_control"), &zero, &control, 0);
    for (int side = 0; side < 2; side++) {
        __u32 vlan = vlans[side];
        failed |= bpf_map_update_elem(bpf_object__find_map_fd_by_name(object, "own_ingress"), &vlan, &ingress, 0);
        // 172.16.10.0/24 and 172.16.20.0/24, as in Sources/Lab/BenchNetwork.swift.
        for (__u32 host = 2; host < 18; host++) {
            __u32 address = htonl(0xac100000 | (side ? 20 : 10) << 8 | host);
            destination.vlan = vlan;
            failed |= bpf_map_update_elem(bpf_object__find_map_fd_by_name(object, "own_hosts4"), &address, &destination, 0);
        }
    }
    int filter = bpf_program__fd(bpf_object__find_program_by_name(object, "frame_owned"));
    LIBBPF_OPTS(bpf_link_create_opts, options, .flags = BEFORE);
    int taken = bpf_program__fd(bpf_object__find_program_by_name(object, "frame_taken"));
    if (failed || setsockopt(packets, SOL_SOCKET, SO_ATTACH_BPF, &filter, sizeof filter) ||
        bpf_link_create(taken, interface, (enum bpf_attach_type)TCX_INGRESS, &options) < 0)
        die("ownership");
    void *beats = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED,
                       bpf_object__find_map_fd_by_name(object, "own_heartbeats"), 0);
    if (beats == MAP_FAILED)
        die("heartbeat");
    return beats;
}

int main(int count, char **arguments) {
    if (count < 5) {
        fprintf(stderr, "reflector INTERFACE HOST_MAC VLAN VLAN [OBJECT]\n");
        return 2;
    }
    const char *name = arguments[1];
    struct router router = {.vlans = {atoi(arguments[3]), atoi(arguments[4])}};
    struct ether_addr *host = ether_aton(arguments[2]);
    if (!host)
        die(arguments[2]);
    memcpy(router.host, host, ETH_ALEN);

    int packets = socket(AF_PACKET, SOCK_RAW, 0);
    if (packets < 0)
        die("socket");
    struct ifreq request = {0};
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (ioctl(packets, SIOCGIFHWADDR, &request))
        die(name);
    memcpy(router.mac, request.ifr_hwaddr.sa_data, ETH_ALEN);

    set(packets, PACKET_VERSION, TPACKET_V2, "TPACKET_V2");
    set(packets, PACKET_VNET_HDR, 1, "PACKET_VNET_HDR");
    set(packets, PACKET_RESERVE, TAG_BYTES + sizeof(struct virtio_net_hdr), "PACKET_RESERVE");
    set(packets, PACKET_IGNORE_OUTGOING, 1, "PACKET_IGNORE_OUTGOING");
    unsigned char *slots = make_ring(packets, PACKET_RX_RING, SLOTS);
    struct sockaddr_ll address = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = if_nametoindex(name),
    };
    volatile __u64 *beat = count > 5 ? own(arguments[5], packets, address.sll_ifindex, router.vlans) : NULL;
    if (bind(packets, (void *)&address, sizeof address))
        die("bind");

    int outgoing = socket(AF_PACKET, SOCK_RAW, 0);
    if (outgoing < 0)
        die("socket");
    set(outgoing, PACKET_VERSION, TPACKET_V2, "TPACKET_V2");
    set(outgoing, PACKET_VNET_HDR, 1, "PACKET_VNET_HDR");
    // What is not sent (the other end is full) is dropped, as a network card would.
    set(outgoing, PACKET_LOSS, 1, "PACKET_LOSS");
    int buffer = 8 << 20;
    if (setsockopt(outgoing, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer))
        die("SO_SNDBUFFORCE");
    unsigned char *sent = make_ring(outgoing, PACKET_TX_RING, OUTGOING_SLOTS);
    address.sll_protocol = 0;
    if (bind(outgoing, (void *)&address, sizeof address))
        die("bind");

    for (unsigned next = 0, free = 0;;) {
        if (beat) {
            struct timespec now;
            clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
            *beat = now.tv_sec * 1000000000ULL + now.tv_nsec;
        }
        // As many as are there, up to a batch.
        unsigned taken = 0, sending = 0;
        struct tpacket2_hdr *slot;
        while (taken < BATCH) {
            slot = (void *)(slots + (size_t)((next + taken) % SLOTS) * SLOT_BYTES);
            if (!(__atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
                break;
            unsigned char *start;
            size_t size = rewrite(&router, slot, &start);
            taken++;
            struct tpacket2_hdr *to = (void *)(sent + (size_t)free * SLOT_BYTES);
            if (!size || __atomic_load_n(&to->tp_status, __ATOMIC_ACQUIRE) != TP_STATUS_AVAILABLE)
                continue;
            memcpy((unsigned char *)to + TPACKET2_HDRLEN - sizeof(struct sockaddr_ll), start, size);
            to->tp_len = size;
            __atomic_store_n(&to->tp_status, TP_STATUS_SEND_REQUEST, __ATOMIC_RELEASE);
            free = (free + 1) % OUTGOING_SLOTS;
            sending++;
        }
        if (!taken) {
            struct pollfd wait = {.fd = packets, .events = POLLIN};
            if (poll(&wait, 1, beat ? 4 : -1) < 0 && errno != EINTR)
                die("poll");
            continue;
        }
        if (sending)
            send(outgoing, NULL, 0, MSG_DONTWAIT);
        for (unsigned i = 0; i < taken; i++) {
            slot = (void *)(slots + (size_t)((next + i) % SLOTS) * SLOT_BYTES);
            __atomic_store_n(&slot->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        }
        next = (next + taken) % SLOTS;
    }
}
