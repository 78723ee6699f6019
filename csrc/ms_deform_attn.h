// The arithmetic of one sampling point, shared by the CPU and the GPU kernels.
//
// Convention: a location is (x, y), fractions of its level, x to the right and y down. Pixel i
// covers [i, i + 1) and its value stands at its centre, so x_pixel = x * width - 0.5 is a whole
// number at pixel centres. Outside the level every pixel is 0.
//
// ddetr_edu/attention/interpolation.py is the same in Python.
#pragma once

#ifndef __CUDACC_RTC__  // the GPU's run-time compiler has no headers, but provides floor
#include <cmath>
using std::floor;
#endif

#ifdef __CUDACC__
#define DDETR_HD __host__ __device__ __forceinline__
#else
#define DDETR_HD inline __attribute__((always_inline))  // a call would keep loops from vectorising
#endif

namespace ddetr {

// The four pixels around a sampling point, numbered so that one bit says whether the pixel is one
// of the two on the right, and one bit whether it is one of the two below.
enum Corner { TOP_LEFT, TOP_RIGHT, BOTTOM_LEFT, BOTTOM_RIGHT, NUM_CORNERS };
constexpr int RIGHT_BIT = 1, BOTTOM_BIT = 2;

// A sampling position along one axis: between two neighbouring pixels.
template <typename T>
struct AxisPosition {
  int first;                  // the pixel to the left (or above); the second is first + 1
  int has_first, has_second;  // 1 if it lies inside the level, else 0; with bool, g++ would branch
  T fraction;                 // the weight of the second, in [0, 1); the first has 1 - fraction
};

template <typename T>
DDETR_HD AxisPosition<T> locate_on_axis(T location, int size) {
  T pixel = location * T(size) - T(0.5);
  // A location that reaches no pixel is moved to where neither neighbour exists. This includes NaN,
  // because it compares false, infinity, and numbers too large for an int.
  pixel = pixel > T(-1) ? pixel : T(-2);
  pixel = pixel < T(size) ? pixel : T(size);
  const T whole = floor(pixel);
  const int first = int(whole);
  return {first, (first >= 0) & (first < size), (first >= -1) & (first < size - 1), pixel - whole};
}

// A sampling position in a level: between its four pixels.
template <typename T>
struct SamplingPosition {
  // The token of each corner, or `outside_token` if the corner lies outside the level.
  int top_left, top_right, bottom_left, bottom_right;
  T fraction_x, fraction_y;  // the weight of the right pixels, and of the bottom pixels
};

// Find the four pixels around (x, y) on a level of height x width tokens that begins at `start`.
//
// There is no branch, so that a compiler can handle many points at once.
template <typename T>
DDETR_HD SamplingPosition<T> locate(T x, T y, int height, int width, int start, int outside_token) {
  const AxisPosition<T> column = locate_on_axis(x, width), row = locate_on_axis(y, height);
  const int token = start + row.first * width + column.first;
  return {
      row.has_first & column.has_first ? token : outside_token,
      row.has_first & column.has_second ? token + 1 : outside_token,
      row.has_second & column.has_first ? token + width : outside_token,
      row.has_second & column.has_second ? token + width + 1 : outside_token,
      column.fraction, row.fraction,
  };
}

// The gradients of one point's attention weight and location.
template <typename T>
struct PointGradient {
  T weight, x, y;
};

// Compute the gradients of one point. `dot_*` is grad_dot_value at each corner: the dot product
// over the channels of the incoming gradient and the value there (0 outside). These four numbers
// are all that is needed.
//
// Moving right shifts weight from the left corners to the right ones, and moving down from the top
// to the bottom; width and height are the chain rule of x_pixel = x * width - 0.5.
template <typename T>
DDETR_HD PointGradient<T> point_gradient(
    T dot_top_left, T dot_top_right, T dot_bottom_left, T dot_bottom_right,
    T fraction_x, T fraction_y, T weight, int height, int width) {
  const T weight_left = T(1) - fraction_x, weight_top = T(1) - fraction_y;
  const T dot_top = weight_left * dot_top_left + fraction_x * dot_top_right;
  const T dot_bottom = weight_left * dot_bottom_left + fraction_x * dot_bottom_right;
  const T dot_left = weight_top * dot_top_left + fraction_y * dot_bottom_left;
  const T dot_right = weight_top * dot_top_right + fraction_y * dot_bottom_right;
  return {weight_top * dot_top + fraction_y * dot_bottom,
          T(width) * weight * (dot_right - dot_left),
          T(height) * weight * (dot_bottom - dot_top)};
}

}  // namespace ddetr
