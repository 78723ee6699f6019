// Enough of CUDA to run a kernel on the CPU, without a GPU and with g++ or clang++ alone.
//
//   #include "host_cuda.h"
//   #include "kernel.cu"
//   host_cuda::run({4, 2, 1}, threads, seed, [&] { my_kernel(arguments); });
//
// Every thread of a block is a fiber: it has its own stack and its own point of execution. A fiber
// runs until it must wait for others, in a shuffle or at a barrier, and then the next one runs.
// Blocks run one after another in random order, and so do the threads of a block, which exposes a
// kernel that depends on the order. A kernel in which some threads of a warp never reach a shuffle
// that the others wait in is reported too; on a GPU it would compute nonsense or hang.
//
// Data races cannot be found this way: only one thread runs at a time, and atomics are plain sums.
// Kernels read one array as two types, which needs -fno-strict-aliasing.
#pragma once

#ifdef __APPLE__
#define _XOPEN_SOURCE 700  // without it macOS hides ucontext.h
#define _DARWIN_C_SOURCE
#endif
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <functional>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define HOST_CUDA_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HOST_CUDA_ASAN
#endif
#endif
#ifdef HOST_CUDA_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static  // one block runs at a time
#ifndef __CUDA_ARCH__
#define __CUDA_ARCH__ 900
#endif

struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };

