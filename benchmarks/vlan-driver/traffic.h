// SPDX-License-Identifier: Apache-2.0
// What bench.c and the XDP programs in traffic.bpf.c have in common.
#include <linux/types.h>

// A minimum frame, "64 bytes": the frame check sequence, the other four, is the hardware's. A VLAN tag comes on top.
#define UNTAGGED_BYTES 60
#define TAGGED_BYTES 64

#define FLOWS 256
#define IDENTIFICATION 0x8000 // of the IPv4 header in the pattern

struct traffic {
    __u32 frame[TAGGED_BYTES / 4]; // the pattern
    __u32 hosts;                   // in each of the two networks
    __u32 vlans;                   // 0: untagged; otherwise ids first_vlan, first_vlan + 1, … in turn
    __u32 first_vlan;
    __u32 expected_ttl; // the sink counts frames with this TTL only
};
