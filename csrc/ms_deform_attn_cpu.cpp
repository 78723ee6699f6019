// Multi-scale deformable attention on the CPU, forward and backward.
//
// The layout decides the speed: value is (N, S, M, D), so the D channels of one head at one token
// lie side by side and a corner of a sampling point is read with one or two vector loads.
//
// Both directions do the same two things for every query and head. First the sampling positions of
// up to BLOCK points are computed together, one point per lane. Then each point in turn reads its
// four rows, with the channels in the lanes.
//
// Threads share only data that they read, so there are no atomics, and the result has the same bits
// for any number of threads. In the forward pass a thread owns the outputs of a query, or, where a
// head is packed first, those of one head of one image; in the backward pass it owns everything of
// one head of one image.
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

constexpr int BLOCK = 16;  // points that are located together: one AVX-512 register of floats
constexpr int CACHE_LINE = 64;
// The points of one head in consecutive queries lie too far apart for the processor's own
// prefetcher, so they are prefetched this many queries ahead.
constexpr int QUERIES_AHEAD = 8;

int thread_number() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

// The system provides new memory page by page when it is first written, and for 40 MB of gradient
// that takes longer than the decoder's arithmetic. Ask for pages of 2 MB.
void advise_huge_pages(void* memory, std::size_t bytes) {
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

// The arguments of `locate` that depend on the level only, repeated for every point of a head.
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

// Up to BLOCK points of one query and head, as a struct of arrays, so that points fill the lanes.
template <typename T>
struct Block {
  int first, count;  // of the L * P points
  int token[NUM_CORNERS][BLOCK];
  T fraction_x[BLOCK], fraction_y[BLOCK];
  T coef[NUM_CORNERS][BLOCK];  // attention weight times bilinear weight

  Block(int first, int n_points) : first(first), count(std::min(BLOCK, n_points - first)) {}

  void locate(const Levels& levels, const T* locations, const T* weights, int outside_token) {
    // With a constant number of rounds the compiler needs no loop for the remainder.
    if (count == BLOCK) locate(levels, locations, weights, outside_token, BLOCK);
    else locate(levels, locations, weights, outside_token, count);
  }

 private:
  __attribute__((always_inline)) void locate(
      const Levels& levels, const T* locations, const T* weights, int outside_token, int rounds) {
    const int* heights = levels.height.data() + first;
    const int* widths = levels.width.data() + first;
    const int* starts = levels.start.data() + first;
#pragma omp simd
    for (int p = 0; p < rounds; ++p) {
      const SamplingPosition<T> position =
          ddetr::locate(locations[2 * p], locations[2 * p + 1], heights[p], widths[p], starts[p],
                        outside_token);
      token[TOP_LEFT][p] = position.top_left;
      token[TOP_RIGHT][p] = position.top_right;
      token[BOTTOM_LEFT][p] = position.bottom_left;
      token[BOTTOM_RIGHT][p] = position.bottom_right;
      fraction_x[p] = position.fraction_x;
      fraction_y[p] = position.fraction_y;
      const T weight_right = position.fraction_x, weight_left = T(1) - weight_right;
      const T weight_bottom = position.fraction_y, weight_top = T(1) - weight_bottom;
      coef[TOP_LEFT][p] = weights[p] * (weight_top * weight_left);
      coef[TOP_RIGHT][p] = weights[p] * (weight_top * weight_right);
      coef[BOTTOM_LEFT][p] = weights[p] * (weight_bottom * weight_left);
      coef[BOTTOM_RIGHT][p] = weights[p] * (weight_bottom * weight_right);
    }
  }
};

// WIDTH channels of one head of one image, read in place: those of a token lie at
// first + token * step. `outside_token`, which is one past the last token, stands for everything
// outside the levels and reads as zeros.
template <typename T, int WIDTH>
struct Head {
  const T* first;
  std::ptrdiff_t step;
  int outside_token;

  Row<T, WIDTH> read(int token) const {
    static constexpr T zeros[WIDTH] = {};
    return Row<T, WIDTH>::load(token == outside_token ? zeros : first + token * step);
  }
};

// The same, copied without gaps, so that neighbouring pixels are neighbours in the cache. The copy
// includes the row of zeros.
template <typename T, int WIDTH>
struct PackedHead {
  T* first;
  int outside_token;

  PackedHead(const Head<T, WIDTH>& head, T* to) : first(to), outside_token(head.outside_token) {
    for (int token = 0; token <= outside_token; ++token)
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

// The private memory of a thread: room for one packed head, and for the gradient of that head,
// where no other thread adds. The row after the last token collects what falls outside the levels.
template <typename T>
struct Scratch {
  std::unique_ptr<T[]> value, grad;
};

template <typename T>
std::vector<Scratch<T>> make_scratch(int threads, std::ptrdiff_t size, bool with_grad) {
  std::vector<Scratch<T>> all(threads);
  for (Scratch<T>& one : all) {
    one.value.reset(new T[size]);
    if (with_grad) one.grad.reset(new T[size]);
  }
  return all;
}

// Whether there are enough points to make packing a head worth it; few points are read in place.
bool should_pack_head(const Sizes& s) { return s.queries * s.levels * s.points > s.tokens; }

// Prefetch memory[0 ... count). Beyond the end of an array this does no harm.
template <typename T>
void prefetch(const T* memory, int count) {
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
    prefetch(locations + 2 * later * n_points, 2 * n_points);
    prefetch(weights + later * n_points, n_points);
    // Two sums, so that neither has to wait for the other.
    auto top_sum = Row<T, WIDTH>::zeros(), bottom_sum = top_sum;
    for (int first = 0; first < n_points; first += BLOCK) {
      const std::ptrdiff_t point = row * n_points + first;
      Block<T> block(first, n_points);
      block.locate(levels, locations + 2 * point, weights + point, head.outside_token);
      for (int p = 0; p < block.count; ++p) {
        top_sum.add(block.coef[TOP_LEFT][p], head.read(block.token[TOP_LEFT][p]));
        bottom_sum.add(block.coef[BOTTOM_LEFT][p], head.read(block.token[BOTTOM_LEFT][p]));
        top_sum.add(block.coef[TOP_RIGHT][p], head.read(block.token[TOP_RIGHT][p]));
        bottom_sum.add(block.coef[BOTTOM_RIGHT][p], head.read(block.token[BOTTOM_RIGHT][p]));
      }
    }
    top_sum.add(bottom_sum);
    top_sum.store(output + row * s.channels);
  }
}

template <typename T, int WIDTH>
void forward_chunk(const Sizes& s, const Levels& levels, const T* value, const T* locations,
                   const T* weights, T* output, std::ptrdiff_t channel, int threads) {
  if (should_pack_head(s)) {
    const auto scratch = make_scratch<T>(threads, (s.tokens + 1) * WIDTH, false);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (std::ptrdiff_t nm = 0; nm < s.images * s.heads; ++nm) {
      const std::ptrdiff_t n = nm / s.heads, m = nm % s.heads;
      const PackedHead<T, WIDTH> head(head_of<T, WIDTH>(s, value, n, m, channel),
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

// For each point of head m of image n, add the gradient of value to the rows that the point read,
// where grad_row(token) is the address of a row, and add the gradients of the point's location and
// weight to those of the earlier chunks of the D channels.
template <typename T, int WIDTH, typename AnyHead, typename GradRow>
void backward_head(const Sizes& s, const Levels& levels, const AnyHead& head, std::ptrdiff_t n,
                   std::ptrdiff_t m, const T* grad_output, const T* locations, const T* weights,
                   GradRow grad_row, T* grad_locations, T* grad_weights, bool first_chunk) {
  using R = Row<T, WIDTH>;
  const int n_points = s.levels * s.points;

  for (std::ptrdiff_t q = 0; q < s.queries; ++q) {
    const std::ptrdiff_t row = (n * s.queries + q) * s.heads + m;
    const std::ptrdiff_t later = row + QUERIES_AHEAD * s.heads;
    prefetch(locations + 2 * later * n_points, 2 * n_points);
    prefetch(weights + later * n_points, n_points);
    prefetch(grad_locations + 2 * later * n_points, 2 * n_points);
    prefetch(grad_weights + later * n_points, n_points);
    prefetch(grad_output + later * s.channels, WIDTH);
    const R grad = R::load(grad_output + row * s.channels);
    for (int first = 0; first < n_points; first += BLOCK) {
      const std::ptrdiff_t point = row * n_points + first;
      Block<T> block(first, n_points);
      block.locate(levels, locations + 2 * point, weights + point, head.outside_token);

      typename R::Part products[NUM_CORNERS][BLOCK];
      if (block.count < BLOCK) std::memset(products, 0, sizeof products);
      for (int p = 0; p < block.count; ++p) {
        for (int c = 0; c < NUM_CORNERS; ++c) {
          products[c][p] = grad.products(head.read(block.token[c][p]));
          T* const address = grad_row(block.token[c][p]);
          R grad_value_row = R::load(address);
          grad_value_row.add(block.coef[c][p], grad);
          grad_value_row.store(address);
        }
      }
      T grad_dot_value[NUM_CORNERS][BLOCK];
      for (int c = 0; c < NUM_CORNERS; ++c)
        for (int p = 0; p < BLOCK; p += R::LANES) {
          const auto sum = sums<T, R::LANES>(&products[c][p]);
          std::memcpy(&grad_dot_value[c][p], &sum, sizeof sum);
        }
      if (first_chunk) {
        std::fill_n(grad_weights + point, block.count, T(0));
        std::fill_n(grad_locations + 2 * point, 2 * block.count, T(0));
      }
#pragma omp simd
      for (int p = 0; p < block.count; ++p) {
        const PointGradient<T> g = point_gradient(
            grad_dot_value[TOP_LEFT][p], grad_dot_value[TOP_RIGHT][p],
            grad_dot_value[BOTTOM_LEFT][p], grad_dot_value[BOTTOM_RIGHT][p], block.fraction_x[p],
            block.fraction_y[p], weights[point + p], levels.height[first + p],
            levels.width[first + p]);
        grad_weights[point + p] += g.weight;
        grad_locations[2 * (point + p)] += g.x;
        grad_locations[2 * (point + p) + 1] += g.y;
      }
    }
  }
}

template <typename T, int WIDTH>
void backward_chunk(const Sizes& s, const Levels& levels, const T* grad_output, const T* value,
                    const T* locations, const T* weights, T* grad_value, T* grad_locations,
                    T* grad_weights, std::ptrdiff_t channel, int threads) {
  const auto scratch =
      make_scratch<T>(should_pack_head(s) ? threads : 0, (s.tokens + 1) * WIDTH, true);
  if (!should_pack_head(s) && channel == 0) {  // whole rows: those of one head lie too far apart
    const std::ptrdiff_t step = s.heads * s.channels;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (std::ptrdiff_t token = 0; token < s.images * s.tokens; ++token)
      std::fill_n(grad_value + token * step, step, T(0));
  }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (std::ptrdiff_t nm = 0; nm < s.images * s.heads; ++nm) {
    const std::ptrdiff_t n = nm / s.heads, m = nm % s.heads, step = s.heads * s.channels;
    const auto head = head_of<T, WIDTH>(s, value, n, m, channel);
    T* const grad_in_place = grad_value + n * s.tokens * step + m * s.channels + channel;
    const auto run = [&](const auto& any_head, const auto& grad_row) {
      backward_head<T, WIDTH>(s, levels, any_head, n, m, grad_output + channel, locations, weights,
                              grad_row, grad_locations, grad_weights, channel == 0);
    };
    if (should_pack_head(s)) {
      const Scratch<T>& own = scratch[thread_number()];
      T* const grad = own.grad.get();
      std::fill_n(grad, (s.tokens + 1) * WIDTH, T(0));
      run(PackedHead<T, WIDTH>(head, own.value.get()),
          [=](int token) { return grad + std::ptrdiff_t(token) * WIDTH; });
      for (std::ptrdiff_t token = 0; token < s.tokens; ++token)
        Row<T, WIDTH>::load(grad + token * WIDTH).store(grad_in_place + token * step);
    } else {
      T discarded[WIDTH] = {};  // collects what falls outside the levels
      run(head, [&](int token) {
        return token == head.outside_token ? discarded : grad_in_place + token * step;
      });
    }
  }
}

template <int WIDTH>
using Width = std::integral_constant<int, WIDTH>;

// Call work(WIDTH, channel) until all channels are done. Any D is a sum of the widths that are
// compiled, such as 48 = 32 + 16; a remainder below 8 goes one channel at a time. float64 is meant
// for gradcheck, where speed does not matter: its wide versions would only add compile time.
template <typename T, typename Work>
void for_each_channel_chunk(std::ptrdiff_t channels, Work work) {
  std::ptrdiff_t channel = 0;
  const auto process_width = [&](auto width) {
    for (; channels - channel >= width; channel += width) work(width, channel);
  };
  if constexpr (std::is_same_v<T, float>) {
    process_width(Width<64>{});
    process_width(Width<32>{});
    process_width(Width<16>{});
  }
  process_width(Width<8>{});
  process_width(Width<1>{});
}

template <typename T>
int forward(const std::int64_t* sizes, const std::int64_t* shapes, int threads, const T* value,
            const T* locations, const T* weights, T* output) try {
  const Sizes s(sizes);
  const Levels levels(s, shapes);
  advise_huge_pages(output, s.images * s.queries * s.heads * s.channels * sizeof(T));
  for_each_channel_chunk<T>(s.channels, [&](auto width, std::ptrdiff_t channel) {
    forward_chunk<T, width>(s, levels, value, locations, weights, output, channel, threads);
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
  advise_huge_pages(grad_value, s.images * s.tokens * s.heads * s.channels * sizeof(T));
  advise_huge_pages(grad_locations, 2 * n_points * sizeof(T));
  advise_huge_pages(grad_weights, n_points * sizeof(T));
  for_each_channel_chunk<T>(s.channels, [&](auto width, std::ptrdiff_t channel) {
    backward_chunk<T, width>(s, levels, grad_output, value, locations, weights, grad_value,
                             grad_locations, grad_weights, channel, threads);
  });
  return 0;
} catch (const std::exception&) {
  return 1;
}

}  // namespace
}  // namespace ddetr

// The entry points. Every array is dense; sizes holds N, S, M, D, Lq, L, P, and shapes the H and W
// of each level. The results need not be initialised. Returns 0, or 1 if memory ran out.
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

// The vector instructions and threads that this library was compiled for.
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
