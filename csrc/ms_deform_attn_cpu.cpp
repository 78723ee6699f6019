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
// has the same bits whatever the number of threads: forward, a thread owns the output of a query;
// backward, it owns all that one head of one image has.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <type_traits>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "ms_deform_attn.h"
#include "row.h"

namespace ddetr {
namespace {

constexpr int BLOCK = 16;  // points located together: one AVX-512 register of floats
constexpr int CACHE_LINE = 64;
// One head's points of consecutive queries lie too far apart for the processor to foresee them, so
// they are asked for so many queries before their turn.
constexpr int QUERIES_AHEAD = 8;

int thread_number() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

// Memory that is about to be written for the first time comes from the system page by page, and for
// 40 MB of gradient that takes longer than the decoder's arithmetic. Ask for pages of 2 MB.
void in_large_pages(void* memory, std::size_t bytes) {
#ifdef __linux__
  const std::uintptr_t page = std::uintptr_t(2) << 20;
  const std::uintptr_t from = (std::uintptr_t(memory) + page - 1) / page * page;
  const std::uintptr_t to = (std::uintptr_t(memory) + bytes) / page * page;
  if (from < to) madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
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
  T right[BLOCK], lower[BLOCK];
  T counts[CORNERS][BLOCK];  // attention weight times bilinear share

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
      const Place<T> place = ddetr::locate(locations[2 * p], locations[2 * p + 1], heights[p],
                                           widths[p], starts[p], nowhere);
      token[TOP_LEFT][p] = place.top_left;
      token[TOP_RIGHT][p] = place.top_right;
      token[BOTTOM_LEFT][p] = place.bottom_left;
      token[BOTTOM_RIGHT][p] = place.bottom_right;
      right[p] = place.right;
      lower[p] = place.lower;
      const T left = T(1) - place.right, upper = T(1) - place.lower;
      counts[TOP_LEFT][p] = weights[p] * (upper * left);
      counts[TOP_RIGHT][p] = weights[p] * (upper * place.right);
      counts[BOTTOM_LEFT][p] = weights[p] * (place.lower * left);
      counts[BOTTOM_RIGHT][p] = weights[p] * (place.lower * place.right);
    }
  }
};

// WIDTH channels of one head of one image, where they lie: a token's at first + token * step.
// One token more than there are stands for everything outside the levels, and reads as zeros.
template <typename T, int WIDTH>
struct Head {
  const T* first;
  std::ptrdiff_t step;
  int nowhere;

  Row<T, WIDTH> read(int token) const {
    static constexpr T zeros[WIDTH] = {};
    return Row<T, WIDTH>::load(token == nowhere ? zeros : first + token * step);
  }
};

// The same, copied to where neighbouring pixels are neighbours in the cache, zeros and all.
template <typename T, int WIDTH>
struct CopiedHead {
  T* first;
  int nowhere;

  CopiedHead(const Head<T, WIDTH>& head, T* to) : first(to), nowhere(head.nowhere) {
    for (int token = 0; token <= nowhere; ++token)
      head.read(token).store(to + std::ptrdiff_t(token) * WIDTH);
  }
  Row<T, WIDTH> read(int token) const {
    return Row<T, WIDTH>::load(first + std::ptrdiff_t(token) * WIDTH);
  }
};

template <typename T, int WIDTH>
Head<T, WIDTH> head_of(const Sizes& s, const T* value, std::ptrdiff_t n, std::ptrdiff_t m,
                       std::ptrdiff_t channel) {
  const std::ptrdiff_t step = s.heads * s.channels;
  return {value + n * s.tokens * step + m * s.channels + channel, step, int(s.tokens)};
}

// What a thread needs besides: room for one copied head, and for the gradient of that head, where
// it can be summed undisturbed. The row behind the last token collects what falls outside.
template <typename T>
struct Scratch {
  std::unique_ptr<T[]> value, grad;
};

template <typename T>
std::vector<Scratch<T>> scratches(int threads, std::ptrdiff_t size, bool with_grad) {
  std::vector<Scratch<T>> all(threads);
  for (Scratch<T>& one : all) {
    one.value.reset(new T[size]);
    if (with_grad) one.grad.reset(new T[size]);
  }
  return all;
}

