// Multi-scale deformable attention on the CPU, forward and backward.
//
// The layout decides the speed: value is (N, S, M, D), so the D channels of one head at one token
// lie side by side and a corner of a sampling point is read with one or two vector loads.
//
// Both directions do the same two things for every query and head. First the places of up to
// BLOCK points are worked out together, one point to a lane. Then each point in turn reads its
// four rows, with the channels in the lanes.
//
// Nothing is shared between threads but what is only read, so there are no atomics and the result
// has the same bits whatever the number of threads: in `forward` a thread owns an output row, in
// `backward` it owns all that one head of one image has.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <type_traits>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "ms_deform_attn.h"
#include "row.h"

namespace ddetr {
namespace {

constexpr int BLOCK = 16;  // points located together: one AVX-512 register of floats

int thread_number() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

struct Sizes {
  std::ptrdiff_t images, tokens, heads, channels, queries;  // N, S, M, D, Lq
  int levels, points;                                       // L, P

  explicit Sizes(const std::int64_t* s)
      : images(s[0]), tokens(s[1]), heads(s[2]), channels(s[3]), queries(s[4]),
        levels(int(s[5])), points(int(s[6])) {}
};

// The level of every point of a head, one entry per point: what `locate` needs to know.
struct Levels {
  std::vector<int> height, width, start;

  Levels(const Sizes& sizes, const std::int64_t* shapes) {
    int first_token = 0;
    for (int level = 0; level < sizes.levels; ++level) {
      const int h = int(shapes[2 * level]), w = int(shapes[2 * level + 1]);
      height.insert(height.end(), sizes.points, h);
      width.insert(width.end(), sizes.points, w);
      start.insert(start.end(), sizes.points, first_token);
      first_token += h * w;
    }
  }
};

// Up to BLOCK points of one query and head: each property an array, so that points fill the lanes.
template <typename T>
struct Block {
  int first, count;  // of the L * P points
  int token[CORNERS][BLOCK];
  T right[BLOCK], bottom[BLOCK];
  T counts[CORNERS][BLOCK];  // attention weight times share

  Block(int first, int n_points) : first(first), count(std::min(BLOCK, n_points - first)) {}

  void locate(const Levels& levels, const T* locations, const T* weights, int nowhere) {
    // A constant number of rounds lets the compiler leave out the loop's ragged end.
    if (count == BLOCK) locate(levels, locations, weights, nowhere, BLOCK);
    else locate(levels, locations, weights, nowhere, count);
  }

