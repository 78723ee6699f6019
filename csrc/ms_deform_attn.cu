// Multi-scale deformable attention on an NVIDIA GPU, forward and backward.
//
// NVRTC compiles this file when it is first needed, for one direction, one type of value and one
// width at a time. It includes only our own header. host_cuda.h runs the same source on a CPU.
//
// A group of LANES neighbouring lanes works on one head of one query. Like the CPU kernel it does
// two things. First each lane loads one point and computes its sampling position. Then the points
// take turns: the lane that loaded a point broadcasts it by shuffles, and all lanes read its four
// corners, VECTOR channels per lane in one load.
//
// In the backward pass each lane sums over its own channels, and a reduce-scatter returns the total
// of each point to the lane that loaded it. Only the gradient of value needs atomics, because many
// queries read the same token.
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
  int tiles;                            // blocks that divide the queries of one head among them
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
  T narrgrad_contrib[N];
  for (int i = 0; i < N; ++i) narrow(numbers[i], narrgrad_contrib[i]);
  W word;
  memcpy(&word, narrgrad_contrib, sizeof word);
  *reinterpret_cast<W*>(to) = word;
}

// to[...] += numbers, atomically: other threads add there too. No thread waits for the result.
template <int N, typename S>
__device__ void add_atomically(S* to, const S (&numbers)[N]) {
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

// The address of element i of an array. The offset in bytes is computed here, once, so that in the
// inner loops an address takes one multiplication.
template <typename T>
__device__ T* element(const void* array, long long i) {
  return reinterpret_cast<T*>((char*)(array) + i * (long long)(sizeof(T)));
}

// ---- The query and head of each group ----

// Query `i` of the `count` in a block's tile, or -1 if there is none.
//
// Neighbouring queries read the same pixels, and the reads of a block share a cache. So where the
// queries are the tokens, a tile is a rectangle of one level; otherwise it is a range of queries.
__device__ inline long long query_in_tile(const Arguments& a, int tile, int i, int count) {
  if (!a.queries_are_tokens) {
    const long long query = (long long)(tile) * count + i;
    return query < a.queries ? query : -1;
  }
  const int tile_height = count / TILE_WIDTH;
  int level = 0, tiles_across;
  for (;; ++level) {
    tiles_across = (a.width[level] + TILE_WIDTH - 1) / TILE_WIDTH;
    const int tiles_down = (a.height[level] + tile_height - 1) / tile_height;
    if (tile < tiles_across * tiles_down) break;
    tile -= tiles_across * tiles_down;
  }
  const int column = tile % tiles_across * TILE_WIDTH + i % TILE_WIDTH;
  const int row = tile / tiles_across * tile_height + i / TILE_WIDTH;
  const bool exists = column < a.width[level] && row < a.height[level];
  return exists ? a.start[level] + row * a.width[level] + column : -1;
}

// The query and head that a group of lanes works on. A group without one still takes part in every
// shuffle.
struct Task {
  bool exists;
  long long image, row;  // row of (N * Lq * M)
  int head;

  __device__ Task(const Arguments& a, int lanes) {
    const int block = blockIdx.x;
    head = block % a.heads;
    image = block / a.heads / a.tiles;
    const int tile = block / a.heads % a.tiles;
    const long long query = query_in_tile(a, tile, threadIdx.x / lanes, blockDim.x / lanes);
    exists = query >= 0;
    row = (image * a.queries + query) * a.heads + head;
  }
};

// ---- One point ----

// What all lanes need to know of a point. There are few fields, because each costs a shuffle.
template <typename S>
struct Point {
  int token;  // the top left corner, even if it lies outside the level
  // The level's width, shifted left by NUM_CORNERS; below it one bit for each corner, set if the corner
  // lies inside the level.
  int width_and_inside_bits;
  S fraction_x, fraction_y;  // the weight of the right corners, and of the bottom corners
  S weight;

  __device__ bool is_inside(int corner) const { return (width_and_inside_bits >> corner) & 1; }
  __device__ int corner_token(int corner) const {
    const int width = width_and_inside_bits >> NUM_CORNERS;
    return token + (corner & RIGHT_BIT) + ((corner & BOTTOM_BIT) ? width : 0);
  }
  __device__ S coef(int corner) const {
    return weight * ((corner & BOTTOM_BIT) ? fraction_y : 1 - fraction_y) *
           ((corner & RIGHT_BIT) ? fraction_x : 1 - fraction_x);
  }
};

// Point number `point` of the task's L * P, or one with no corner inside if there is no such point.
template <typename S>
__device__ Point<S> load_point(const Arguments& a, const Task& task, int point) {
  if (!task.exists || point >= a.levels * a.points) return {};
  const int level = point / a.points, width = a.width[level];
  const long long at = task.row * (a.levels * a.points) + point;
  S location[2], weight[1];
  read(true, static_cast<const S*>(a.locations) + 2 * at, location);
  read(true, static_cast<const S*>(a.weights) + at, weight);
  const AxisPosition<S> column = locate_on_axis(location[0], width);
  const AxisPosition<S> row = locate_on_axis(location[1], a.height[level]);
  const int inside_bits = ((row.has_first & column.has_first) << TOP_LEFT) |
                          ((row.has_first & column.has_second) << TOP_RIGHT) |
                          ((row.has_second & column.has_first) << BOTTOM_LEFT) |
                          ((row.has_second & column.has_second) << BOTTOM_RIGHT);
  return {a.start[level] + row.first * width + column.first, (width << NUM_CORNERS) | inside_bits,
          column.fraction, row.fraction, weight[0]};
}

// The point that lane `from` of the group has loaded.
template <int LANES, typename S>
__device__ Point<S> broadcast_point(const Point<S>& own, int from) {
  return {__shfl_sync(ALL_LANES, own.token, from, LANES),
          __shfl_sync(ALL_LANES, own.width_and_inside_bits, from, LANES),
          __shfl_sync(ALL_LANES, own.fraction_x, from, LANES),
          __shfl_sync(ALL_LANES, own.fraction_y, from, LANES),
          __shfl_sync(ALL_LANES, own.weight, from, LANES)};
}

// ---- Forward ----

template <typename T, int VECTOR, int LANES>
__device__ void forward(const Arguments& a) {
  using S = typename Sum<T>::type;
  const Task task(a, LANES);
  const int lane = threadIdx.x % LANES;
  const int step = a.heads * a.channels;  // from one token to the next
  const long long head = task.image * a.tokens * step + task.head * a.channels;
  const T* const value = element<const T>(a.value, head);
  T* const output = static_cast<T*>(a.output) + task.row * a.channels;

  for (int first_channel = 0; first_channel < a.channels; first_channel += LANES * VECTOR) {
    const int channel = first_channel + lane * VECTOR;
    const bool busy = channel < a.channels;
    S sum[VECTOR] = {};
    for (int first = 0; first < a.levels * a.points; first += LANES) {
      const Point<S> own = load_point<S>(a, task, first + lane);
#pragma unroll 4
      for (int p = 0; p < LANES; ++p) {
        const Point<S> point = broadcast_point<LANES>(own, p);
        S pixels[NUM_CORNERS][VECTOR];
        for (int corner = 0; corner < NUM_CORNERS; ++corner)
          read(busy && point.is_inside(corner),
               value + (point.corner_token(corner) * step + channel), pixels[corner]);
        for (int corner = 0; corner < NUM_CORNERS; ++corner)
          for (int i = 0; i < VECTOR; ++i) sum[i] += point.coef(corner) * pixels[corner][i];
      }
    }
    if (busy && task.exists) write(output + channel, sum);
  }
}

// ---- Backward ----

// Sum over the lanes of a group: lane i returns the sum of terms[i].
//
// In each round, pairs of lanes exchange halves: each sends the half of its terms that belongs to
// the other lane's side. So all LANES sums together take LANES - 1 shuffles.
template <int LANES, typename S>
__device__ S reduce_scatter(S (&terms)[LANES], int lane) {
#pragma unroll
  for (int half = LANES / 2; half > 0; half /= 2) {
    const bool upper = lane & half;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const S kept = upper ? terms[i + half] : terms[i];
      const S sent = upper ? terms[i] : terms[i + half];
      terms[i] = kept + __shfl_xor_sync(ALL_LANES, sent, half, LANES);
    }
  }
  return terms[0];
}

