// The encoder's CUDA kernels, run on the CPU, with a record of what each lane does to memory.
// ddetr_edu/course/kernel_trace.py compiles and calls this.
#include "host_cuda.h"

namespace {

enum Access { READ, WRITE, ADD };

// Six numbers that Python reads as a row.
struct Event {
  long long address;  // 0 if there is nothing to read
  long long block, thread;
  long long waits;  // how often the thread had waited for others
  long long access;
  long long bytes;
};
std::vector<Event> events;

void record(Access access, bool happens, const void* address, int bytes) {
  const int thread = host_cuda::emulator.current;
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  events.push_back({happens ? (long long)(address) : 0, block, thread,
                    host_cuda::emulator.fibers[thread].waits, access, bytes});
}

}  // namespace

#define DDETR_TRACE(access, happens, address, bytes) record(access, happens, address, bytes)
#include "ms_deform_attn.cu"

#include <cstdio>

// Runs a kernel and keeps its events. Returns how many there are, or -1 with a message.
extern "C" long long trace(int is_backward, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                           const void* arguments, int size, char* message, int message_size) try {
  ddetr::Arguments a;
  if (size != sizeof a) throw std::runtime_error("Arguments has another size here than in Python");
  std::memcpy(&a, arguments, sizeof a);
  events.clear();
  constexpr int VECTOR = 4, LANES = 8, QUERIES = 32, HEADS = 1, ENTRIES = 2;
  host_cuda::run({grid_x, grid_y, grid_z}, LANES * QUERIES * HEADS, 0, [&] {
    if (is_backward)
      ddetr::backward<float, VECTOR, LANES, QUERIES, HEADS, ENTRIES>(a);
    else
      ddetr::forward<float, VECTOR, LANES, QUERIES, HEADS, ENTRIES>(a);
  });
  return (long long)(events.size());
} catch (const std::exception& error) {
  std::snprintf(message, message_size, "%s", error.what());
  return -1;
}

// Copies the events of the last run; there must be room for as many as `trace` returned.
extern "C" void copy_events(void* to) {
  std::memcpy(to, events.data(), events.size() * sizeof(Event));
}
