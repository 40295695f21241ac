// Swift has no prefetch of its own.
#pragma once

/// Asks for the cache line at `address`. Never faults.
static inline __attribute__((always_inline)) void prefetch(const void *address) { __builtin_prefetch(address); }

/// Asks for the cache line at `address`, to write to it. Never faults.
static inline __attribute__((always_inline)) void prefetch_to_write(const void *address) {
#if defined(__x86_64__)
    // Without -mprfchw, clang would make a prefetch to read of it. Processors that do not know it pass over it.
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)address));
#else
    __builtin_prefetch(address, 1);
#endif
}
