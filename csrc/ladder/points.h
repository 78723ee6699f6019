// Up to 16 points of one query and head, located together: one point in each lane of a vector.
#pragma once

#include <algorithm>

#include "../ms_deform_attn.h"
#include "../row.h"
#include "ladder.h"

constexpr int BLOCK = 16;

// H, W and the first token of each level, repeated for each of its points: one for each lane.
struct LevelOfPoint {
  int height[BLOCK], width[BLOCK], start[BLOCK];

  LevelOfPoint(const Sizes& s, int first) {
    for (int p = 0; p < BLOCK; ++p) {
      const int level = std::min(first + p, s.levels * s.points - 1) / s.points;
      height[p] = s.height[level], width[p] = s.width[level], start[p] = s.start[level];
    }
  }
};

struct Block {
  int token[4][BLOCK];   // of each corner; one past the last token if it is outside the level
  float coef[4][BLOCK];  // attention weight times bilinear weight

  // There is no branch in this loop: that is what lets a compiler use one lane for each point.
  void locate(const LevelOfPoint& level, const float* locations, const float* weights, int count,
              int outside) {
#pragma omp simd
    for (int p = 0; p < count; ++p) {
      const auto at = ddetr::locate(locations[2 * p], locations[2 * p + 1], level.height[p],
                                    level.width[p], level.start[p], outside);
      const float right = at.fraction_x, bottom = at.fraction_y;
      token[0][p] = at.top_left, token[1][p] = at.top_right;
      token[2][p] = at.bottom_left, token[3][p] = at.bottom_right;
      coef[0][p] = weights[p] * (1 - bottom) * (1 - right);
      coef[1][p] = weights[p] * (1 - bottom) * right;
      coef[2][p] = weights[p] * bottom * (1 - right);
      coef[3][p] = weights[p] * bottom * right;
    }
  }
};

// `width` channels of one query and head.
template <int width>
static void attend_channels(const Sizes& s, const LevelOfPoint* levels, const float* head,
                            const float* locations, const float* weights, float* output) {
  using Row = ddetr::Row<float, width>;
  static constexpr float zeros[width] = {};  // what is read outside the levels
  const int step = s.heads * s.channels, n_points = s.levels * s.points;
  auto top = Row::zeros(), bottom = top;  // two sums, so that neither waits for the other
  for (int first = 0; first < n_points; first += BLOCK) {
    const int count = std::min(BLOCK, n_points - first);
    Block block;
    block.locate(levels[first / BLOCK], locations + 2 * first, weights + first,
                 count == BLOCK ? BLOCK : count, s.tokens);
    const auto row = [&](int corner, int p) {
      const int token = block.token[corner][p];
      return Row::load(token == s.tokens ? zeros : head + token * step);
    };
    for (int p = 0; p < count; ++p) {
      top.add(block.coef[0][p], row(0, p)), bottom.add(block.coef[2][p], row(2, p));
      top.add(block.coef[1][p], row(1, p)), bottom.add(block.coef[3][p], row(3, p));
    }
  }
  top.add(bottom);
  top.store(output);
}
