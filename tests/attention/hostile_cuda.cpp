// Run the CUDA kernel on the CPU with sanitizers at locations that no model should ask for. Every
// array has exactly its size, so that a step beyond it is noticed; so is a read of 16 bytes from an
// address that is not a multiple of 16. Prints how many cases ran.
#include "host_cuda.h"

#include "ms_deform_attn.cu"

#include <cstdio>
#include <limits>

using ddetr::Arguments, ddetr::BFloat16, ddetr::Half;

constexpr int DECODER_QUERIES = 5, ENCODER = -1;
int cases = 0;

template <typename T>
std::vector<T> numbers(std::size_t count, float number) {
  T one;
  ddetr::narrow(number, one);
  return std::vector<T>(count, one);
}

// The forward pass reads VECTOR numbers at once, LANES lanes to a row, and takes HEADS heads to a
// block. The gradient of value has 32 bits or more, so the backward pass takes 4 channels at most.
template <typename T, int VECTOR, int LANES, int QUERIES, int HEADS, int ENTRIES>
void run_case(std::mt19937& random, std::vector<int> shapes, int points, int queries,
              bool all_inside = false) {
  using S = typename ddetr::Sum<T>::type;
  const S nan = std::numeric_limits<S>::quiet_NaN(), inf = std::numeric_limits<S>::infinity();
  const std::vector<S> hostile = {nan, inf, -inf, S(1e30), S(-1e30), S(-1), S(0), S(0.5), S(1),
                                  S(2), S(-0.5), S(1.5), std::numeric_limits<S>::max(),
                                  std::numeric_limits<S>::denorm_min()};
  std::uniform_real_distribution<S> anywhere(S(-0.5), S(1.5));
  const int images = 2, heads = 2 * HEADS, levels = int(shapes.size()) / 2;
  const int channels = 2 * LANES * VECTOR;  // two rounds
  Arguments a = {};
  unsigned tiles = 0;
  for (int l = 0; l < levels; ++l) {
    a.height[l] = shapes[2 * l];
    a.width[l] = shapes[2 * l + 1];
    a.start[l] = int(a.tokens);
    a.tokens += a.height[l] * a.width[l];
    const int tile_height = QUERIES / ddetr::TILE_WIDTH;
    tiles += (a.height[l] + tile_height - 1) / tile_height *
             ((a.width[l] + ddetr::TILE_WIDTH - 1) / ddetr::TILE_WIDTH);
  }
  a.queries_are_tokens = queries == ENCODER;
  if (queries == ENCODER) queries = int(a.tokens);
  else tiles = (queries + QUERIES - 1) / QUERIES;
  a.queries = queries, a.heads = heads, a.channels = channels, a.levels = levels, a.points = points;
  a.inverse_points = ((1u << 31) + points - 1) / points;

  const std::size_t n_points = std::size_t(images) * queries * heads * levels * points;
  const std::size_t n_values = images * a.tokens * heads * channels;
  const std::size_t n_outputs = std::size_t(images) * queries * heads * channels;
  auto value = numbers<T>(n_values, 1), grad_output = numbers<T>(n_outputs, 1);
  std::vector<T> output(n_outputs);
  std::vector<S> locations(2 * n_points), weights(n_points, S(0.25)), grad_value(n_values);
  std::vector<S> grad_locations(locations.size()), grad_weights(weights.size());
  for (S& x : locations) {
    x = anywhere(random);
    if (random() % 3 == 0) x = hostile[random() % hostile.size()];
    if (random() % 5 == 0) x = (S(random() % 9) - S(1) + S(0.5)) / S(shapes[0]);  // on a centre
    if (all_inside) x = S(0.5);
  }
  a.value = value.data(), a.locations = locations.data(), a.weights = weights.data();
  a.grad_output = grad_output.data(), a.output = output.data(), a.grad_value = grad_value.data();
  a.grad_locations = grad_locations.data(), a.grad_weights = grad_weights.data();

  host_cuda::run({tiles, unsigned(heads / HEADS), images}, LANES * QUERIES * HEADS, random(), [&] {
    ddetr::forward<T, VECTOR, LANES, QUERIES, HEADS, ENTRIES>(a);
  });
  constexpr int BACKWARD = VECTOR < 4 ? VECTOR : 4;
  host_cuda::run({tiles, unsigned(heads), images}, LANES * QUERIES, random(), [&] {
    ddetr::backward<T, BACKWARD, LANES, QUERIES, 1, ENTRIES>(a);
  });
  cases += 1;
}

int main() {
  std::mt19937 random(0);
  const std::vector<std::vector<int>> pyramids = {{1, 7}, {5, 3, 2, 7, 1, 1}};
  for (const auto& shapes : pyramids)
    for (int points : {1, 3, 4}) {
      for (int queries : {0, DECODER_QUERIES}) {
        run_case<float, 4, 8, 8, 1, 4>(random, shapes, points, queries);
#ifndef FLOAT_ONLY
        run_case<double, 2, 8, 8, 1, 4>(random, shapes, points, queries);
        run_case<Half, 8, 4, 8, 2, 4>(random, shapes, points, queries);
        run_case<BFloat16, 1, 1, 32, 1, 4>(random, shapes, points, queries);
#endif
      }
      run_case<float, 4, 8, 32, 1, 2>(random, shapes, points, ENCODER);
#ifndef FLOAT_ONLY
      run_case<double, 2, 8, 32, 1, 2>(random, shapes, points, ENCODER);
      run_case<Half, 8, 4, 32, 2, 4>(random, shapes, points, ENCODER);
      run_case<BFloat16, 1, 1, 32, 1, 4>(random, shapes, points, ENCODER);
#endif
    }
  // All corners exist, of as many points as a block takes: its list is full.
  run_case<float, 4, 8, 32, 1, 2>(random, {8, 8}, 8, ENCODER, true);
#ifndef FLOAT_ONLY
  run_case<double, 2, 8, 32, 1, 2>(random, {8, 8}, 8, ENCODER, true);
  run_case<Half, 8, 4, 32, 2, 4>(random, {8, 8}, 8, ENCODER, true);
  run_case<BFloat16, 1, 1, 32, 1, 4>(random, {8, 8}, 8, ENCODER, true);
#endif
  std::printf("%d cases\n", cases);
}
