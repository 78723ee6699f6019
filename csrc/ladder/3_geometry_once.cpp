// Step 3: the geometry once. Which pixels a point reads, and with which weights, does not depend on
// the channel. So the loop over channels moves inside: it is all that is left of the inner work,
// and a compiler turns it into vector instructions.
#include "ladder.h"

// sum[c] += weight * row[c] for D channels
static void add_row(int channels, float weight, const Number* row, float* __restrict sum) {
  for (int c = 0; c < channels; ++c) sum[c] += weight * row[c];
}

// The same for a point: four rows. `map` is the first token's row, `step` leads to the next one's.
static void add_point(const Number* map, int step, int height, int width, float x, float y,
                      float weight, int channels, float* sum) {
  const float x_pixel = x * width - 0.5f, y_pixel = y * height - 0.5f;
  if (!(x_pixel > -1 && x_pixel < width && y_pixel > -1 && y_pixel < height)) return;
  const int left = int(std::floor(x_pixel)), top = int(std::floor(y_pixel));
  const float weight_x[] = {1 - (x_pixel - left), x_pixel - left};
  const float weight_y[] = {1 - (y_pixel - top), y_pixel - top};
  for (int j = 0; j < 2; ++j)
    for (int i = 0; i < 2; ++i) {
      const int row = top + j, column = left + i;
      if (row >= 0 && row < height && column >= 0 && column < width)
        add_row(channels, weight * weight_y[j] * weight_x[i],
                map + (row * width + column) * step, sum);
    }
}

void attend(const Sizes& s, const Number* value, const Number* locations, const Number* weights,
            float* output) {
  const int step = s.heads * s.channels;  // from a token to the next
  for (int n = 0; n < s.images; ++n)
    for (int q = 0; q < s.queries; ++q)
      for (int m = 0; m < s.heads; ++m) {
        const int row = (n * s.queries + q) * s.heads + m;
        float* sum = output + row * s.channels;
        for (int c = 0; c < s.channels; ++c) sum[c] = 0;
        for (int l = 0; l < s.levels; ++l)
          for (int p = 0; p < s.points; ++p) {
            const int point = (row * s.levels + l) * s.points + p;
            const Number* map = value + (n * s.tokens + s.start[l]) * step + m * s.channels;
            add_point(map, step, s.height[l], s.width[l], locations[2 * point],
                      locations[2 * point + 1], weights[point], s.channels, sum);
          }
      }
}