 private:
  __attribute__((always_inline)) void locate(
      const Levels& levels, const T* locations, const T* weights, int nowhere, int rounds) {
    const int* heights = levels.height.data() + first;
    const int* widths = levels.width.data() + first;
    const int* starts = levels.start.data() + first;
#pragma omp simd
    for (int p = 0; p < rounds; ++p) {
      const Place<T> place =
          ddetr::locate(locations[2 * p], locations[2 * p + 1], heights[p], widths[p], starts[p], nowhere);
      right[p] = place.right;
      bottom[p] = place.bottom;
      for (int c = 0; c < CORNERS; ++c) {
        token[c][p] = place.token[c];
        counts[c][p] = weights[p] * share(c, place.right, place.bottom);
      }
    }
  }
};

// Channels [channel, channel + WIDTH) of every head: N x Lq x M rows of output.
template <typename T, typename Stored, int WIDTH>
void forward(const Sizes& s, const Levels& levels, const Stored* value, const T* locations,
             const T* weights, Stored* output, std::ptrdiff_t channel, int threads) {
  constexpr int NOWHERE = -1;
  const Stored zeros[WIDTH] = {};  // what is read outside a level
  const int n_points = s.levels * s.points;
  const std::ptrdiff_t token_step = s.heads * s.channels;

#pragma omp parallel for num_threads(threads) schedule(dynamic, 16)
  for (std::ptrdiff_t nq = 0; nq < s.images * s.queries; ++nq) {
    const Stored* image = value + nq / s.queries * s.tokens * token_step + channel;
    for (std::ptrdiff_t m = 0; m < s.heads; ++m) {
      const std::ptrdiff_t row = nq * s.heads + m;
      const Stored* head = image + m * s.channels;
      auto upper = Row<T, WIDTH>::zeros(), lower = upper;  // two sums: neither waits for the other
      for (int first = 0; first < n_points; first += BLOCK) {
        Block<T> block(first, n_points);
        block.locate(levels, locations + (row * n_points + first) * 2,
                     weights + row * n_points + first, NOWHERE);
        for (int p = 0; p < block.count; ++p) {
          const auto read = [&](Corner c) {
            const int token = block.token[c][p];
            return Row<T, WIDTH>::load(token == NOWHERE ? zeros : head + token * token_step);
          };
          upper.add(block.counts[TOP_LEFT][p], read(TOP_LEFT));
          lower.add(block.counts[BOTTOM_LEFT][p], read(BOTTOM_LEFT));
          upper.add(block.counts[TOP_RIGHT][p], read(TOP_RIGHT));
          lower.add(block.counts[BOTTOM_RIGHT][p], read(BOTTOM_RIGHT));
        }
      }
      upper.add(lower);
      upper.store(output + row * s.channels + channel);
    }
  }
}

// One head of one image laid out densely, with one more row at the end that stands for everything
// outside a level: it reads as zero, and what is written there is forgotten.
template <typename T, int WIDTH>
struct Head {
  std::vector<T> value, grad;
  explicit Head(std::ptrdiff_t tokens) : value((tokens + 1) * WIDTH), grad((tokens + 1) * WIDTH) {}
};

// All that head m of image n has: its part of grad_value is written, and for each of its points
// the gradients of location and weight are added to what other channels have left there.
template <typename T, typename Stored, int WIDTH>
void backward_head(const Sizes& s, const Levels& levels, std::ptrdiff_t n, std::ptrdiff_t m,
                   const Stored* grad_output, const Stored* value, const T* locations,
                   const T* weights, Stored* grad_value, T* grad_locations, T* grad_weights,
                   std::ptrdiff_t channel, Head<T, WIDTH>& head) {
  using R = Row<T, WIDTH>;
  const int n_points = s.levels * s.points;
  const int nowhere = int(s.tokens);
  const auto at_token = [&](std::ptrdiff_t token) {
    return ((n * s.tokens + token) * s.heads + m) * s.channels + channel;
  };
  for (std::ptrdiff_t token = 0; token < s.tokens; ++token)
    R::load(value + at_token(token)).store(&head.value[token * WIDTH]);
  std::fill(head.grad.begin(), head.grad.end(), T(0));

  for (std::ptrdiff_t q = 0; q < s.queries; ++q) {
    const std::ptrdiff_t row = (n * s.queries + q) * s.heads + m;
    const R grad = R::load(grad_output + row * s.channels + channel);
    for (int first = 0; first < n_points; first += BLOCK) {
      const std::ptrdiff_t point = row * n_points + first;
      Block<T> block(first, n_points);
      block.locate(levels, locations + point * 2, weights + point, nowhere);

      typename R::Vector products[CORNERS][BLOCK] = {};
      for (int p = 0; p < block.count; ++p) {
        for (int c = 0; c < CORNERS; ++c) {
          const std::ptrdiff_t at = std::ptrdiff_t(block.token[c][p]) * WIDTH;
          products[c][p] = grad.products(R::load(&head.value[at]));
          R owed = R::load(&head.grad[at]);
          owed.add(block.counts[c][p], grad);
          owed.store(&head.grad[at]);
        }
      }
      T along[CORNERS][BLOCK];
      for (int c = 0; c < CORNERS; ++c)
        for (int p = 0; p < BLOCK; p += R::LANES) {
          const auto sum = sums<T, R::LANES>(&products[c][p]);
          std::memcpy(&along[c][p], &sum, sizeof sum);
        }
#pragma omp simd
      for (int p = 0; p < block.count; ++p) {
        const T dots[CORNERS] = {along[0][p], along[1][p], along[2][p], along[3][p]};
        const PointGradient<T> g =
            point_gradient(dots, block.right[p], block.bottom[p], weights[point + p],
                           levels.height[first + p], levels.width[first + p]);
        grad_weights[point + p] += g.weight;
        grad_locations[2 * (point + p)] += g.x;
        grad_locations[2 * (point + p) + 1] += g.y;
      }
    }
  }
  for (std::ptrdiff_t token = 0; token < s.tokens; ++token)
    R::load(&head.grad[token * WIDTH]).store(grad_value + at_token(token));
}

template <typename T, typename Stored, int WIDTH>
void backward(const Sizes& s, const Levels& levels, const Stored* grad_output, const Stored* value,
              const T* locations, const T* weights, Stored* grad_value, T* grad_locations,
              T* grad_weights, std::ptrdiff_t channel, int threads) {
  std::vector<Head<T, WIDTH>> scratch(threads, Head<T, WIDTH>(s.tokens));
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (std::ptrdiff_t nm = 0; nm < s.images * s.heads; ++nm)
    backward_head<T, Stored, WIDTH>(s, levels, nm / s.heads, nm % s.heads, grad_output, value,
                                    locations, weights, grad_value, grad_locations, grad_weights,
                                    channel, scratch[thread_number()]);
}

template <int WIDTH>
using Width = std::integral_constant<int, WIDTH>;

// Call work(WIDTH, channel) until all channels are done. Any D is a sum of the widths that are
// compiled: 48 = 32 + 16. What is left under 8 goes one channel at a time.
template <typename Work>
void in_pieces(std::ptrdiff_t channels, Work work) {
  std::ptrdiff_t channel = 0;
  const auto take = [&](auto width) {
    for (; channels - channel >= width; channel += width) work(width, channel);
  };
  take(Width<64>{});
  take(Width<32>{});
  take(Width<16>{});
  take(Width<8>{});
  take(Width<1>{});
}

// Call work(T{}, Stored{}) with the types of a number from `Type`.
enum Type { FLOAT, DOUBLE, HALF, BFLOAT16 };
template <typename Work>
void with_types(int type, Work work) {
  switch (type) {
    case FLOAT: return work(float{}, float{});
    case DOUBLE: return work(double{}, double{});
    case HALF: return work(float{}, Half{});
    case BFLOAT16: return work(float{}, BFloat16{});
  }
}

}  // namespace
}  // namespace ddetr

