// Step 2: channels inside. The loops over heads, channels and queries change places; no other line
// does. All D channels of a query and head are computed one after another, so the rows that they
// share are still in the nearest cache.
#include "ladder.h"

// One channel of a level, read between its pixels. `map` is its number at the level's first token,
// and `step` is the distance from there to the next token's.
static float bilinear(const Number* map, int step, int height, int width, float x, float y) {
  const float x_pixel = x * width - 0.5f, y_pixel = y * height - 0.5f;
  if (!(x_pixel > -1 && x_pixel < width && y_pixel > -1 && y_pixel < height)) return 0;
  const int left = int(std::floor(x_pixel)), top = int(std::floor(y_pixel));
  const float weight_x[] = {1 - (x_pixel - left), x_pixel - left};
  const float weight_y[] = {1 - (y_pixel - top), y_pixel - top};
  float sum = 0;
  for (int j = 0; j < 2; ++j)
    for (int i = 0; i < 2; ++i) {
      const int row = top + j, column = left + i;
      if (row >= 0 && row < height && column >= 0 && column < width)
        sum += weight_y[j] * weight_x[i] * map[(row * width + column) * step];
    }
  return sum;
}

void attend(const Sizes& s, const Number* value, const Number* locations, const Number* weights,
            float* output) {
  const int step = s.heads * s.channels;  // from a token to the next
  for (int n = 0; n < s.images; ++n)
    for (int q = 0; q < s.queries; ++q)
      for (int m = 0; m < s.heads; ++m)
        for (int c = 0; c < s.channels; ++c) {
          const int row = (n * s.queries + q) * s.heads + m;
          float sum = 0;
          for (int l = 0; l < s.levels; ++l)
            for (int p = 0; p < s.points; ++p) {
              const int point = (row * s.levels + l) * s.points + p;
              const Number* map = value + (n * s.tokens + s.start[l]) * step + m * s.channels + c;
              sum += weights[point] * bilinear(map, step, s.height[l], s.width[l],
                                               locations[2 * point], locations[2 * point + 1]);
            }
          output[row * s.channels + c] = sum;
        }
}