// Whether there are enough points to make up for copying a head first. Few are read in place.
bool copying_pays(const Sizes& s) { return s.queries * s.levels * s.points > s.tokens; }

// Ask the memory for memory[0 ... count) before it is needed. Beyond the end that does no harm.
template <typename T>
void fetch(const T* memory, int count) {
  for (int i = 0; i < count; i += CACHE_LINE / int(sizeof(T))) __builtin_prefetch(memory + i);
}

// WIDTH channels of the output of head m of image n, for some of the queries.
template <typename T, int WIDTH, typename AnyHead>
void forward_head(const Sizes& s, const Levels& levels, const AnyHead& head, std::ptrdiff_t n,
                  std::ptrdiff_t m, std::ptrdiff_t first_query, std::ptrdiff_t end_query,
                  const T* locations, const T* weights, T* output) {
  const int n_points = s.levels * s.points;
  for (std::ptrdiff_t q = first_query; q < end_query; ++q) {
    const std::ptrdiff_t row = (n * s.queries + q) * s.heads + m;
    const std::ptrdiff_t later = row + QUERIES_AHEAD * s.heads;
    fetch(locations + 2 * later * n_points, 2 * n_points);
    fetch(weights + later * n_points, n_points);
    auto upper = Row<T, WIDTH>::zeros(), lower = upper;  // two sums: neither waits for the other
    for (int first = 0; first < n_points; first += BLOCK) {
      const std::ptrdiff_t point = row * n_points + first;
      Block<T> block(first, n_points);
      block.locate(levels, locations + 2 * point, weights + point, head.nowhere);
      for (int p = 0; p < block.count; ++p) {
        upper.add(block.counts[TOP_LEFT][p], head.read(block.token[TOP_LEFT][p]));
        lower.add(block.counts[BOTTOM_LEFT][p], head.read(block.token[BOTTOM_LEFT][p]));
        upper.add(block.counts[TOP_RIGHT][p], head.read(block.token[TOP_RIGHT][p]));
        lower.add(block.counts[BOTTOM_RIGHT][p], head.read(block.token[BOTTOM_RIGHT][p]));
      }
    }
    upper.add(lower);
    upper.store(output + row * s.channels);
  }
}

template <typename T, int WIDTH>
void forward_piece(const Sizes& s, const Levels& levels, const T* value, const T* locations,
                   const T* weights, T* output, std::ptrdiff_t channel, int threads) {
  if (copying_pays(s)) {
    const auto scratch = scratches<T>(threads, (s.tokens + 1) * WIDTH, false);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (std::ptrdiff_t nm = 0; nm < s.images * s.heads; ++nm) {
      const std::ptrdiff_t n = nm / s.heads, m = nm % s.heads;
      const CopiedHead<T, WIDTH> head(head_of<T, WIDTH>(s, value, n, m, channel),
                                      scratch[thread_number()].value.get());
      forward_head<T, WIDTH>(s, levels, head, n, m, 0, s.queries, locations, weights,
                             output + channel);
    }
  } else {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 16)
    for (std::ptrdiff_t nq = 0; nq < s.images * s.queries; ++nq) {
      const std::ptrdiff_t n = nq / s.queries, q = nq % s.queries;
      for (std::ptrdiff_t m = 0; m < s.heads; ++m)
        forward_head<T, WIDTH>(s, levels, head_of<T, WIDTH>(s, value, n, m, channel), n, m, q,
                               q + 1, locations, weights, output + channel);
    }
  }
}

