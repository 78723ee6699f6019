// Enough of CUDA to run a kernel on the CPU, with no GPU and no compiler but g++ or clang++.
//
//   #include "host_cuda.h"
//   #include "kernel.cu"
//   host_cuda::run(blocks, threads, seed, [&] { my_kernel(arguments); });
//
// Every thread of a block is a fiber: a stack of its own, and a place to go on from. One runs until
// it must wait for others, in a shuffle or at a barrier, and then the next. Blocks come one after
// another in random order, and so do the threads of a block: a kernel that counts on some order
// is found out. So is one in which some threads of a warp never reach a shuffle that the others
// wait in, which a GPU would answer with nonsense or not at all.
//
// It cannot show what threads do to each other at the same moment: atomics here are plain sums.
// Reading one array as two types, as kernels do, asks for -fno-strict-aliasing.
#pragma once

#ifdef __APPLE__
#define _XOPEN_SOURCE 700  // else macOS hides ucontext.h
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

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace host_cuda {

constexpr int WARP = 32;
constexpr std::size_t STACK = 32 << 10;  // of each fiber, in bytes

enum class State { RUNS, WAITS_FOR_WARP, WAITS_FOR_BLOCK, HAS_ENDED };

struct Fiber {
  ucontext_t beginning;  // only for the first time; setjmp is faster, and makes no system call
  jmp_buf here;
  bool has_begun = false;
  State state = State::RUNS;
  const char* waits_in = "";
  int line = 0;
  // What this lane tells the others of its warp. In turns: while some still read the last message,
  // others may be at the next shuffle already.
  alignas(16) unsigned char message[2][16];
  int turn = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
};

struct Machine {
  std::function<void()> kernel;
  std::vector<Fiber> fibers;
  std::vector<char> stacks;
  jmp_buf scheduler;
  int current = 0;
  std::exception_ptr complaint;
  const void* own_stack = nullptr;
  std::size_t own_stack_size = 0;
};
inline Machine machine;

// AddressSanitizer must be told of every change of stack.
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

// Called by a fiber: let the others run, and come back when the state is RUNS again.
inline void wait(State state, const char* in, int line) {
  Fiber& self = machine.fibers[machine.current];
  self.state = state;
  self.waits_in = in;
  self.line = line;
  leave_stack(&self.fake_stack, machine.own_stack, machine.own_stack_size);
  if (_setjmp(self.here) == 0) _longjmp(machine.scheduler, 1);
  arrive_on_stack(self.fake_stack, nullptr, nullptr);
}

inline void life_of_a_fiber() {
  arrive_on_stack(nullptr, &machine.own_stack, &machine.own_stack_size);
  for (;;) {  // the same fiber serves in every block
    try {
      machine.kernel();
    } catch (...) {
      machine.complaint = std::current_exception();
    }
    wait(State::HAS_ENDED, "", 0);
  }
}

// Called by the scheduler: let one fiber run until it waits or ends.
inline void resume(int thread) {
  Fiber& fiber = machine.fibers[thread];
  machine.current = thread;
  threadIdx.x = thread;
  void* fake_stack = nullptr;
  leave_stack(&fake_stack, &machine.stacks[thread * STACK], STACK);
  if (_setjmp(machine.scheduler) == 0) {
    if (fiber.has_begun) _longjmp(fiber.here, 1);
    fiber.has_begun = true;
    setcontext(&fiber.beginning);
  }
  arrive_on_stack(fake_stack, nullptr, nullptr);
  if (machine.complaint) std::rethrow_exception(std::exchange(machine.complaint, nullptr));
}

inline std::string describe(int thread) {
  const Fiber& fiber = machine.fibers[thread];
  const std::string name = "thread " + std::to_string(thread);
  if (fiber.state == State::HAS_ENDED) return name + " has ended";
  return name + " waits in " + fiber.waits_in + ", line " + std::to_string(fiber.line);
}

// Whether threads [first, end) all wait in the same line. Throws if they never will: all wait or
// have ended, but not alike.
inline bool wait_together(int first, int end, State state) {
  const auto begin = machine.fibers.begin();
  const Fiber& one = begin[first];
  for (int i = first; i < end; ++i) {
    const Fiber& other = begin[i];
    if (other.state != state || other.line != one.line) return false;
  }
  return true;
}

// Wake all who have met those they wait for. Returns whether there is anybody left to run.
inline bool wake() {
  const int threads = int(machine.fibers.size());
  bool somebody_runs = false, all_have_ended = true;
  for (const Fiber& fiber : machine.fibers)
    all_have_ended = all_have_ended && fiber.state == State::HAS_ENDED;
  if (all_have_ended) return false;
  const auto release = [&](int first, int end, State state) {
    if (!wait_together(first, end, state)) return;
    for (int i = first; i < end; ++i) machine.fibers[i].state = State::RUNS;
    somebody_runs = true;
  };
  for (int first = 0; first < threads; first += WARP)
    release(first, first + WARP, State::WAITS_FOR_WARP);
  release(0, threads, State::WAITS_FOR_BLOCK);
  if (somebody_runs) return true;
  int waiting = 0;  // the first who waits in vain, and one of its warp (or block) who is elsewhere
  while (machine.fibers[waiting].state == State::HAS_ENDED) ++waiting;
  const Fiber& fiber = machine.fibers[waiting];
  const bool warp = fiber.state == State::WAITS_FOR_WARP;
  int other = warp ? waiting / WARP * WARP : 0;
  while (machine.fibers[other].state == fiber.state && machine.fibers[other].line == fiber.line)
    ++other;
  throw std::runtime_error("block " + std::to_string(blockIdx.x) + ": " + describe(waiting) +
                           ", but " + describe(other));
}

// Run `kernel` in blocks of threads. Throws std::runtime_error if threads wait for each other in
// vain; what they had on their stacks is then forgotten.
inline void run(int blocks, int threads, unsigned seed, std::function<void()> kernel) {
  if (threads % WARP != 0) throw std::runtime_error("a block here is a whole number of warps");
  std::mt19937 random(seed);
  machine.kernel = std::move(kernel);
  machine.fibers = std::vector<Fiber>(threads);
  machine.stacks.resize(threads * STACK);
  for (int i = 0; i < threads; ++i) {
    ucontext_t& beginning = machine.fibers[i].beginning;
    getcontext(&beginning);
    beginning.uc_stack.ss_sp = &machine.stacks[i * STACK];
    beginning.uc_stack.ss_size = STACK;
    makecontext(&beginning, life_of_a_fiber, 0);
  }
  gridDim.x = blocks;
  blockDim.x = threads;
  std::vector<int> block_order(blocks), thread_order(threads);
  std::iota(block_order.begin(), block_order.end(), 0);
  std::iota(thread_order.begin(), thread_order.end(), 0);
  std::shuffle(block_order.begin(), block_order.end(), random);
  for (int block : block_order) {
    blockIdx.x = block;
    std::shuffle(thread_order.begin(), thread_order.end(), random);
    for (Fiber& fiber : machine.fibers) fiber.state = State::RUNS;
    do {
      for (int thread : thread_order)
        if (machine.fibers[thread].state == State::RUNS) resume(thread);
    } while (wake());
  }
}

// Tell the warp one's own value, and hear what lane `from` says.
template <typename T>
T hear(T own, int from, const char* in, int line) {
  static_assert(sizeof(T) <= 16);
  Fiber& self = machine.fibers[machine.current];
  const int turn = self.turn ^= 1;
  std::memcpy(self.message[turn], &own, sizeof own);
  wait(State::WAITS_FOR_WARP, in, line);
  const int first = machine.current / WARP * WARP;
  std::memcpy(&own, machine.fibers[first + from].message[turn], sizeof own);
  return own;
}

inline void require_whole_warp(unsigned mask) {
  if (mask != 0xffffffff) throw std::runtime_error("only whole warps can wait here");
}
inline int lane() { return machine.current % WARP; }

}  // namespace host_cuda

