// SPDX-License-Identifier: Apache-2.0
// The benchmark's tool, which run.sh drives: attaches the VLAN programs as the product does, makes traffic and counts it.
//
//   bench attach tcx|clsact VLAN_OBJECT TRUNK VLANS ID=GATEWAY ID=GATEWAY
//   bench traffic TRAFFIC_OBJECT OUT SINK MILLISECONDS ROUTER_MAC SOURCE DESTINATION HOSTS TTL FIRST_VLAN VLANS KSOFTIRQD
//
// `attach` connects two gateways to the trunk, and fills the map up to a number of VLANs. `traffic` sends on OUT, counts at
// SINK what arrives with this TTL, and prints millions of frames per second of CPU time. The kernel charges the router's and
// the sink's work to the thread that it interrupts, which is the generator, or to KSOFTIRQD (the process id of ksoftirqd/0)
// when it is much.
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <limits.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <net/if.h>
#include <netinet/ether.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "traffic.h"

// Of enum bpf_attach_type, since Linux 6.6. Debian 12's headers are older.
#define TCX_INGRESS 46
#define TCX_EGRESS 47

static void die(const char *what) {
    fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
    exit(1);
}

static unsigned number(const char *text) {
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (end == text || *end) {
        errno = EINVAL;
        die(text);
    }
    return value;
}

static unsigned interface_index(const char *name) {
    unsigned index = if_nametoindex(name);
    if (!index)
        die(name);
    return index;
}

static struct bpf_object *open_object(const char *path) {
    struct bpf_object *object = bpf_object__open_file(path, NULL);
    if (!object)
        die(path);
    return object;
}

static int program(struct bpf_object *object, const char *name) {
    struct bpf_program *program = bpf_object__find_program_by_name(object, name);
    if (!program)
        die(name);
    return bpf_program__fd(program);
}

static int map(struct bpf_object *object, const char *name) {
    int fd = bpf_object__find_map_fd_by_name(object, name);
    if (fd < 0)
        die(name);
    return fd;
}

// MARK: The VLAN programs

// As in vlan.bpf.c.
struct port {
    __u32 target;
    __u32 vlan;
    __u64 packets;
    __u64 bytes;
};
#define GATEWAY_KEY 0x80000000

// A per-CPU map takes one value for each possible CPU.
static void put(int map, __u32 key, unsigned target, unsigned vlan) {
    int cpus = libbpf_num_possible_cpus();
    struct port ports[cpus];
    for (int cpu = 0; cpu < cpus; cpu++)
        ports[cpu] = (struct port){.target = target, .vlan = vlan};
    if (bpf_map_update_elem(map, &key, ports, BPF_ANY))
        die("map update");
}

static void attach(const char *how, int program, unsigned interface, enum bpf_tc_attach_point point) {
    if (!strcmp(how, "tcx")) {
        if (bpf_prog_attach(program, interface, point == BPF_TC_INGRESS ? TCX_INGRESS : TCX_EGRESS, 0))
            die("tcx");
        return;
    }
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = interface, .attach_point = point);
    LIBBPF_OPTS(bpf_tc_opts, options, .prog_fd = program, .handle = 1, .priority = 1);
    if (bpf_tc_hook_create(&hook) || bpf_tc_attach(&hook, &options))
        die("clsact");
}

static void run_attach(char **arguments) {
    const char *how = arguments[0];
    struct bpf_object *object = open_object(arguments[1]);
    unsigned trunk = interface_index(arguments[2]), vlans = number(arguments[3]), first_gateway = 0;
    if (bpf_object__load(object))
        die("load");
    int ports = map(object, "vlan_ports"), pop = program(object, "vlan_pop"), push = program(object, "vlan_push");

    for (int i = 0; i < 2; i++) {
        unsigned id = number(strtok(arguments[4 + i], "="));
        unsigned gateway = interface_index(strtok(NULL, ""));
        put(ports, id, gateway, id);
        put(ports, GATEWAY_KEY | gateway, trunk, id);
        attach(how, push, gateway, BPF_TC_EGRESS);
        if (i == 0)
            first_gateway = gateway;
    }
    // The VLANs that only fill the map: their frames come in by the first gateway; theirs would have these indices.
    for (unsigned other = 1; vlans > 2 && other <= vlans; other++) {
        put(ports, other, first_gateway, other);
        if (other > 2)
            put(ports, GATEWAY_KEY | 1 << 20 | other, trunk, other);
    }
    attach(how, pop, trunk, BPF_TC_INGRESS);
}

// MARK: Traffic

