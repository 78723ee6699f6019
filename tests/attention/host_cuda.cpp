// The CUDA kernel as a library for the CPU. HOST_CUDA_CASES lists the kernels to compile:
// direction, type of value, VECTOR, LANES, QUERIES, HEADS, ENTRIES.
#include "host_cuda.h"

#include "ms_deform_attn.cu"

#include <cstdio>

namespace {

using ddetr::Arguments, ddetr::BFloat16, ddetr::Half;

bool same(const char* a, const char* b) { return std::strcmp(a, b) == 0; }

}  // namespace

// Returns 0, or 1 if the kernel failed, or 2 if it was not compiled; `message` then says why.
extern "C" int run_on_host(const char* direction, const char* type, int vector, int lanes,
                           int queries, int heads, int entries, unsigned grid_x, unsigned grid_y,
                           unsigned grid_z, unsigned seed, const void* arguments, int size,
                           char* message, int message_size) try {
  Arguments a;
  if (size != sizeof a) throw std::runtime_error("Arguments has another size here than in Python");
  std::memcpy(&a, arguments, sizeof a);
#define CASE(DIRECTION, T, VECTOR, LANES, QUERIES, HEADS, ENTRIES)                            \
  if (same(direction, #DIRECTION) && same(type, #T) && vector == VECTOR && lanes == LANES &&  \
      queries == QUERIES && heads == HEADS && entries == ENTRIES) {                           \
    host_cuda::run({grid_x, grid_y, grid_z}, LANES * QUERIES * HEADS, seed,                   \
                   [&] { ddetr::DIRECTION<T, VECTOR, LANES, QUERIES, HEADS, ENTRIES>(a); });  \
    return 0;                                                                                 \
  }
  HOST_CUDA_CASES
  std::snprintf(message, message_size, "no %s<%s, %d, %d, %d, %d, %d>", direction, type,
                vector, lanes, queries, heads, entries);
  return 2;
} catch (const std::exception& error) {
  std::snprintf(message, message_size, "%s", error.what());
  return 1;
}