using std::max;

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace host_cuda {

constexpr int WARP = 32;
constexpr std::size_t STACK = 32 << 10;  // of each fiber, in bytes

enum class State { RUNNING, WAITING_FOR_WARP, WAITING_FOR_BLOCK, ENDED };

struct Fiber {
  ucontext_t start_context;  // for the first time only; setjmp is faster and makes no system call
  jmp_buf resume_context;
  bool has_started = false;
  State state = State::RUNNING;
  const char* waits_in = "";
  int line = 0;
  int waits = 0;  // how often it has waited in this block
  // The value that this lane passes to the others of its warp. There are two slots that take turns,
  // since some lanes may be at the next shuffle while others still read the last message.
  alignas(16) unsigned char message[2][16];
  int turn = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
};

struct Emulator {
  std::function<void()> kernel;
  std::vector<Fiber> fibers;
  std::vector<char> stacks;
  jmp_buf scheduler_context;
  int current = 0;
  std::exception_ptr pending_exception;  // thrown by the kernel, to be rethrown by the scheduler
  const void* scheduler_stack = nullptr;
  std::size_t scheduler_stack_size = 0;
};
inline Emulator emulator;

// Tell AddressSanitizer about every change of stack.
inline void leave_stack([[maybe_unused]] void** fake, [[maybe_unused]] const void* to,
                        [[maybe_unused]] std::size_t size) {
#ifdef HOST_CUDA_ASAN
  __sanitizer_start_switch_fiber(fake, to, size);
#endif
}
inline void arrive_on_stack([[maybe_unused]] void* fake, [[maybe_unused]] const void** from,
                            [[maybe_unused]] std::size_t* size) {
#ifdef HOST_CUDA_ASAN
  __sanitizer_finish_switch_fiber(fake, from, size);
#endif
}

// Called by a fiber: let the others run, and return when the state is RUNNING again.
inline void wait(State state, const char* in, int line) {
  Fiber& self = emulator.fibers[emulator.current];
  self.state = state;
  self.waits_in = in;
  self.line = line;
  ++self.waits;
  leave_stack(&self.fake_stack, emulator.scheduler_stack, emulator.scheduler_stack_size);
  if (_setjmp(self.resume_context) == 0) _longjmp(emulator.scheduler_context, 1);
  arrive_on_stack(self.fake_stack, nullptr, nullptr);
}

inline void fiber_main() {
  arrive_on_stack(nullptr, &emulator.scheduler_stack, &emulator.scheduler_stack_size);
  for (;;) {  // the same fiber runs in every block
    try {
      emulator.kernel();
    } catch (...) {
      emulator.pending_exception = std::current_exception();
    }
    wait(State::ENDED, "", 0);
  }
}

// Called by the scheduler: let one fiber run until it waits or ends.
inline void resume(int thread) {
  Fiber& fiber = emulator.fibers[thread];
  emulator.current = thread;
  threadIdx.x = thread;
  void* fake_stack = nullptr;
  leave_stack(&fake_stack, &emulator.stacks[thread * STACK], STACK);
  if (_setjmp(emulator.scheduler_context) == 0) {
    if (fiber.has_started) _longjmp(fiber.resume_context, 1);
    fiber.has_started = true;
    setcontext(&fiber.start_context);
  }
  arrive_on_stack(fake_stack, nullptr, nullptr);
  if (emulator.pending_exception)
    std::rethrow_exception(std::exchange(emulator.pending_exception, nullptr));
}

inline std::string describe(int thread) {
  const Fiber& fiber = emulator.fibers[thread];
  const std::string name = "thread " + std::to_string(thread);
  if (fiber.state == State::ENDED) return name + " has ended";
  return name + " waits in " + fiber.waits_in + ", line " + std::to_string(fiber.line);
}

// Whether threads [first, end) all wait in the same state and at the same line.
inline bool all_wait_together(int first, int end, State state) {
  const int line = emulator.fibers[first].line;
  for (int i = first; i < end; ++i) {
    const Fiber& fiber = emulator.fibers[i];
    if (fiber.state != state || fiber.line != line) return false;
  }
  return true;
}

// Let every complete group of waiting threads, a warp or the block, run again. Returns false when
// all threads have ended. Throws if no thread can ever run again.
inline bool release_waiters() {
  const int threads = int(emulator.fibers.size());
  bool any_running = false, all_ended = true;
  for (const Fiber& fiber : emulator.fibers)
    all_ended = all_ended && fiber.state == State::ENDED;
  if (all_ended) return false;
  const auto release = [&](int first, int end, State state) {
    if (!all_wait_together(first, end, state)) return;
    for (int i = first; i < end; ++i) emulator.fibers[i].state = State::RUNNING;
    any_running = true;
  };
  for (int first = 0; first < threads; first += WARP)
    release(first, first + WARP, State::WAITING_FOR_WARP);
  release(0, threads, State::WAITING_FOR_BLOCK);
  if (any_running) return true;
  // Report the first thread that waits in vain, and one of its warp (or block) that is elsewhere.
  int waiting = 0;
  while (emulator.fibers[waiting].state == State::ENDED) ++waiting;
  const Fiber& fiber = emulator.fibers[waiting];
  const bool warp = fiber.state == State::WAITING_FOR_WARP;
  int other = warp ? waiting / WARP * WARP : 0;
  while (emulator.fibers[other].state == fiber.state && emulator.fibers[other].line == fiber.line)
    ++other;
  throw std::runtime_error("block " + std::to_string(blockIdx.x) + ": " + describe(waiting) +
                           ", but " + describe(other));
}

// Run `kernel` in a grid of blocks of `threads` threads each, in an order drawn from `seed`. Throws
// std::runtime_error if threads wait for each other in vain; their stacks are then not unwound.
inline void run(dim3 grid, int threads, unsigned seed, std::function<void()> kernel) {
  if (threads % WARP != 0) throw std::runtime_error("a block must be a whole number of warps");
  std::mt19937 random(seed);
  emulator.kernel = std::move(kernel);
  emulator.fibers = std::vector<Fiber>(threads);
  emulator.stacks.resize(threads * STACK);
  for (int i = 0; i < threads; ++i) {
    ucontext_t& context = emulator.fibers[i].start_context;
    getcontext(&context);
    context.uc_stack.ss_sp = &emulator.stacks[i * STACK];
    context.uc_stack.ss_size = STACK;
    makecontext(&context, fiber_main, 0);
  }
  const unsigned blocks = grid.x * grid.y * grid.z;
  gridDim = grid;
  blockDim.x = threads;
  std::vector<unsigned> block_order(blocks);
  std::vector<int> thread_order(threads);
  std::iota(block_order.begin(), block_order.end(), 0);
  std::iota(thread_order.begin(), thread_order.end(), 0);
  std::shuffle(block_order.begin(), block_order.end(), random);
  for (unsigned block : block_order) {
    blockIdx = {block % grid.x, block / grid.x % grid.y, block / grid.x / grid.y};
    std::shuffle(thread_order.begin(), thread_order.end(), random);
    for (Fiber& fiber : emulator.fibers) {
      fiber.state = State::RUNNING;
      fiber.waits = 0;
    }
    do {
      for (int thread : thread_order)
        if (emulator.fibers[thread].state == State::RUNNING) resume(thread);
    } while (release_waiters());
  }
}

// Pass this lane's value to the warp, and return that of lane `from`.
template <typename T>
T exchange(T own, int from, const char* in, int line) {
  static_assert(sizeof(T) <= 16);
  Fiber& self = emulator.fibers[emulator.current];
  const int turn = self.turn ^= 1;
  std::memcpy(self.message[turn], &own, sizeof own);
  wait(State::WAITING_FOR_WARP, in, line);
  const int first = emulator.current / WARP * WARP;
  std::memcpy(&own, emulator.fibers[first + from].message[turn], sizeof own);
  return own;
}

inline void require_whole_warp(unsigned mask) {
  if (mask != 0xffffffff) throw std::runtime_error("only whole warps can wait here");
}
inline int lane() { return emulator.current % WARP; }

}  // namespace host_cuda

