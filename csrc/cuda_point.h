// What the forward and the backward pass on a GPU have in common: numbers of all types, which query
// and head a thread works on, and one sampling point.
#pragma once

#include "ms_deform_attn.h"

#ifdef __CUDACC__  // NVRTC has no header for 16-bit numbers, but the GPU has the instructions
__device__ float half_to_float(unsigned short bits) {
  float number;
  asm("cvt.f32.f16 %0, %1;" : "=f"(number) : "h"(bits));
  return number;
}
__device__ unsigned short float_to_half(float number) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(number));
  return bits;
}
#endif

#ifndef DDETR_TRACE  // what a lane does to memory; host_trace.cpp records it
#define DDETR_TRACE(access, happens, address, bytes)
#endif

namespace ddetr {

constexpr unsigned ALL_LANES = 0xffffffff;
constexpr int MAX_LEVELS = 16;
constexpr int TILE_WIDTH = 8;

// The argument of the kernel. Arrays are dense and begin at multiples of 16 bytes. The gradient of
// value has at least 32 bits, even where value has 16, and must be zero at the start.
// kernels/cuda_plan.py declares the same struct in Python; a test compares the two.
struct Arguments {
  const void *value, *locations, *weights, *grad_output;
  void *output, *grad_value, *grad_locations, *grad_weights;
  long long tokens, queries;            // S, Lq; S * M * D must fit into an int with room to spare
  int heads, channels, levels, points;  // M, D, L, P
  unsigned inverse_points;              // 2^31 / P, rounded up: divides by P, see level_of
  int queries_are_tokens;               // whether query i belongs to token i, as in an encoder
  int height[MAX_LEVELS], width[MAX_LEVELS], start[MAX_LEVELS];
};

// ---- Numbers of 16, 32 and 64 bits ----

struct Half { unsigned short bits; };
struct BFloat16 { unsigned short bits; };

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(Half x) { return half_to_float(x.bits); }
__device__ inline float widen(BFloat16 x) { return __uint_as_float(unsigned(x.bits) << 16); }

__device__ inline void narrow(float x, float& to) { to = x; }
__device__ inline void narrow(double x, double& to) { to = x; }
__device__ inline void narrow(float x, Half& to) { to.bits = float_to_half(x); }
__device__ inline void narrow(float x, BFloat16& to) {  // bfloat16 is the upper half of a float
  const unsigned bits = __float_as_uint(x);
  const unsigned rounded = bits + 0x7fff + ((bits >> 16) & 1);  // to nearest, ties to even
  to.bits = (x == x ? rounded : bits | 0x400000) >> 16;         // NaN must not round to infinity
}

// The type of coordinates and of sums: float, but double for doubles.
template <typename T> struct Sum { using type = float; };
template <> struct Sum<double> { using type = double; };

// The type that one load or store of BYTES bytes moves.
template <int BYTES> struct Word;
template <> struct Word<2> { using type = unsigned short; };
template <> struct Word<4> { using type = unsigned; };
template <> struct Word<8> { using type = uint2; };
template <> struct Word<16> { using type = uint4; };

// Read N neighbouring numbers with one load, or zeros if `exists` is false.
template <typename T, int N, typename S>
__device__ void read(bool exists, const T* from, S (&numbers)[N]) {
  using W = typename Word<N * sizeof(T)>::type;
  DDETR_TRACE(READ, exists, from, sizeof(W));
  W word = {};
  if (exists) word = __ldg(reinterpret_cast<const W*>(from));
  T narrow[N];
  memcpy(narrow, &word, sizeof word);
  for (int i = 0; i < N; ++i) numbers[i] = widen(narrow[i]);
}

// Write N neighbouring numbers with one store.
template <typename T, int N, typename S>
__device__ void write(T* to, const S (&numbers)[N]) {
  using W = typename Word<N * sizeof(T)>::type;
  DDETR_TRACE(WRITE, true, to, sizeof(W));
  T narrowed[N];
  for (int i = 0; i < N; ++i) narrow(numbers[i], narrowed[i]);
  W word;
  memcpy(&word, narrowed, sizeof word);
  *reinterpret_cast<W*>(to) = word;
}

// The address of element i of an array. The offset in bytes is computed here, once, so that in the
// inner loops an address takes one multiplication.
template <typename T>
__device__ T* element(const void* array, long long i) {
  return reinterpret_cast<T*>((char*)(array) + i * (long long)(sizeof(T)));
}

// ---- The query and head of each group ----

// Query `i` of the QUERIES in this block's tile, or -1 if there is none.
//
// Neighbouring queries read the same pixels, and the reads of a block share a cache. So where the
// queries are the tokens, a tile is a rectangle of one level; otherwise it is a range of queries.
template <int QUERIES>
__device__ int query_in_tile(const Arguments& a, int i) {
  constexpr int TILE_HEIGHT = QUERIES / TILE_WIDTH;
  int tile = blockIdx.x;
  if (!a.queries_are_tokens) {
    const long long query = (long long)(tile) * QUERIES + i;
    return query < a.queries ? int(query) : -1;
  }
  int level = 0, tiles_across;
  for (;; ++level) {
    tiles_across = (a.width[level] + TILE_WIDTH - 1) / TILE_WIDTH;
    const int tiles_down = (a.height[level] + TILE_HEIGHT - 1) / TILE_HEIGHT;
    if (tile < tiles_across * tiles_down) break;
    tile -= tiles_across * tiles_down;
  }
  const int column = tile % tiles_across * TILE_WIDTH + i % TILE_WIDTH;
  const int row = tile / tiles_across * TILE_HEIGHT + i / TILE_WIDTH;
  const bool exists = column < a.width[level] && row < a.height[level];
  return exists ? a.start[level] + row * a.width[level] + column : -1;
}

// The query and head that a group of lanes works on. A group without a query still takes part in
// every shuffle and barrier.
struct Task {
  int query, head;  // the query is -1 if there is none
  long long image;

