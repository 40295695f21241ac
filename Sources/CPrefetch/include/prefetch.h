// Swift has no prefetch of its own.
#pragma once

/// Asks for the cache line at `address`. Never faults.
static inline __attribute__((always_inline)) void prefetch(const void *address) { __builtin_prefetch(address); }