// For each point of head m of image n: its gradient is added to the rows it read, which
// grad_row(token) finds, and the gradients of its location and weight to what an earlier piece of D
// has left there.
template <typename T, int WIDTH, typename AnyHead, typename GradRow>
void backward_head(const Sizes& s, const Levels& levels, const AnyHead& head, std::ptrdiff_t n,
                   std::ptrdiff_t m, const T* grad_output, const T* locations, const T* weights,
                   GradRow grad_row, T* grad_locations, T* grad_weights, bool first_piece) {
  using R = Row<T, WIDTH>;
  const int n_points = s.levels * s.points;

  for (std::ptrdiff_t q = 0; q < s.queries; ++q) {
    const std::ptrdiff_t row = (n * s.queries + q) * s.heads + m;
    const std::ptrdiff_t later = row + QUERIES_AHEAD * s.heads;
    fetch(locations + 2 * later * n_points, 2 * n_points);
    fetch(weights + later * n_points, n_points);
    fetch(grad_locations + 2 * later * n_points, 2 * n_points);
    fetch(grad_weights + later * n_points, n_points);
    fetch(grad_output + later * s.channels, WIDTH);
    const R grad = R::load(grad_output + row * s.channels);
    for (int first = 0; first < n_points; first += BLOCK) {
      const std::ptrdiff_t point = row * n_points + first;
      Block<T> block(first, n_points);
      block.locate(levels, locations + 2 * point, weights + point, head.nowhere);

      typename R::Part products[CORNERS][BLOCK];
      if (block.count < BLOCK) std::memset(products, 0, sizeof products);
      for (int p = 0; p < block.count; ++p) {
        for (int c = 0; c < CORNERS; ++c) {
          products[c][p] = grad.products(head.read(block.token[c][p]));
          T* owed_to = grad_row(block.token[c][p]);
          R owed = R::load(owed_to);
          owed.add(block.counts[c][p], grad);
          owed.store(owed_to);
        }
      }
      T along[CORNERS][BLOCK];
      for (int c = 0; c < CORNERS; ++c)
        for (int p = 0; p < BLOCK; p += R::LANES) {
          const auto sum = sums<T, R::LANES>(&products[c][p]);
          std::memcpy(&along[c][p], &sum, sizeof sum);
        }
      if (first_piece) {
        std::fill_n(grad_weights + point, block.count, T(0));
        std::fill_n(grad_locations + 2 * point, 2 * block.count, T(0));
      }
#pragma omp simd
      for (int p = 0; p < block.count; ++p) {
        const PointGradient<T> g = point_gradient(
            along[TOP_LEFT][p], along[TOP_RIGHT][p], along[BOTTOM_LEFT][p], along[BOTTOM_RIGHT][p],
            block.right[p], block.lower[p], weights[point + p], levels.height[first + p],
            levels.width[first + p]);
        grad_weights[point + p] += g.weight;
        grad_locations[2 * (point + p)] += g.x;
        grad_locations[2 * (point + p) + 1] += g.y;
      }
    }
  }
}

template <typename T, int WIDTH>
void backward_piece(const Sizes& s, const Levels& levels, const T* grad_output, const T* value,
                    const T* locations, const T* weights, T* grad_value, T* grad_locations,
                    T* grad_weights, std::ptrdiff_t channel, int threads) {
  const auto scratch =
      scratches<T>(copying_pays(s) ? threads : 0, (s.tokens + 1) * WIDTH, true);
  if (!copying_pays(s) && channel == 0) {  // row by row: a head's rows alone lie too far apart
    const std::ptrdiff_t step = s.heads * s.channels;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (std::ptrdiff_t token = 0; token < s.images * s.tokens; ++token)
      std::fill_n(grad_value + token * step, step, T(0));
  }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (std::ptrdiff_t nm = 0; nm < s.images * s.heads; ++nm) {
    const std::ptrdiff_t n = nm / s.heads, m = nm % s.heads, step = s.heads * s.channels;
    const auto head = head_of<T, WIDTH>(s, value, n, m, channel);
    T* const there = grad_value + n * s.tokens * step + m * s.channels + channel;
    const auto run = [&](const auto& any_head, const auto& grad_row) {
      backward_head<T, WIDTH>(s, levels, any_head, n, m, grad_output + channel, locations, weights,
                              grad_row, grad_locations, grad_weights, channel == 0);
    };
    if (copying_pays(s)) {
      const Scratch<T>& own = scratch[thread_number()];
      T* const grad = own.grad.get();
      std::fill_n(grad, (s.tokens + 1) * WIDTH, T(0));
      run(CopiedHead<T, WIDTH>(head, own.value.get()),
          [=](int token) { return grad + std::ptrdiff_t(token) * WIDTH; });
      for (std::ptrdiff_t token = 0; token < s.tokens; ++token)
        Row<T, WIDTH>::load(grad + token * WIDTH).store(there + token * step);
    } else {
      T forgotten[WIDTH] = {};  // what falls outside every level
      run(head, [&](int token) { return token == head.nowhere ? forgotten : there + token * step; });
    }
  }
}

