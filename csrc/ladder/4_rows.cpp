// Step 4: rows in registers. With D known when it is compiled, the sum of a query and head stays in
// vector registers for all its points, instead of going to memory and back for each of them.
#include "../row.h"
#include "ladder.h"

using ddetr::Row;

// `width` channels from `channel` on, of one query and head.
template <int width>
static void attend_channels(const Sizes& s, const float* head, const float* locations,
                            const float* weights, float* output) {
  const int step = s.heads * s.channels;  // from a token to the next
  auto sum = Row<float, width>::zeros();
  for (int l = 0; l < s.levels; ++l) {
    const int height = s.height[l], w = s.width[l];
    const float* map = head + s.start[l] * step;
    for (int p = 0; p < s.points; ++p) {
      const int point = l * s.points + p;
      const float x = locations[2 * point] * w - 0.5f;
      const float y = locations[2 * point + 1] * height - 0.5f;
      if (!(x > -1 && x < w && y > -1 && y < height)) continue;
      const int left = int(std::floor(x)), top = int(std::floor(y));
      const float weight_x[] = {1 - (x - left), x - left}, weight_y[] = {1 - (y - top), y - top};
      for (int j = 0; j < 2; ++j)
        for (int i = 0; i < 2; ++i) {
          const int row = top + j, column = left + i;
          if (row >= 0 && row < height && column >= 0 && column < w)
            sum.add(weights[point] * weight_y[j] * weight_x[i],
                    Row<float, width>::load(map + (row * w + column) * step));
        }
    }
  }
  sum.store(output);
}

void attend(const Sizes& s, const float* value, const float* locations, const float* weights,
            float* output) {
  const int n_points = s.levels * s.points;
  for (int n = 0; n < s.images; ++n)
    for (int q = 0; q < s.queries; ++q)
      for (int m = 0; m < s.heads; ++m) {
        const int row = (n * s.queries + q) * s.heads + m;
        const float *x = locations + 2 * row * n_points, *w = weights + row * n_points;
        const auto chunk = [&](auto width, int c) {
          const float* head = value + (n * s.tokens * s.heads + m) * s.channels + c;
          attend_channels<width>(s, head, x, w, output + row * s.channels + c);
        };
        int c = 0;  // any D is a sum of these widths
        for (; s.channels - c >= 32; c += 32) chunk(std::integral_constant<int, 32>{}, c);
        for (; s.channels - c >= 8; c += 8) chunk(std::integral_constant<int, 8>{}, c);
        for (; s.channels - c >= 1; c += 1) chunk(std::integral_constant<int, 1>{}, c);
      }
}
