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
