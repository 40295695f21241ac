// What the kernel's headers say in ways that Swift cannot import: function-like macros, casts, variadic calls.
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/if_vlan.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>

// Scope: these are the values of macros with casts or shifts that the importer drops.
static inline uint32_t vr_tc_ingress_parent(void) { return TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS); }
static inline uint32_t vr_tc_egress_parent(void) { return TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS); }
static inline uint32_t vr_tc_clsact_parent(void) { return TC_H_CLSACT; }
static inline uint32_t vr_tc_clsact_handle(void) { return TC_H_MAKE(TC_H_CLSACT, 0); }

// unshare(2) and setns(2) are hidden behind _GNU_SOURCE, which Swift's Glibc module is built without.
static inline int vr_unshare_net(void) { return unshare(CLONE_NEWNET); }
static inline int vr_setns_net(int fd) { return setns(fd, CLONE_NEWNET); }
static inline int vr_gettid(void) { return (int)syscall(SYS_gettid); }