static __u16 checksum(const void *data, size_t size) {
    const __u16 *words = data;
    __u32 sum = 0;
    for (size_t i = 0; i < size / 2; i++)
        sum += words[i];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

// A UDP datagram of 18 bytes in an Ethernet frame. Returns the size of the frame.
static size_t make_frame(struct traffic *traffic, const char *router, const char *source, const char *destination) {
    __u8 *at = (__u8 *)traffic->frame;
    struct ether_addr *mac = ether_aton(router);
    if (!mac)
        die(router);
    memcpy(at, mac, ETH_ALEN);
    memcpy(at + ETH_ALEN, "\x02\x00\x00\x00\x00\x01", ETH_ALEN);
    at += 2 * ETH_ALEN;
    if (traffic->vlans) {
        *(__u16 *)at = htons(ETH_P_8021Q);
        at += 4; // the VLAN id differs from frame to frame
    }
    *(__u16 *)at = htons(ETH_P_IP);
    struct iphdr *ip = (void *)(at + 2);
    *ip = (struct iphdr){
        .version = 4, .ihl = 5, .tot_len = htons(46), .id = htons(IDENTIFICATION), .ttl = 64, .protocol = IPPROTO_UDP,
        .saddr = inet_addr(source), .daddr = inet_addr(destination),
    };
    ip->check = checksum(ip, sizeof *ip);
    struct udphdr *udp = (void *)(ip + 1);
    *udp = (struct udphdr){.dest = htons(9), .len = htons(26)};
    return traffic->vlans ? TAGGED_BYTES : UNTAGGED_BYTES;
}

struct generator {
    int program;
    struct bpf_test_run_opts options;
};

// One call for the whole run, ended by a signal: after each call the kernel waits until it has all pages back.
static void *generate(void *context) {
    struct generator *generator = context;
    if (bpf_prog_test_run_opts(generator->program, &generator->options) && errno != EINTR)
        die("BPF_PROG_TEST_RUN");
    return NULL;
}

static void wake(int signal) {
    (void)signal;
}

static void wait_milliseconds(unsigned count) {
    nanosleep(&(struct timespec){.tv_sec = count / 1000, .tv_nsec = count % 1000 * 1000000L}, NULL);
}

// In ns.
static double cpu_time(pthread_t thread, const char *ksoftirqd) {
    clockid_t clock;
    struct timespec used;
    if ((errno = pthread_getcpuclockid(thread, &clock)) || clock_gettime(clock, &used))
        die("CPU time");

    char path[64];
    double deferred;
    snprintf(path, sizeof path, "/proc/%u/schedstat", number(ksoftirqd));
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%lf", &deferred) != 1)
        die(path);
    fclose(file);
    return used.tv_sec * 1e9 + used.tv_nsec + deferred;
}

struct sample {
    double cpu_time, received;
};

static struct sample take_sample(struct bpf_object *object, double cpu_time) {
    __u32 zero = 0;
    __u64 counts[libbpf_num_possible_cpus()];
    if (bpf_map_lookup_elem(map(object, "received"), &zero, counts))
        die("counters");
    struct sample sample = {cpu_time, 0};
    for (int cpu = 0; cpu < libbpf_num_possible_cpus(); cpu++)
        sample.received += counts[cpu];
    return sample;
}

static void run_traffic(char **arguments) {
    struct bpf_object *object = open_object(arguments[0]);
    unsigned out = interface_index(arguments[1]), sink = interface_index(arguments[2]), duration = number(arguments[3]);
    struct traffic traffic = {
        .hosts = number(arguments[7]), .expected_ttl = number(arguments[8]),
        .first_vlan = number(arguments[9]), .vlans = number(arguments[10]),
    };
    size_t size = make_frame(&traffic, arguments[4], arguments[5], arguments[6]);
    if (bpf_map__set_initial_value(bpf_object__find_map_by_name(object, ".rodata"), &traffic, sizeof traffic) ||
        bpf_object__load(object))
        die("load");
    if (bpf_xdp_attach(sink, program(object, "sink"), XDP_FLAGS_DRV_MODE, NULL))
        die("sink");

    __u8 room[TAGGED_BYTES] = {};
    struct xdp_md context = {.data_end = size, .ingress_ifindex = out}; // XDP_TX sends there
    struct generator generator = {program(object, "generate"), {
        .sz = sizeof generator.options, .data_in = room, .data_size_in = size, .ctx_in = &context,
        .ctx_size_in = sizeof context, .repeat = INT_MAX, .flags = BPF_F_TEST_XDP_LIVE_FRAMES,
    }};
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = wake}, NULL);
    pthread_t thread;
    if ((errno = pthread_create(&thread, NULL, generate, &generator)))
        die("thread");
    wait_milliseconds(50); // caches warm
    struct sample first = take_sample(object, cpu_time(thread, arguments[11]));
    wait_milliseconds(duration);
    struct sample last = take_sample(object, cpu_time(thread, arguments[11]));
    pthread_kill(thread, SIGUSR1);
    pthread_join(thread, NULL);
    bpf_xdp_detach(sink, XDP_FLAGS_DRV_MODE, NULL);

    printf("%.3f\n", (last.received - first.received) * 1000 / (last.cpu_time - first.cpu_time));
}

int main(int count, char **arguments) {
    if (count == 8 && !strcmp(arguments[1], "attach"))
        run_attach(arguments + 2);
    else if (count == 14 && !strcmp(arguments[1], "traffic"))
        run_traffic(arguments + 2);
    else {
        fprintf(stderr, "bench: see the top of bench.c\n");
        return 2;
    }
    return 0;
}
