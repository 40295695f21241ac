#define _GNU_SOURCE
#include <sched.h>
#include <sys/mman.h>
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
