// Multi-scale deformable attention on an NVIDIA GPU, forward and backward.
//
// NVRTC compiles this file when it is first needed: one direction, one type of value and one width
// at a time, with no header but our own. host_cuda.h runs the same lines on a CPU.
//
// A group of LANES neighbouring lanes works on one head of one query, and like the CPU kernel it
// does two things. First each lane finds the place of one point. Then the points take turns: the
// lane that found one tells the others by shuffle, and all read its four corners, with VECTOR
// channels in each lane, in one load.
//
// Backward, each lane multiplies and adds what it reads, and the sums go home to the lane that
// found the point. Only the gradient of value needs atomics: many queries read the same token.
#include "ms_deform_attn.h"

#ifdef __CUDACC__  // NVRTC has no header for 16-bit numbers, but the GPU has instructions
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

// Everything a launch is told. Arrays are dense, and begin at multiples of 16 bytes. The gradient
// of value has 32 bits even where value has 16, and is zero before. ddetr_edu/attention/cuda.py
// fills this in.
struct Arguments {
  const void *value, *locations, *weights, *grad_output;
  void *output, *grad_value, *grad_locations, *grad_weights;
  long long tokens, queries;            // S, Lq; S * M * D must fit into an int with room to spare
  int heads, channels, levels, points;  // M, D, L, P
  int tiles;                            // how many blocks share out the queries of a head
  int queries_are_tokens;               // whether query i stands at token i
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
  const unsigned rounded = bits + 0x7fff + (bits >> 16 & 1);  // to nearest, a tie to even
  to.bits = (x == x ? rounded : bits | 0x400000) >> 16;       // NaN must not round to infinity
}

// The type of coordinates, and of sums: 32 bits, but 64 for doubles.
template <typename T> struct Sum { using type = float; };
template <> struct Sum<double> { using type = double; };

// What one load or store moves.
template <int BYTES> struct Word;
template <> struct Word<2> { using type = unsigned short; };
template <> struct Word<4> { using type = unsigned; };
template <> struct Word<8> { using type = uint2; };
template <> struct Word<16> { using type = uint4; };

// N numbers that lie side by side, or zeros if they are not there.
template <typename T, int N, typename S>
__device__ void read(bool there, const T* from, S (&numbers)[N]) {
  using W = typename Word<N * sizeof(T)>::type;
  W word = {};
  if (there) word = __ldg(reinterpret_cast<const W*>(from));
  T narrow[N];
  memcpy(narrow, &word, sizeof word);
  for (int i = 0; i < N; ++i) numbers[i] = widen(narrow[i]);
}

template <typename T, int N, typename S>
__device__ void write(T* to, const S (&numbers)[N]) {
  using W = typename Word<N * sizeof(T)>::type;
  T narrowed[N];
  for (int i = 0; i < N; ++i) narrow(numbers[i], narrowed[i]);
  W word;
  memcpy(&word, narrowed, sizeof word);
  *reinterpret_cast<W*>(to) = word;
}

// to[...] += numbers, whoever else adds there. Nobody waits for the result.
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

// Element i of an array. Counted in bytes here, once, so that in the inner loops the compiler finds
// an address with one multiplication.
template <typename T>
__device__ T* element(const void* array, long long i) {
  return reinterpret_cast<T*>((char*)(array) + i * (long long)(sizeof(T)));
}

// ---- Who works on what ----

// Query `i` of the `count` that a block takes as its tile, or -1 if there is none.
//
// Neighbouring queries read the same pixels, and a block's reads share a cache. So where the
// queries are the tokens, a tile is a rectangle of one level; else the queries in their order.
__device__ inline long long query_of(const Arguments& a, int tile, int i, int count) {
  if (!a.queries_are_tokens) {
    const long long query = (long long)(tile) * count + i;
    return query < a.queries ? query : -1;
  }
  const int tile_height = count / TILE_WIDTH;
  int level = 0, across;
  for (;; ++level) {
    across = (a.width[level] + TILE_WIDTH - 1) / TILE_WIDTH;
    const int down = (a.height[level] + tile_height - 1) / tile_height;
    if (tile < across * down) break;
    tile -= across * down;
  }
  const int column = tile % across * TILE_WIDTH + i % TILE_WIDTH;
  const int row = tile / across * tile_height + i / TILE_WIDTH;
  const bool exists = column < a.width[level] && row < a.height[level];
  return exists ? a.start[level] + row * a.width[level] + column : -1;
}