template <int WIDTH>
using Width = std::integral_constant<int, WIDTH>;

// Call work(WIDTH, channel) until all channels are done. Any D is a sum of the widths that are
// compiled: 48 = 32 + 16. What is left under 8 goes one channel at a time. Doubles are for checking,
// where nobody is in a hurry: the wide ones would only take longer to compile.
template <typename T, typename Work>
void in_pieces(std::ptrdiff_t channels, Work work) {
  std::ptrdiff_t channel = 0;
  const auto take = [&](auto width) {
    for (; channels - channel >= width; channel += width) work(width, channel);
  };
  if constexpr (std::is_same_v<T, float>) {
    take(Width<64>{});
    take(Width<32>{});
    take(Width<16>{});
  }
  take(Width<8>{});
  take(Width<1>{});
}

template <typename T>
int forward(const std::int64_t* sizes, const std::int64_t* shapes, int threads, const T* value,
            const T* locations, const T* weights, T* output) try {
  const Sizes s(sizes);
  const Levels levels(s, shapes);
  in_large_pages(output, s.images * s.queries * s.heads * s.channels * sizeof(T));
  in_pieces<T>(s.channels, [&](auto width, std::ptrdiff_t channel) {
    forward_piece<T, width>(s, levels, value, locations, weights, output, channel, threads);
  });
  return 0;
} catch (const std::exception&) {
  return 1;
}

template <typename T>
int backward(const std::int64_t* sizes, const std::int64_t* shapes, int threads,
             const T* grad_output, const T* value, const T* locations, const T* weights,
             T* grad_value, T* grad_locations, T* grad_weights) try {
  const Sizes s(sizes);
  const Levels levels(s, shapes);
  const std::ptrdiff_t n_points = s.images * s.queries * s.heads * s.levels * s.points;
  in_large_pages(grad_value, s.images * s.tokens * s.heads * s.channels * sizeof(T));
  in_large_pages(grad_locations, 2 * n_points * sizeof(T));
  in_large_pages(grad_weights, n_points * sizeof(T));
  in_pieces<T>(s.channels, [&](auto width, std::ptrdiff_t channel) {
    backward_piece<T, width>(s, levels, grad_output, value, locations, weights, grad_value,
                             grad_locations, grad_weights, channel, threads);
  });
  return 0;
} catch (const std::exception&) {
  return 1;
}

}  // namespace
}  // namespace ddetr

// The entry points. Every array is dense; sizes are N, S, M, D, Lq, L, P, and shapes H and W of
// each level. What the results hold before does not matter. Returns 0, or 1 if memory ran out.
extern "C" int ddetr_cpu_forward_float32(
    const std::int64_t* sizes, const std::int64_t* shapes, int threads, const float* value,
    const float* locations, const float* weights, float* output) {
  return ddetr::forward(sizes, shapes, threads, value, locations, weights, output);
}

extern "C" int ddetr_cpu_forward_float64(
    const std::int64_t* sizes, const std::int64_t* shapes, int threads, const double* value,
    const double* locations, const double* weights, double* output) {
  return ddetr::forward(sizes, shapes, threads, value, locations, weights, output);
}

extern "C" int ddetr_cpu_backward_float32(
    const std::int64_t* sizes, const std::int64_t* shapes, int threads, const float* grad_output,
    const float* value, const float* locations, const float* weights, float* grad_value,
    float* grad_locations, float* grad_weights) {
  return ddetr::backward(sizes, shapes, threads, grad_output, value, locations, weights,
                         grad_value, grad_locations, grad_weights);
}

extern "C" int ddetr_cpu_backward_float64(
    const std::int64_t* sizes, const std::int64_t* shapes, int threads, const double* grad_output,
    const double* value, const double* locations, const double* weights, double* grad_value,
    double* grad_locations, double* grad_weights) {
  return ddetr::backward(sizes, shapes, threads, grad_output, value, locations, weights,
                         grad_value, grad_locations, grad_weights);
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
