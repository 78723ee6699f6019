// The arithmetic of one sampling point, for host and device alike.
//
// Convention: a location is (x, y), fractions of its level, x to the right and y down. Pixel i
// covers [i, i + 1) and its value stands at its centre, so x_pixel = x * width - 0.5 is a whole
// number at pixel centres. Outside the level every pixel is 0.
//
// The same words in Python: ddetr_edu/attention/interpolation.py.
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define DDETR_HD __host__ __device__ __forceinline__
#else
#define DDETR_HD inline
#endif

namespace ddetr {

// The four pixels around a place, in this order everywhere.
enum Corner { TOP_LEFT, TOP_RIGHT, BOTTOM_LEFT, BOTTOM_RIGHT, CORNERS };

// Where a place lies between its four pixels.
template <typename T>
struct Place {
  int token[CORNERS];  // which token each corner is, or `nowhere` if it lies outside the level
  T right, bottom;     // share of the right, and of the lower, pixels: both in [0, 1)
};

// Find the four pixels around (x, y) on a level of height x width tokens that begins at `start`.
//
// There is no branch, so that a compiler can do many points at once.
template <typename T>
DDETR_HD Place<T> locate(T x, T y, int height, int width, int start, int nowhere) {
  T x_pixel = x * T(width) - T(0.5);
  T y_pixel = y * T(height) - T(0.5);
  // A place with no pixel in reach is moved to (-2, -2), where all four corners are outside. NaN
  // goes there too, because it compares false; so do infinity and numbers too large for an int.
  const bool reached = (x_pixel > T(-1)) & (x_pixel < T(width)) &
                       (y_pixel > T(-1)) & (y_pixel < T(height));
  x_pixel = reached ? x_pixel : T(-2);
  y_pixel = reached ? y_pixel : T(-2);
  const T x_floor = std::floor(x_pixel), y_floor = std::floor(y_pixel);
  const int left = int(x_floor), top = int(y_floor);

  const bool in_left = (left >= 0) & (left < width), in_right = (left >= -1) & (left < width - 1);
  const bool in_top = (top >= 0) & (top < height), in_bottom = (top >= -1) & (top < height - 1);
  const int top_left = start + top * width + left;
  Place<T> place;
  place.token[TOP_LEFT] = in_top & in_left ? top_left : nowhere;
  place.token[TOP_RIGHT] = in_top & in_right ? top_left + 1 : nowhere;
  place.token[BOTTOM_LEFT] = in_bottom & in_left ? top_left + width : nowhere;
  place.token[BOTTOM_RIGHT] = in_bottom & in_right ? top_left + width + 1 : nowhere;
  place.right = x_pixel - x_floor;
  place.bottom = y_pixel - y_floor;
  return place;
}

// Bilinear interpolation: how much one corner counts. The four shares sum to 1.
template <typename T>
DDETR_HD T share(int corner, T right, T bottom) {
  const T across = corner == TOP_RIGHT || corner == BOTTOM_RIGHT ? right : T(1) - right;
  const T down = corner == BOTTOM_LEFT || corner == BOTTOM_RIGHT ? bottom : T(1) - bottom;
  return across * down;
}

// What one point owes to its attention weight and to its location.
template <typename T>
struct PointGradient {
  T weight, x, y;
};

// The gradients of one point. `along[corner]` is the incoming gradient times the value of that
// corner, summed over the channels (0 outside): these four numbers are all that is needed.
//
// Moving right trades the left corners for the right ones, and moving down the upper for the
// lower; width and height are the chain rule of x_pixel = x * width - 0.5.
template <typename T>
DDETR_HD PointGradient<T> point_gradient(
    const T along[CORNERS], T right, T bottom, T weight, int height, int width) {
  const T left = T(1) - right, top = T(1) - bottom;
  const T x_slope = top * (along[TOP_RIGHT] - along[TOP_LEFT]) +
                    bottom * (along[BOTTOM_RIGHT] - along[BOTTOM_LEFT]);
  const T y_slope = left * (along[BOTTOM_LEFT] - along[TOP_LEFT]) +
                    right * (along[BOTTOM_RIGHT] - along[TOP_RIGHT]);
  const T sampled = top * (left * along[TOP_LEFT] + right * along[TOP_RIGHT]) +
                    bottom * (left * along[BOTTOM_LEFT] + right * along[BOTTOM_RIGHT]);
  return {sampled, T(width) * weight * x_slope, T(height) * weight * y_slope};
}

}  // namespace ddetr
