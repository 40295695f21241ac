// SPDX-License-Identifier: Apache-2.0
// DPDK's longest-prefix match, on command: reads routes and traffic, then looks up one file's addresses for each line of input.
//
//   peer lpm|fib|fib6 ROUTES TRAFFIC…
//
// ROUTES: address (IPv4: 4 octets, in the machine's order; IPv6: 16), length, target (4 octets each). TRAFFIC: addresses.
// Prints "ready SECONDS" when all routes are in. On a line with the number of a traffic file: nanoseconds for each look-up,
// in bulk, and the sum of the targets. What is looked up once before, and not measured, warms the caches.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_fib.h>
#include <rte_fib6.h>
#include <rte_lpm.h>

#define BULK 64
#define TBL8S 65536 // groups of 256, for prefixes longer than /24: more than the tables need

static void die(const char *what) {
    fprintf(stderr, "peer: %s: %s\n", what, rte_strerror(rte_errno));
    exit(1);
}

static double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

struct file {
    uint8_t *bytes;
    size_t size;
};

static struct file read_file(const char *path) {
    FILE *stream = fopen(path, "rb");
    if (!stream || fseek(stream, 0, SEEK_END))
        die(path);
    struct file file = {.size = ftell(stream)};
    rewind(stream);
    file.bytes = malloc(file.size);
    if (!file.bytes || fread(file.bytes, 1, file.size, stream) != file.size)
        die(path);
    fclose(stream);
    return file;
}

static uint32_t word(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static struct rte_lpm *lpm;
static struct rte_fib *fib;
static struct rte_fib6 *fib6;

static void create(const char *kind, size_t routes) {
    if (!strcmp(kind, "lpm")) {
        struct rte_lpm_config config = {.max_rules = routes, .number_tbl8s = TBL8S};
        lpm = rte_lpm_create("peer", 0, &config);
    } else if (!strcmp(kind, "fib")) {
        struct rte_fib_conf config = {.type = RTE_FIB_DIR24_8, .max_routes = 2 * routes,
            .dir24_8 = {.nh_sz = RTE_FIB_DIR24_8_4B, .num_tbl8 = TBL8S}};
        fib = rte_fib_create("peer", 0, &config);
    } else if (!strcmp(kind, "fib6")) {
        struct rte_fib6_conf config = {.type = RTE_FIB6_TRIE, .max_routes = 2 * routes,
            .trie = {.nh_sz = RTE_FIB6_TRIE_4B, .num_tbl8 = 1 << 20}};
        fib6 = rte_fib6_create("peer", 0, &config);
    }
    if (!lpm && !fib && !fib6)
        die(kind);
}

static void insert(const struct file *routes) {
    size_t address = fib6 ? 16 : 4;
    for (size_t i = 0; i < routes->size; i += address + 8) {
        uint8_t *at = routes->bytes + i;
        uint32_t length = word(at + address), target = word(at + address + 4);
        int error = lpm  ? rte_lpm_add(lpm, word(at), length, target)
                    : fib ? rte_fib_add(fib, word(at), length, target)
                          : rte_fib6_add(fib6, at, length, target);
        if (error) {
            rte_errno = -error;
            die("a route");
        }
    }
}

// The sum of the targets of all addresses.
static uint64_t look_up(const struct file *traffic) {
    uint64_t sum = 0, targets[BULK];
    uint32_t entries[BULK];
    size_t address = fib6 ? 16 : 4, bulk = BULK * address;
    for (size_t i = 0; i + bulk <= traffic->size; i += bulk) {
        void *at = traffic->bytes + i;
        if (lpm) {
            rte_lpm_lookup_bulk(lpm, at, entries, BULK);
            for (int k = 0; k < BULK; k++)
                sum += entries[k] & RTE_LPM_LOOKUP_SUCCESS ? entries[k] & 0xffffff : 0;
        } else {
            if (fib)
                rte_fib_lookup_bulk(fib, at, targets, BULK);
            else
                rte_fib6_lookup_bulk(fib6, at, targets, BULK);
            for (int k = 0; k < BULK; k++)
                sum += targets[k];
        }
    }
    return sum;
}

int main(int count, char **arguments) {
    if (count < 4)
        die("usage: peer lpm|fib|fib6 ROUTES TRAFFIC…");
    char *eal[] = {"peer", "--no-huge", "-m", "4096", "--no-shconf", "--no-pci", "--no-telemetry", "-l", "0", "--log-level=3"};
    if (rte_eal_init(sizeof eal / sizeof *eal, eal) < 0)
        die("EAL");

    struct file routes = read_file(arguments[2]), traffic[16];
    int files = count - 3 < 16 ? count - 3 : 16;
    for (int i = 0; i < files; i++)
        traffic[i] = read_file(arguments[3 + i]);
    create(arguments[1], routes.size / (strcmp(arguments[1], "fib6") ? 12 : 24));
    double start = seconds(CLOCK_MONOTONIC);
    insert(&routes);
    printf("ready %.3f\n", seconds(CLOCK_MONOTONIC) - start);
    fflush(stdout);

    int number;
    while (scanf("%d", &number) == 1 && number >= 0 && number < files) {
        look_up(&traffic[number]);
        double begin = seconds(CLOCK_THREAD_CPUTIME_ID);
        uint64_t sum = look_up(&traffic[number]);
        double end = seconds(CLOCK_THREAD_CPUTIME_ID);
        size_t addresses = traffic[number].size / (fib6 ? 16 : 4);
        printf("%.3f %lu\n", (end - begin) * 1e9 / addresses, sum);
        fflush(stdout);
    }
    return 0;
}
