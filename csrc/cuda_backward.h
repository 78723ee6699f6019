// The backward pass on a GPU.
//
// Many queries read the same pixel, so its gradient is a sum over many threads, for which memory
// needs atomic adds; those would take longer than all the rest. Therefore a block sorts the corners
// of its points by pixel in shared memory, and walks the sorted list: a group of LANES lanes adds up
// all that belongs to one pixel, and adds only the sum to memory. The same walk yields what the
// gradients of locations and weights need, the dot product at each corner.
#pragma once

#include "cuda_point.h"

namespace ddetr {

// to[...] += numbers, atomically: other threads add there too. No thread waits for the result.
template <int N, typename S>
__device__ void add_atomically(S* to, const S (&numbers)[N]) {
  DDETR_TRACE(ADD, true, to, sizeof numbers);
#if __CUDA_ARCH__ >= 900  // four floats in one message to the memory
  if constexpr (N % 4 == 0 && sizeof(S) == 4) {
    for (int i = 0; i < N; i += 4)
      atomicAdd(reinterpret_cast<float4*>(to + i),
                float4{numbers[i], numbers[i + 1], numbers[i + 2], numbers[i + 3]});
    return;
  }
#endif
  for (int i = 0; i < N; ++i) atomicAdd(to + i, numbers[i]);
}

// Sum each of TERMS numbers over the LANES lanes of a group: lane i returns the sum of term number
// i * TERMS / LANES.
//
// In each round, pairs of lanes exchange halves: each sends the half of its terms that belongs to
// the other lane's side. Once one term is left, they add it.
template <int LANES, int TERMS, typename S>
__device__ S sum_over_lanes(S (&terms)[TERMS], int lane) {
  int count = TERMS;
#pragma unroll
  for (int distance = LANES / 2; distance > 0; distance /= 2) {
    const bool upper = lane & distance;
    if (count > 1) {
      count /= 2;
#pragma unroll
      for (int i = 0; i < count; ++i) {
        const S kept = upper ? terms[i + count] : terms[i];
        const S sent = upper ? terms[i] : terms[i + count];
        terms[i] = kept + __shfl_xor_sync(ALL_LANES, sent, distance, LANES);
      }
    } else {
      terms[0] += __shfl_xor_sync(ALL_LANES, terms[0], distance, LANES);
    }
  }
  return terms[0];
}

// ---- The corners of a block's points, sorted by pixel ----

// One corner of one point. Pixel and query are given by the offsets of their first numbers; entries
// behind the end of the list, which fill it up, have pixel -1.
template <typename S>
struct alignas(16) Entry {
  int pixel, query;
  S coef;
  S grad_dot_value;  // found by the walk
};

// Pixels are told apart by the last bits of level, row and column. Different pixels may share a
// slot; they are then mixed in the list, which costs time but no correctness.
constexpr int ROW_BITS = 3, COLUMN_BITS = 4, SLOTS = 2 << (ROW_BITS + COLUMN_BITS);

template <typename S>
__device__ int slot_of(const Point<S>& point, int corner) {
  const int row = point.row_of(corner) & ((1 << ROW_BITS) - 1);
  const int column = point.column_of(corner) & ((1 << COLUMN_BITS) - 1);
  return ((point.level & 1) << ROW_BITS | row) << COLUMN_BITS | column;
}

// Replace the count of each slot by where its entries begin, and sum the counts in `total`. Each
// warp reserves room for 32 slots at once, so the slots follow one another in any order.
__device__ inline void begin_of_each_slot(int (&slots)[SLOTS], int& total) {
  const int lane = threadIdx.x % 32;
  for (int i = threadIdx.x; i < SLOTS; i += blockDim.x) {
    const int count = slots[i];
    int end = count;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int before = __shfl_up_sync(ALL_LANES, end, distance);
      if (lane >= distance) end += before;
    }
    int begin = lane == 31 ? atomicAdd(&total, end) : 0;
    begin = __shfl_sync(ALL_LANES, begin, 31);
    slots[i] = begin + end - count;
  }
}

// ---- Backward ----