  __device__ bool exists() const { return query >= 0; }
  // The number of the query's first point in locations and weights.
  __device__ long long first_point(const Arguments& a) const {
    return ((image * a.queries + query) * a.heads + head) * (a.levels * a.points);
  }
};

// A block has QUERIES queries of HEADS heads each.
template <int QUERIES, int HEADS>
__device__ Task task_of(const Arguments& a, int group) {
  return {query_in_tile<QUERIES>(a, group / HEADS), int(blockIdx.y) * HEADS + group % HEADS,
          blockIdx.z};
}

// ---- One point ----

template <typename S>
struct Point {
  int level, column, row;    // of the top left corner, even if it lies outside the level
  int inside_bits;           // one bit for each corner, set if the corner lies inside the level
  S fraction_x, fraction_y;  // the weight of the right corners, and of the bottom corners
  S weight;

  __device__ bool is_inside(int corner) const { return (inside_bits >> corner) & 1; }
  __device__ int column_of(int corner) const { return column + (corner & RIGHT_BIT); }
  __device__ int row_of(int corner) const { return row + ((corner & BOTTOM_BIT) ? 1 : 0); }
  __device__ int token(const Arguments& a, int corner) const {
    return a.start[level] + row_of(corner) * a.width[level] + column_of(corner);
  }
  __device__ S coef(int corner) const {
    return weight * ((corner & BOTTOM_BIT) ? fraction_y : 1 - fraction_y) *
           ((corner & RIGHT_BIT) ? fraction_x : 1 - fraction_x);
  }
};

// point / P. A division takes many instructions; this is exact, because (2 * point + 1) / 2P is at
// least 1 / 2P away from a whole number.
__device__ inline int level_of(const Arguments& a, int point) {
  return __umulhi(2 * point + 1, a.inverse_points);
}

// Point number `point` of the task's L * P, or one with no corner inside if there is no such point.
template <typename S>
__device__ Point<S> load_point(const Arguments& a, const Task& task, int point) {
  if (!task.exists() || point >= a.levels * a.points) return {};
  const int level = level_of(a, point);
  const long long at = task.first_point(a) + point;
  S location[2], weight[1];
  read(true, static_cast<const S*>(a.locations) + 2 * at, location);
  read(true, static_cast<const S*>(a.weights) + at, weight);
  const AxisPosition<S> column = locate_on_axis(location[0], a.width[level]);
  const AxisPosition<S> row = locate_on_axis(location[1], a.height[level]);
  const int inside_bits = ((row.has_first & column.has_first) << TOP_LEFT) |
                          ((row.has_first & column.has_second) << TOP_RIGHT) |
                          ((row.has_second & column.has_first) << BOTTOM_LEFT) |
                          ((row.has_second & column.has_second) << BOTTOM_RIGHT);
  return {level, column.first, row.first, inside_bits, column.fraction, row.fraction, weight[0]};
}

}  // namespace ddetr