template <typename T, int VECTOR, int LANES>
__device__ void backward(const Arguments& a) {
  using S = typename Sum<T>::type;
  const Task task(a, LANES);
  const int lane = threadIdx.x % LANES;
  const int step = a.heads * a.channels;
  const long long head = task.image * a.tokens * step + task.head * a.channels;
  const T* const value = element<const T>(a.value, head);
  S* const grad_value = element<S>(a.grad_value, head);
  const T* const grad_output = static_cast<const T*>(a.grad_output) + task.row * a.channels;

  for (int first = 0; first < a.levels * a.points; first += LANES) {
    const Point<S> own = load_point<S>(a, task, first + lane);
    // This lane's part of the dot products of the incoming gradient and the value at each corner.
    S grad_dot_value[NUM_CORNERS][LANES] = {};

    for (int channel = lane * VECTOR; channel - lane * VECTOR < a.channels;
         channel += LANES * VECTOR) {
      const bool busy = channel < a.channels;
      S grad[VECTOR];
      read(busy && task.exists, grad_output + channel, grad);
#pragma unroll
      for (int p = 0; p < LANES; ++p) {
        const Point<S> point = broadcast_point<LANES>(own, p);
        S pixels[NUM_CORNERS][VECTOR];
        for (int corner = 0; corner < NUM_CORNERS; ++corner)
          read(busy && point.is_inside(corner),
               value + (point.corner_token(corner) * step + channel), pixels[corner]);
        for (int corner = 0; corner < NUM_CORNERS; ++corner) {
          S grad_contrib[VECTOR], product = 0;
          for (int i = 0; i < VECTOR; ++i) {
            product += grad[i] * pixels[corner][i];
            grad_contrib[i] = point.coef(corner) * grad[i];
          }
          grad_dot_value[corner][p] += product;
          if (busy && point.is_inside(corner))
            add_atomically(grad_value + (point.corner_token(corner) * step + channel),
                           grad_contrib);
        }
      }
    }

    const S top_left = reduce_scatter(grad_dot_value[TOP_LEFT], lane);
    const S top_right = reduce_scatter(grad_dot_value[TOP_RIGHT], lane);
    const S bottom_left = reduce_scatter(grad_dot_value[BOTTOM_LEFT], lane);
    const S bottom_right = reduce_scatter(grad_dot_value[BOTTOM_RIGHT], lane);
    const int point = first + lane;
    if (task.exists && point < a.levels * a.points) {
      const int level = point / a.points;
      const long long at = task.row * (a.levels * a.points) + point;
      const PointGradient<S> g =
          point_gradient(top_left, top_right, bottom_left, bottom_right, own.fraction_x,
                         own.fraction_y, own.weight, a.height[level], a.width[level]);
      const S location[2] = {g.x, g.y}, weight[1] = {g.weight};
      write(static_cast<S*>(a.grad_locations) + 2 * at, location);
      write(static_cast<S*>(a.grad_weights) + at, weight);
    }
  }
}

}  // namespace ddetr

// The one kernel of a build. DDETR_DIRECTION is forward or backward, DDETR_VALUE the type of value,
// output and grad_output. The compiler may use as many registers as leave room for two blocks of
// DDETR_THREADS threads on a multiprocessor: more registers allow more reads in flight.
#ifdef DDETR_DIRECTION
extern "C" __global__ void __launch_bounds__(DDETR_THREADS, 2)
    ms_deform_attn(const __grid_constant__ ddetr::Arguments a) {
  using namespace ddetr;
  DDETR_DIRECTION<DDETR_VALUE, DDETR_VECTOR, DDETR_LANES>(a);
}
#endif