// A group handles ENTRIES entries of the list at once.
template <typename T, int VECTOR, int LANES, int QUERIES, int HEADS, int ENTRIES>
__device__ void backward(const Arguments& a) {
  using S = typename Sum<T>::type;
  constexpr int GROUPS = QUERIES * HEADS;
  constexpr int TERMS = LANES < ENTRIES ? LANES : ENTRIES;
  __shared__ int slots[SLOTS], total;
  __shared__ Entry<S> list[GROUPS * (LANES * NUM_CORNERS + TERMS)];
  const int lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
  const Task task = task_of<QUERIES, HEADS>(a, group);
  const int step = a.heads * a.channels;  // from one token, or query, to the next

  for (int first = 0; first < a.levels * a.points; first += LANES) {
    // Sort.
    for (int i = threadIdx.x; i < SLOTS; i += blockDim.x) slots[i] = 0;
    if (threadIdx.x == 0) total = 0;
    __syncthreads();
    const Point<S> own = load_point<S>(a, task, first + lane);
    int place[NUM_CORNERS] = {};
    for (int corner = 0; corner < NUM_CORNERS; ++corner)
      if (own.is_inside(corner)) place[corner] = atomicAdd(&slots[slot_of(own, corner)], 1);
    __syncthreads();
    begin_of_each_slot(slots, total);
    __syncthreads();
    for (int corner = 0; corner < NUM_CORNERS; ++corner)
      if (own.is_inside(corner)) {
        place[corner] += slots[slot_of(own, corner)];
        list[place[corner]] = {own.token(a, corner) * step, task.query * step, own.coef(corner), 0};
      }
    // Each group gets the same share of the list. An odd number of rounds lets the groups of a warp
    // read from different banks.
    const int rounds = (total + GROUPS * TERMS - 1) / (GROUPS * TERMS) | 1;
    const int share = rounds * TERMS;
    for (int i = total + threadIdx.x; i < GROUPS * share; i += blockDim.x) list[i] = {-1, 0, 0, 0};
    __syncthreads();

    // Walk.
    for (int first_channel = 0; first_channel < a.channels; first_channel += LANES * VECTOR) {
      const int number = task.head * a.channels + first_channel + lane * VECTOR;
      const T* const value = element<const T>(a.value, task.image * a.tokens * step + number);
      const T* const grad_output =
          element<const T>(a.grad_output, task.image * a.queries * step + number);
      S* const grad_value = element<S>(a.grad_value, task.image * a.tokens * step + number);
      int pixel = -1;  // whose gradient `sum` is
      S sum[VECTOR] = {};
#pragma unroll 1
      for (int i = group * share; i < group * share + share; i += TERMS) {
        Entry<S> entries[TERMS];
        S grad[TERMS][VECTOR], pixels[TERMS][VECTOR], dots[TERMS] = {};
#pragma unroll
        for (int k = 0; k < TERMS; ++k) {
          entries[k] = list[i + k];
          read(true, value + max(entries[k].pixel, 0), pixels[k]);
          read(true, grad_output + entries[k].query, grad[k]);
        }
#pragma unroll
        for (int k = 0; k < TERMS; ++k) {
          const bool is_new = entries[k].pixel != pixel;
          if (is_new && pixel >= 0) add_atomically(grad_value + pixel, sum);
          pixel = entries[k].pixel;
          for (int v = 0; v < VECTOR; ++v) {
            dots[k] += grad[k][v] * pixels[k][v];
            sum[v] = (is_new ? 0 : sum[v]) + entries[k].coef * grad[k][v];
          }
        }
        const S dot = sum_over_lanes<LANES>(dots, lane);
        __syncwarp();
        if (lane % (LANES / TERMS) == 0) list[i + lane / (LANES / TERMS)].grad_dot_value += dot;
      }
      if (pixel >= 0) add_atomically(grad_value + pixel, sum);
    }
    __syncthreads();

    // Each lane finishes its own point.
    if (task.exists() && first + lane < a.levels * a.points) {
      S dots[NUM_CORNERS] = {};
      for (int corner = 0; corner < NUM_CORNERS; ++corner)
        if (own.is_inside(corner)) dots[corner] = list[place[corner]].grad_dot_value;
      const long long at = task.first_point(a) + first + lane;
      const PointGradient<S> g = point_gradient(
          dots[TOP_LEFT], dots[TOP_RIGHT], dots[BOTTOM_LEFT], dots[BOTTOM_RIGHT], own.fraction_x,
          own.fraction_y, own.weight, a.height[own.level], a.width[own.level]);
      const S location[2] = {g.x, g.y}, weight[1] = {g.weight};
      write(static_cast<S*>(a.grad_locations) + 2 * at, location);
      write(static_cast<S*>(a.grad_weights) + at, weight);
    }
  }
}

}  // namespace ddetr
