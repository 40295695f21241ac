#define _GNU_SOURCE
#include <sched.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clinux.h"

int vr_unshare_net(void) { return unshare(CLONE_NEWNET); }
int vr_setns_net(int fd) { return setns(fd, CLONE_NEWNET); }
int vr_memory_file(const char *name) { return memfd_create(name, MFD_CLOEXEC); }
char **vr_environment(void) { return environ; }
int vr_spawn_new_session(void) { return POSIX_SPAWN_SETSID; }

// /sys of the calling thread's network namespace, mounted nowhere. Returns a descriptor of its root, or -1. By number: the C library
// has these only since 2.36.
int vr_open_sysfs(void) {
    int context = (int)syscall(SYS_fsopen, "sysfs", FSOPEN_CLOEXEC);
    if (context < 0)
        return -1;
    int root = -1;
    if (syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
        root = (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, 0);
    int reason = errno;
    close(context);
    errno = reason;
    return root;
}

// Of the calling thread. Returns 0, or errno.
int vr_pin_thread(unsigned cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof set, &set) == 0 ? 0 : errno;
}

// The processors that this process may run on, ascending. Returns how many there are in the list.
int vr_processors(int *list, int size) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) != 0)
        return 0;
    int count = 0;
    for (int processor = 0; processor < CPU_SETSIZE && count < size; processor++)
        if (CPU_ISSET(processor, &set))
            list[count++] = processor;
    return count;
}

// Datagrams that have come, each into a slot of its own, without waiting. A length beyond the slot's: it was cut off. Returns how
// many, or -1.
int vr_receive_messages(int socket, uint8_t *buffer, unsigned int slot, unsigned int *lengths, unsigned int count) {
    struct mmsghdr messages[64];
    struct iovec parts[64];
    if (count > 64)
        count = 64;
    for (unsigned int i = 0; i < count; i++) {
        parts[i] = (struct iovec){buffer + (size_t)i * slot, slot};
        messages[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &parts[i], .msg_iovlen = 1}};
    }
    int received = recvmmsg(socket, messages, count, MSG_DONTWAIT | MSG_TRUNC, NULL);
    for (int i = 0; i < received; i++)
        lengths[i] = messages[i].msg_len;
    return received;
}
