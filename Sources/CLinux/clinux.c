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

_Static_assert(sizeof(struct vr_message) == sizeof(struct mmsghdr), "vr_message is mmsghdr");
_Static_assert(offsetof(struct vr_message, length) == offsetof(struct mmsghdr, msg_len), "vr_message is mmsghdr");

int vr_send_messages(int socket, struct vr_message *messages, unsigned int count) {
    return sendmmsg(socket, (struct mmsghdr *)messages, count, MSG_DONTWAIT);
}
