// What a step of the ladder gets, and the function that it has to define.
//
// Each step is a complete program together with program.cpp: it reads the arrays from a file, calls
// `attend`, and writes the result and the times to another. Nothing here needs torch.
#pragma once

#include <cmath>

#ifdef DDETR_COUNT_READS
void note_read(const void* address);  // in program.cpp

// A float that notes each time it is read. It is as large as a float, so the arrays stay the same.
struct Number {
  Number() = default;
  Number(const Number& other) : stored(other) {}
  operator float() const {
    note_read(this);
    return stored;
  }

 private:
  float stored;
};
#else
using Number = float;
#endif

struct Sizes {
  int images, tokens, heads, channels, queries, levels, points;  // N, S, M, D, Lq, L, P
  const int *height, *width;                                     // H and W of each level
  const int* start;                                              // the first token of each level
  int threads;
};

// Multi-scale deformable attention.
//
//   value      (N, S, M, D)         the D channels of one head at one token lie side by side
//   locations  (N, Lq, M, L, P, 2)  (x, y), fractions of the level
//   weights    (N, Lq, M, L, P)     attention weights
//   output     (N, Lq, M, D)        to be written; what is in it before means nothing
void attend(const Sizes& s, const Number* value, const Number* locations, const Number* weights,
            float* output);
