// What the kernel's headers say in ways that Swift cannot import: function-like macros, casts, variadic calls.
#pragma once
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <linux/ethtool.h>
#include <linux/fib_rules.h>
#include <linux/filter.h>
#include <linux/if_addr.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <linux/if_vlan.h>
#include <linux/neighbour.h>
#include <linux/netconf.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <linux/veth.h>
#include <linux/virtio_net.h>

// Scope: these are the values of macros with casts or shifts that the importer drops.
static inline uint32_t vr_tc_ingress_parent(void) { return TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS); }
static inline uint32_t vr_tc_egress_parent(void) { return TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS); }
static inline uint32_t vr_tc_clsact_parent(void) { return TC_H_CLSACT; }
static inline uint32_t vr_tc_clsact_handle(void) { return TC_H_MAKE(TC_H_CLSACT, 0); }

// linux/if_packet.h: where a frame that is to be sent begins in its slot (TPACKET_V2).
static inline size_t vr_transmit_offset(void) { return TPACKET2_HDRLEN - sizeof(struct sockaddr_ll); }

// Behind _GNU_SOURCE, which Swift's own module of the C library is built without: these are in clinux.c.
int vr_unshare_net(void);
int vr_setns_net(int fd);
int vr_memory_file(const char *name);
char **vr_environment(void);
int vr_spawn_new_session(void);
int vr_open_sysfs(void);
int vr_processors(int *list, int size);

int vr_receive_messages(int socket, uint8_t *buffer, unsigned int slot, unsigned int *lengths, unsigned int count);
int vr_pin_thread(unsigned cpu);
int pthread_setname_np(pthread_t, const char *);
int posix_spawn_file_actions_addclosefrom_np(posix_spawn_file_actions_t *, int);
int posix_spawn_file_actions_addchdir_np(posix_spawn_file_actions_t *, const char *);

// F_SETLK and F_GETLK are commands of the variadic fcntl(2). Returns 0, or errno.
static inline int vr_lock_file(int fd) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_SETLK, &lock) == 0 ? 0 : errno;
}

// The process that has it; 0: none; -1: errno says why not.
static inline int vr_lock_holder(int fd) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_GETLK, &lock) != 0)
        return -1;
    return lock.l_type == F_UNLCK ? 0 : (int)lock.l_pid;
}

// errno is a macro.
static inline int vr_errno(void) { return errno; }

// open(2) is variadic.
static inline int vr_open_to_read(const char *path) { return open(path, O_RDONLY | O_CLOEXEC); }
static inline int vr_create_exclusively(const char *path) { return open(path, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444); }

// fcntl(2) is variadic: programs that are started do not get it, and nothing waits for it.
static inline void vr_keep_to_itself(int fd) {
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, O_NONBLOCK);
}

// `stdout` is a variable, which Swift 6 takes for shared state. Returns 0, or why something that was printed has not been written.
static inline int vr_flush_output(void) {
    errno = 0;
    return fflush(stdout) == 0 && !ferror(stdout) ? 0 : errno != 0 ? errno : EIO;
}

// How a wait status is read is a macro.
static inline int vr_exit_status(int status) {
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

// Words that are shared with the kernel or with another thread, in memory that Swift has no atomics for.
static inline uint32_t vr_load_acquire32(const volatile uint32_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline void vr_store_release32(volatile uint32_t *word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }
static inline uint64_t vr_load_relaxed64(const volatile uint64_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
static inline void vr_store_relaxed64(volatile uint64_t *word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELAXED); }
// Whether it was `from`, and is `to` now.
static inline bool vr_compare_exchange64(volatile uint64_t *word, uint64_t from, uint64_t to) {
    return __atomic_compare_exchange_n(word, &from, to, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

// 0 where there is no such file. `stat` is a structure and a function, which Swift keeps apart badly.
static inline uint64_t vr_inode(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 ? (uint64_t)status.st_ino : 0;
}

// -1 where there is no such file.
static inline int64_t vr_owner(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 ? (int64_t)status.st_uid : -1;
}

// ETHTOOL_SGRO goes through a union in the request of a variadic ioctl(2). Returns 0, or errno.
static inline int vr_set_gro(int socket, const char *name, int on) {
    struct ethtool_value value = {.cmd = ETHTOOL_SGRO, .data = on != 0};
    struct ifreq request = {.ifr_data = (char *)&value};
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    return ioctl(socket, SIOCETHTOOL, &request) == 0 ? 0 : errno;
}

// CLOCK_MONOTONIC, in nanoseconds: the clock of BPF programs.
static inline uint64_t vr_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}
