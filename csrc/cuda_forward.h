// The forward pass on a GPU.
//
// A group of LANES neighbouring lanes works on one head of one query. First each lane loads one
// point, and leaves in shared memory which rows of value it reads and how much each counts. Then the
// points take turns: all lanes read a point's four rows, VECTOR channels per lane in one load.
#pragma once

#include "cuda_point.h"

namespace ddetr {

// What all lanes need to know of a point. Each half of it takes one load.
template <typename S>
struct Corners {
  struct alignas(16) Offsets { int of[NUM_CORNERS]; };  // of the row's first number; -1: outside
  struct alignas(16) Coefs { S of[NUM_CORNERS]; };
  Offsets offsets;
  Coefs coefs;
};

template <typename T, int VECTOR, int LANES, int QUERIES, int HEADS, int /* see backward */>
__device__ void forward(const Arguments& a) {
  using S = typename Sum<T>::type;
  constexpr int GROUPS = QUERIES * HEADS;
  // One more than there are points, so that neighbouring groups read from different banks.
  __shared__ typename Corners<S>::Offsets all_offsets[GROUPS][LANES + 1];
  __shared__ typename Corners<S>::Coefs all_coefs[GROUPS][LANES + 1];
  const int lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
  const Task task = task_of<QUERIES, HEADS>(a, group);
  const int step = a.heads * a.channels;  // from one token to the next
  const int first_number = task.head * a.channels + lane * VECTOR;
  const T* value = element<const T>(a.value, task.image * a.tokens * step + first_number);
  T* output = element<T>(a.output, (task.image * a.queries + task.query) * step + first_number);

  for (int channel = 0; channel < a.channels; channel += LANES * VECTOR) {
    S sum[VECTOR] = {};
    for (int first = 0; first < a.levels * a.points; first += LANES) {
      const Point<S> own = load_point<S>(a, task, first + lane);
      Corners<S> corners;
      for (int corner = 0; corner < NUM_CORNERS; ++corner) {
        corners.offsets.of[corner] = own.is_inside(corner) ? own.token(a, corner) * step : -1;
        corners.coefs.of[corner] = own.coef(corner);
      }
      __syncwarp();  // the points of the round before have been read
      all_offsets[group][lane] = corners.offsets;
      all_coefs[group][lane] = corners.coefs;
      __syncwarp();
#pragma unroll 4
      for (int p = 0; p < LANES; ++p) {
        const auto offsets = all_offsets[group][p];
        const auto coefs = all_coefs[group][p];
        S pixels[NUM_CORNERS][VECTOR];
        for (int corner = 0; corner < NUM_CORNERS; ++corner)
          read(offsets.of[corner] >= 0, value + offsets.of[corner], pixels[corner]);
        for (int corner = 0; corner < NUM_CORNERS; ++corner)
          for (int i = 0; i < VECTOR; ++i) sum[i] += coefs.of[corner] * pixels[corner][i];
      }
    }
    if (task.exists()) write(output, sum);
    value += LANES * VECTOR;
    output += LANES * VECTOR;
  }
}

}  // namespace ddetr