// ---- CUDA's own names ----

template <typename T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, int line = __builtin_LINE()) {
  host_cuda::require_whole_warp(mask);
  const int group = host_cuda::lane() / width * width;
  return host_cuda::hear(value, group + (from & (width - 1)), "__shfl_sync", line);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, int line = __builtin_LINE()) {
  host_cuda::require_whole_warp(mask);
  const int lane = host_cuda::lane(), end = (lane / width + 1) * width;
  return host_cuda::hear(value, (lane ^ bits) < end ? lane ^ bits : lane, "__shfl_xor_sync", line);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, int by, int width = 32, int line = __builtin_LINE()) {
  host_cuda::require_whole_warp(mask);
  const int lane = host_cuda::lane(), end = (lane / width + 1) * width;
  return host_cuda::hear(value, lane + by < end ? lane + by : lane, "__shfl_down_sync", line);
}
inline void __syncwarp(unsigned mask = 0xffffffff, int line = __builtin_LINE()) {
  host_cuda::require_whole_warp(mask);
  host_cuda::wait(host_cuda::State::WAITS_FOR_WARP, "__syncwarp", line);
}
inline void __syncthreads(int line = __builtin_LINE()) {
  host_cuda::wait(host_cuda::State::WAITS_FOR_BLOCK, "__syncthreads", line);
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

template <typename To, typename From>
To host_cuda_same_bits(From from) {
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline unsigned __float_as_uint(float x) { return host_cuda_same_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return host_cuda_same_bits<float>(x); }

// In place of two instructions that the kernel asks for by name. A half is a sign, 5 bits of
// exponent and 10 of fraction; not every compiler has it.
inline float half_to_float(unsigned short bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float size = exponent == 31  ? (fraction ? NAN : INFINITY)
                     : exponent == 0 ? std::ldexp(float(fraction), -24)
                                     : std::ldexp(float(1024 + fraction), exponent - 25);
  return bits & 0x8000 ? -size : size;
}
inline unsigned short float_to_half(float x) {
  const float size = std::fabs(x);
  const int sign = std::signbit(x) ? 0x8000 : 0;
  if (size != size) return sign | 0x7e00;
  if (size >= 65520) return sign | 0x7c00;  // rounds to more than there is: infinity
  const int exponent = std::max(size > 0 ? std::ilogb(size) : -14, -14);
  const int steps = int(std::nearbyint(std::ldexp(size, 10 - exponent)));  // 1024 of them hidden
  return sign | (((exponent + 15) << 10) + steps - 1024);
}
