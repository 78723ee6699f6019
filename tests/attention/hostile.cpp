// Run the kernel with sanitizers at locations that no model should ask for. Every array has exactly
// its size, so that a step beyond it is noticed. Prints how many cases ran.
#include <cstdint>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "ms_deform_attn_cpu.cpp"

template <typename T>
void run_case(std::mt19937& random, std::vector<std::int64_t> shapes, int channels, int points,
              int queries, int threads) {
  const T nan = std::numeric_limits<T>::quiet_NaN(), inf = std::numeric_limits<T>::infinity();
  const std::vector<T> hostile = {nan, inf, -inf, T(1e30), T(-1e30), T(-1), T(0), T(0.5), T(1),
                                  T(2), T(-0.5), T(1.5), std::numeric_limits<T>::max(),
                                  std::numeric_limits<T>::denorm_min()};
  std::uniform_real_distribution<T> anywhere(T(-0.5), T(1.5));
  const std::int64_t images = 2, heads = 3, levels = std::int64_t(shapes.size()) / 2;
  std::int64_t tokens = 0;
  for (std::int64_t l = 0; l < levels; ++l) tokens += shapes[2 * l] * shapes[2 * l + 1];
  const std::vector<std::int64_t> sizes = {images, tokens, heads, channels, queries, levels, points};

  const std::int64_t n_points = images * queries * heads * levels * points;
  std::vector<T> value(images * tokens * heads * channels, T(1)), weights(n_points, T(0.25));
  std::vector<T> output(images * queries * heads * channels), grad_output(output.size(), T(1));
  std::vector<T> locations(2 * n_points), grad_value(value.size());
  std::vector<T> grad_locations(locations.size()), grad_weights(weights.size());
  for (T& x : locations) {
    x = anywhere(random);
    if (random() % 3 == 0) x = hostile[random() % hostile.size()];
    if (random() % 5 == 0) x = (T(random() % 9) - T(1) + T(0.5)) / T(shapes[0]);  // on a centre
  }
  ddetr::forward<T>(sizes.data(), shapes.data(), threads, value.data(), locations.data(),
                    weights.data(), output.data());
  ddetr::backward<T>(sizes.data(), shapes.data(), threads, grad_output.data(), value.data(),
                     locations.data(), weights.data(), grad_value.data(), grad_locations.data(),
                     grad_weights.data());
}

int main() {
  std::mt19937 random(0);
  int cases = 0;
  const std::vector<std::vector<std::int64_t>> pyramids = {
      {1, 1}, {1, 7}, {5, 1}, {5, 3, 2, 7, 1, 1}, {8, 4, 4, 2, 2, 1, 1, 1}};
  for (const auto& shapes : pyramids)
    for (int channels : {1, 7, 8, 16, 32, 64, 107})
      for (int points : {1, 4, 11})
        for (int queries : {0, 5}) {
          run_case<float>(random, shapes, channels, points, queries, 2);
          run_case<double>(random, shapes, channels, points, queries, 2);
          cases += 2;
        }
  std::printf("%d cases\n", cases);
}
