// Run the CUDA kernel on the CPU with sanitizers at locations that no model should ask for. Every
// array has exactly its size, so that a step beyond it is noticed; so is a read of 16 bytes from an
// address that is not a multiple of 16. Prints how many cases ran.
#include "host_cuda.h"

#include "ms_deform_attn.cu"

#include <cstdio>
#include <limits>

using ddetr::Arguments, ddetr::BFloat16, ddetr::Half;

template <typename T>
std::vector<T> numbers(std::size_t count, float number) {
  T one;
  ddetr::narrow(number, one);
  return std::vector<T>(count, one);
}

template <typename T, int VECTOR, int LANES>
void run_case(std::mt19937& random, std::vector<int> shapes, int channels, int points, int queries) {
  using S = typename ddetr::Sum<T>::type;
  const S nan = std::numeric_limits<S>::quiet_NaN(), inf = std::numeric_limits<S>::infinity();
  const std::vector<S> hostile = {nan, inf, -inf, S(1e30), S(-1e30), S(-1), S(0), S(0.5), S(1),
                                  S(2), S(-0.5), S(1.5), std::numeric_limits<S>::max(),
                                  std::numeric_limits<S>::denorm_min()};
  std::uniform_real_distribution<S> anywhere(S(-0.5), S(1.5));
  const int images = 2, heads = 3, levels = int(shapes.size()) / 2, group = 16;
  Arguments a = {};
  for (int l = 0; l < levels; ++l) {
    a.height[l] = shapes[2 * l];
    a.width[l] = shapes[2 * l + 1];
    a.start[l] = int(a.tokens);
    a.tokens += a.height[l] * a.width[l];
    a.tiles += (a.height[l] + 1) / 2 * ((a.width[l] + 7) / 8);
  }
  a.queries_are_tokens = queries < 0;
  if (queries < 0) queries = int(a.tokens);
  else a.tiles = (queries + group - 1) / group;
  a.queries = queries, a.heads = heads, a.channels = channels, a.levels = levels, a.points = points;

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
  }
  a.value = value.data(), a.locations = locations.data(), a.weights = weights.data();
  a.grad_output = grad_output.data(), a.output = output.data(), a.grad_value = grad_value.data();
  a.grad_locations = grad_locations.data(), a.grad_weights = grad_weights.data();

  const int blocks = a.tiles * heads * images, threads = group * LANES;
  // The gradient of value has 32 bits or more: 16 bytes of it are 4 channels at most.
  constexpr int BACKWARD = VECTOR < 4 ? VECTOR : 4;
  host_cuda::run(blocks, threads, random(), [&] { ddetr::forward<T, VECTOR, LANES>(a); });
  host_cuda::run(blocks, threads, random(), [&] { ddetr::backward<T, BACKWARD, LANES>(a); });
}

int main() {
  std::mt19937 random(0);
  int cases = 0;
  const std::vector<std::vector<int>> pyramids = {{1, 7}, {5, 3, 2, 7, 1, 1}};
  for (const auto& shapes : pyramids)
    for (int points : {1, 3})
      for (int queries : {0, 5, -1}) {
        run_case<float, 4, 8>(random, shapes, 36, points, queries);
        cases += 1;
#ifndef FLOAT_ONLY
        run_case<double, 2, 4>(random, shapes, 10, points, queries);
        run_case<Half, 8, 4>(random, shapes, 24, points, queries);
        run_case<BFloat16, 1, 4>(random, shapes, 3, points, queries);
        cases += 3;
#endif
      }
  std::printf("%d cases\n", cases);
}