// What a group of lanes works on. A group with nothing to do still takes part in every shuffle.
struct Task {
  bool exists;
  long long image, row;  // row of (N * Lq * M)
  int head;

  __device__ Task(const Arguments& a, int lanes) {
    const int block = blockIdx.x;
    head = block % a.heads;
    image = block / a.heads / a.tiles;
    const int tile = block / a.heads % a.tiles;
    const long long query = query_of(a, tile, threadIdx.x / lanes, blockDim.x / lanes);
    exists = query >= 0;
    row = (image * a.queries + query) * a.heads + head;
  }
};

// ---- One point ----

// A point as far as all lanes need it: few numbers, since each is a shuffle.
template <typename S>
struct Point {
  int token;             // the upper left corner, even if it lies outside
  int below_and_inside;  // how many tokens on the corner below is; a bit for each corner inside
  S right, lower;        // how much the right, and the lower, corners count
  S weight;

  __device__ bool has(int corner) const { return below_and_inside >> corner & 1; }
  __device__ int corner_token(int corner) const {
    const int below = below_and_inside >> CORNERS;
    return token + (corner & 1) + (corner & 2 ? below : 0);
  }
  __device__ S counts(int corner) const {
    return weight * (corner & 2 ? lower : 1 - lower) * (corner & 1 ? right : 1 - right);
  }
};

// Point number `point` of the task's L * P, or one with nothing inside if there is none.
template <typename S>
__device__ Point<S> find(const Arguments& a, const Task& task, int point) {
  if (!task.exists || point >= a.levels * a.points) return {};
  const int level = point / a.points, width = a.width[level];
  const long long at = task.row * (a.levels * a.points) + point;
  S place[2], weight[1];
  read(true, static_cast<const S*>(a.locations) + 2 * at, place);
  read(true, static_cast<const S*>(a.weights) + at, weight);
  const Between<S> column = between(place[0], width), row = between(place[1], a.height[level]);
  const int inside = (row.has_first & column.has_first) << TOP_LEFT |
                     (row.has_first & column.has_second) << TOP_RIGHT |
                     (row.has_second & column.has_first) << BOTTOM_LEFT |
                     (row.has_second & column.has_second) << BOTTOM_RIGHT;
  return {a.start[level] + row.first * width + column.first, width << CORNERS | inside,
          column.second_share, row.second_share, weight[0]};
}

// The point that lane `from` of the group has found.
template <int LANES, typename S>
__device__ Point<S> share(const Point<S>& own, int from) {
  return {__shfl_sync(ALL_LANES, own.token, from, LANES),
          __shfl_sync(ALL_LANES, own.below_and_inside, from, LANES),
          __shfl_sync(ALL_LANES, own.right, from, LANES),
          __shfl_sync(ALL_LANES, own.lower, from, LANES),
          __shfl_sync(ALL_LANES, own.weight, from, LANES)};
}

// ---- Forward ----

template <typename T, int VECTOR, int LANES>
__device__ void forward(const Arguments& a) {
  using S = typename Sum<T>::type;
  const Task task(a, LANES);
  const int lane = threadIdx.x % LANES;
  const int step = a.heads * a.channels;  // from a token to the next
  const long long head = task.image * a.tokens * step + task.head * a.channels;
  const T* const value = element<const T>(a.value, head);
  T* const output = static_cast<T*>(a.output) + task.row * a.channels;

  for (int first_channel = 0; first_channel < a.channels; first_channel += LANES * VECTOR) {
    const int channel = first_channel + lane * VECTOR;
    const bool busy = channel < a.channels;
    S sum[VECTOR] = {};
    for (int first = 0; first < a.levels * a.points; first += LANES) {
      const Point<S> own = find<S>(a, task, first + lane);
#pragma unroll 4
      for (int p = 0; p < LANES; ++p) {
        const Point<S> point = share<LANES>(own, p);
        S pixels[CORNERS][VECTOR];
        for (int corner = 0; corner < CORNERS; ++corner)
          read(busy && point.has(corner), value + (point.corner_token(corner) * step + channel),
               pixels[corner]);
        for (int corner = 0; corner < CORNERS; ++corner)
          for (int i = 0; i < VECTOR; ++i) sum[i] += point.counts(corner) * pixels[corner][i];
      }
    }
    if (busy && task.exists) write(output + channel, sum);
  }
}