// ---- CUDA's own names ----

template <typename T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, int line = __builtin_LINE()) {
  host_cuda::require_whole_warp(mask);
  const int group = host_cuda::lane() / width * width;
  return host_cuda::exchange(value, group + (from & (width - 1)), "__shfl_sync", line);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, int line = __builtin_LINE()) {
  host_cuda::require_whole_warp(mask);
  const int lane = host_cuda::lane(), end = (lane / width + 1) * width;
  const int from = (lane ^ bits) < end ? lane ^ bits : lane;
  return host_cuda::exchange(value, from, "__shfl_xor_sync", line);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, int by, int width = 32, int line = __builtin_LINE()) {
  host_cuda::require_whole_warp(mask);
  const int lane = host_cuda::lane(), end = (lane / width + 1) * width;
  const int from = lane + by < end ? lane + by : lane;
  return host_cuda::exchange(value, from, "__shfl_down_sync", line);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, int by, int width = 32, int line = __builtin_LINE()) {
  host_cuda::require_whole_warp(mask);
  const int lane = host_cuda::lane(), from = lane % width >= by ? lane - by : lane;
  return host_cuda::exchange(value, from, "__shfl_up_sync", line);
}
inline void __syncwarp(unsigned mask = 0xffffffff, int line = __builtin_LINE()) {
  host_cuda::require_whole_warp(mask);
  host_cuda::wait(host_cuda::State::WAITING_FOR_WARP, "__syncwarp", line);
}
inline void __syncthreads(int line = __builtin_LINE()) {
  host_cuda::wait(host_cuda::State::WAITING_FOR_BLOCK, "__syncthreads", line);
}

template <typename T>
T __ldg(const T* from) { return *from; }

template <typename T>
T atomicAdd(T* to, T amount) {
  const T before = *to;
  *to += amount;
  return before;
}
inline float4 atomicAdd(float4* to, float4 amount) {
  const float4 before = *to;
  *to = {to->x + amount.x, to->y + amount.y, to->z + amount.z, to->w + amount.w};
  return before;
}

inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned long long)(a) * b >> 32; }

template <typename To, typename From>
To host_cuda_same_bits(From from) {
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline unsigned __float_as_uint(float x) { return host_cuda_same_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return host_cuda_same_bits<float>(x); }

// These replace two instructions that the kernel uses as inline assembly. A half has a sign, 5 bits
// of exponent and 10 of fraction; not every compiler supports the type.
inline float half_to_float(unsigned short bits) {
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const float size = exponent == 31  ? (fraction ? NAN : INFINITY)
                     : exponent == 0 ? std::ldexp(float(fraction), -24)
                                     : std::ldexp(float(1024 + fraction), exponent - 25);
  return bits & 0x8000 ? -size : size;
}
inline unsigned short float_to_half(float x) {
  const float size = std::fabs(x);
  const int sign = std::signbit(x) ? 0x8000 : 0;
  if (size != size) return sign | 0x7e00;
  if (size >= 65520) return sign | 0x7c00;  // rounds to infinity
  const int exponent = std::max(size > 0 ? std::ilogb(size) : -14, -14);
  const int steps = int(std::nearbyint(std::ldexp(size, 10 - exponent)));  // 1024 is the hidden bit
  return sign | (((exponent + 15) << 10) + steps - 1024);
}
