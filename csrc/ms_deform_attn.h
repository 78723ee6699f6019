// The arithmetic of one sampling point, for host and device alike.
//
// Convention: a location is (x, y), fractions of its level, x to the right and y down. Pixel i
// covers [i, i + 1) and its value stands at its centre, so x_pixel = x * width - 0.5 is a whole
// number at pixel centres. Outside the level every pixel is 0.
//
// The same words in Python: ddetr_edu/attention/interpolation.py.
#pragma once

#ifndef __CUDACC_RTC__  // the GPU's run-time compiler has no headers, and knows floor without
#include <cmath>
using std::floor;
#endif

#ifdef __CUDACC__
#define DDETR_HD __host__ __device__ __forceinline__
#else
#define DDETR_HD inline __attribute__((always_inline))  // a call would keep loops from vectorising
#endif

namespace ddetr {

// The four pixels around a place, where they are counted.
enum Corner { TOP_LEFT, TOP_RIGHT, BOTTOM_LEFT, BOTTOM_RIGHT, CORNERS };

// A place along one axis, between a pixel and the one after it.
template <typename T>
struct Between {
  int first;                  // the pixel to the left (or above); the second is first + 1
  int has_first, has_second;  // 1 if it lies inside the level, else 0; as bool, g++ would branch
  T second_share;             // how much the second counts, in [0, 1); the first counts the rest
};

template <typename T>
DDETR_HD Between<T> between(T location, int size) {
  T pixel = location * T(size) - T(0.5);
  // Out of reach of every pixel: go where neither neighbour exists. NaN does so too, because it
  // compares false, and infinity, and numbers too large for an int.
  pixel = pixel > T(-1) ? pixel : T(-2);
  pixel = pixel < T(size) ? pixel : T(size);
  const T whole = floor(pixel);
  const int first = int(whole);
  return {first, (first >= 0) & (first < size), (first >= -1) & (first < size - 1), pixel - whole};
}

// A place between its four pixels.
template <typename T>
struct Place {
  // Which token each corner is, or `nowhere` if it lies outside the level.
  int top_left, top_right, bottom_left, bottom_right;
  T right, lower;  // how much the right, and the lower, pixels count
};

// Find the four pixels around (x, y) on a level of height x width tokens that begins at `start`.
//
// There is no branch, so that a compiler can do many points at once.
template <typename T>
DDETR_HD Place<T> locate(T x, T y, int height, int width, int start, int nowhere) {
  const Between<T> column = between(x, width), row = between(y, height);
  const int token = start + row.first * width + column.first;
  return {
      row.has_first & column.has_first ? token : nowhere,
      row.has_first & column.has_second ? token + 1 : nowhere,
      row.has_second & column.has_first ? token + width : nowhere,
      row.has_second & column.has_second ? token + width + 1 : nowhere,
      column.second_share, row.second_share,
  };
}

// What one point owes to its attention weight and to its location.
template <typename T>
struct PointGradient {
  T weight, x, y;
};

// The gradients of one point. `along` is, for each corner, the incoming gradient times the value
// there, summed over the channels (0 outside): these four numbers are all that is needed.
//
// Moving right trades the left corners for the right ones, and moving down the upper for the
// lower; width and height are the chain rule of x_pixel = x * width - 0.5.
template <typename T>
DDETR_HD PointGradient<T> point_gradient(
    T along_top_left, T along_top_right, T along_bottom_left, T along_bottom_right,
    T right, T lower, T weight, int height, int width) {
  const T left = T(1) - right, upper = T(1) - lower;
  const T along_upper = left * along_top_left + right * along_top_right;
  const T along_lower = left * along_bottom_left + right * along_bottom_right;
  const T along_left = upper * along_top_left + lower * along_bottom_left;
  const T along_right = upper * along_top_right + lower * along_bottom_right;
  return {upper * along_upper + lower * along_lower,
          T(width) * weight * (along_right - along_left),
          T(height) * weight * (along_lower - along_upper)};
}

}  // namespace ddetr