using namespace ddetr;

// sizes: N, S, M, D, Lq, L, P.  shapes: H and W of each level.  type: of value and output; locations
// and weights are double if it is DOUBLE, else float. All arrays are dense. Returns 0, or 1 if
// memory ran out.
extern "C" int ddetr_cpu_forward(
    const std::int64_t* sizes, const std::int64_t* shapes, int type, int threads,
    const void* value, const void* locations, const void* weights, void* output) try {
  const Sizes s(sizes);
  const Levels levels(s, shapes);
  with_types(type, [&](auto t, auto stored) {
    using T = decltype(t);
    using Stored = decltype(stored);
    in_pieces(s.channels, [&](auto width, std::ptrdiff_t channel) {
      forward<T, Stored, width>(
          s, levels, static_cast<const Stored*>(value), static_cast<const T*>(locations),
          static_cast<const T*>(weights), static_cast<Stored*>(output), channel, threads);
    });
  });
  return 0;
} catch (const std::exception&) {
  return 1;
}

// The gradients of location and weight must come filled with zeros; grad_value need not.
extern "C" int ddetr_cpu_backward(
    const std::int64_t* sizes, const std::int64_t* shapes, int type, int threads,
    const void* grad_output, const void* value, const void* locations, const void* weights,
    void* grad_value, void* grad_locations, void* grad_weights) try {
  const Sizes s(sizes);
  const Levels levels(s, shapes);
  with_types(type, [&](auto t, auto stored) {
    using T = decltype(t);
    using Stored = decltype(stored);
    in_pieces(s.channels, [&](auto width, std::ptrdiff_t channel) {
      backward<T, Stored, width>(
          s, levels, static_cast<const Stored*>(grad_output), static_cast<const Stored*>(value),
          static_cast<const T*>(locations), static_cast<const T*>(weights),
          static_cast<Stored*>(grad_value), static_cast<T*>(grad_locations),
          static_cast<T*>(grad_weights), channel, threads);
    });
  });
  return 0;
} catch (const std::exception&) {
  return 1;
}

// What this library was compiled for, in a few words.
extern "C" const char* ddetr_cpu_description() {
#ifdef _OPENMP
#define DDETR_THREADS "OpenMP"
#else
#define DDETR_THREADS "one thread"
#endif
#if defined(__AVX512F__)
  return "AVX-512, " DDETR_THREADS;
#elif defined(__AVX__)
  return "AVX, " DDETR_THREADS;
#elif defined(__ARM_NEON)
  return "NEON, " DDETR_THREADS;
#else
  return "128-bit vectors, " DDETR_THREADS;
#endif
}
