// Step 5: points together. Not only channels, points fill the lanes of a vector, too: the geometry
// of 16 of them is computed at once (points.h), and without branches.
#include <type_traits>
#include <vector>

#include "points.h"

void attend(const Sizes& s, const float* value, const float* locations, const float* weights,
            float* output) {
  const int n_points = s.levels * s.points;
  std::vector<LevelOfPoint> levels;
  for (int first = 0; first < n_points; first += BLOCK) levels.emplace_back(s, first);
  for (int nq = 0; nq < s.images * s.queries; ++nq)
    for (int m = 0; m < s.heads; ++m) {
      const int n = nq / s.queries, row = nq * s.heads + m;
      const float *x = locations + 2 * row * n_points, *w = weights + row * n_points;
      const auto chunk = [&](auto width, int c) {
        const float* head = value + (n * s.tokens * s.heads + m) * s.channels + c;
        attend_channels<width>(s, levels.data(), head, x, w, output + row * s.channels + c);
      };
      int c = 0;  // any D is a sum of these widths
      for (; s.channels - c >= 32; c += 32) chunk(std::integral_constant<int, 32>{}, c);
      for (; s.channels - c >= 8; c += 8) chunk(std::integral_constant<int, 8>{}, c);
      for (; s.channels - c >= 1; c += 1) chunk(std::integral_constant<int, 1>{}, c);
    }
}