// ---- Backward ----

// Sum over the lanes of a group: lane i gets the sum of terms[i].
//
// Lanes exchange halves: each gives away the half of its terms that ends in the other lane. So all
// LANES sums together take LANES - 1 shuffles.
template <int LANES, typename S>
__device__ S sum_at_home(S (&terms)[LANES], int lane) {
#pragma unroll
  for (int half = LANES / 2; half > 0; half /= 2) {
    const bool upper = lane & half;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const S kept = upper ? terms[i + half] : terms[i];
      const S given = upper ? terms[i] : terms[i + half];
      terms[i] = kept + __shfl_xor_sync(ALL_LANES, given, half, LANES);
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
    const Point<S> own = find<S>(a, task, first + lane);
    S along[CORNERS][LANES] = {};  // this lane's part of: corners times incoming gradient

    for (int channel = lane * VECTOR; channel - lane * VECTOR < a.channels;
         channel += LANES * VECTOR) {
      const bool busy = channel < a.channels;
      S grad[VECTOR];
      read(busy && task.exists, grad_output + channel, grad);
#pragma unroll
      for (int p = 0; p < LANES; ++p) {
        const Point<S> point = share<LANES>(own, p);
        S pixels[CORNERS][VECTOR];
        for (int corner = 0; corner < CORNERS; ++corner)
          read(busy && point.has(corner), value + (point.corner_token(corner) * step + channel),
               pixels[corner]);
        for (int corner = 0; corner < CORNERS; ++corner) {
          S owed[VECTOR], product = 0;
          for (int i = 0; i < VECTOR; ++i) {
            product += grad[i] * pixels[corner][i];
            owed[i] = point.counts(corner) * grad[i];
          }
          along[corner][p] += product;
          if (busy && point.has(corner))
            add_atomically(grad_value + (point.corner_token(corner) * step + channel), owed);
        }
      }
    }

    const S top_left = sum_at_home(along[TOP_LEFT], lane);
    const S top_right = sum_at_home(along[TOP_RIGHT], lane);
    const S bottom_left = sum_at_home(along[BOTTOM_LEFT], lane);
    const S bottom_right = sum_at_home(along[BOTTOM_RIGHT], lane);
    const int point = first + lane;
    if (task.exists && point < a.levels * a.points) {
      const int level = point / a.points;
      const long long at = task.row * (a.levels * a.points) + point;
      const PointGradient<S> g =
          point_gradient(top_left, top_right, bottom_left, bottom_right, own.right, own.lower,
                         own.weight, a.height[level], a.width[level]);
      const S place[2] = {g.x, g.y}, weight[1] = {g.weight};
      write(static_cast<S*>(a.grad_locations) + 2 * at, place);
      write(static_cast<S*>(a.grad_weights) + at, weight);
    }
  }
}

}  // namespace ddetr

// The one kernel of a build. DDETR_DIRECTION is forward or backward, DDETR_VALUE the type of value,
// output and grad_output. The compiler uses as many registers as leave room for two blocks of
// DDETR_THREADS threads on a multiprocessor: the more, the more reads are under way at once.
#ifdef DDETR_DIRECTION
extern "C" __global__ void __launch_bounds__(DDETR_THREADS, 2)
    ms_deform_attn(const __grid_constant__ ddetr::Arguments a) {
  using namespace ddetr;
  DDETR_DIRECTION<DDETR_VALUE, DDETR_VECTOR, DDETR_LANES>(a);
}
#endif
