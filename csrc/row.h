// A row: the channels of one head at one token, held in vector registers.
//
// It uses the vector extensions that g++ and clang++ share, so the same source compiles to AVX-512,
// AVX2, SSE or NEON. A row that is wider than a register takes several.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#define DDETR_INLINE inline __attribute__((always_inline))

namespace ddetr {

#if defined(__AVX512F__)
constexpr int REGISTER_BYTES = 64;
#elif defined(__AVX__)
constexpr int REGISTER_BYTES = 32;
#else
constexpr int REGISTER_BYTES = 16;
#endif

template <typename T, int LANES>
struct Register {
  typedef T type __attribute__((vector_size(LANES * sizeof(T))));
};
template <typename T, int LANES>
using Vector = typename Register<T, LANES>::type;

template <typename T, int WIDTH>
struct Row {
  static constexpr int FULL = REGISTER_BYTES / int(sizeof(T));
  static constexpr int LANES = WIDTH < FULL ? WIDTH : FULL;
  static constexpr int PARTS = WIDTH / LANES;
  using Part = Vector<T, LANES>;

  Part part[PARTS];

  static Row zeros() {
    Row row;
    for (int i = 0; i < PARTS; ++i) row.part[i] = Part{};
    return row;
  }
  static Row load(const T* from) {
    Row row;
    std::memcpy(row.part, from, sizeof row.part);
    return row;
  }
  void store(T* to) const { std::memcpy(to, part, sizeof part); }
  // this += weight * other
  void add(T weight, const Row& other) {
    for (int i = 0; i < PARTS; ++i) part[i] += weight * other.part[i];
  }
  void add(const Row& other) {
    for (int i = 0; i < PARTS; ++i) part[i] += other.part[i];
  }
  // The elementwise products with another row, summed over the registers but not over the lanes.
  Part products(const Row& other) const {
    Part sum = part[0] * other.part[0];
    for (int i = 1; i < PARTS; ++i) sum += part[i] * other.part[i];
    return sum;
  }
};

// Add neighbouring lanes in pairs: (a0 + a1, a2 + a3, ..., b0 + b1, b2 + b3, ...).
template <typename T, int LANES>
DDETR_INLINE Vector<T, LANES> pairs(Vector<T, LANES> a, Vector<T, LANES> b) {
#ifdef __clang__
  Vector<T, LANES> even, odd;
  for (int i = 0; i < LANES; ++i) {
    even[i] = 2 * i < LANES ? a[2 * i] : b[2 * i - LANES];
    odd[i] = 2 * i < LANES ? a[2 * i + 1] : b[2 * i + 1 - LANES];
  }
  return even + odd;
#else
  using Index = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
  Vector<Index, LANES> even;
  for (int i = 0; i < LANES; ++i) even[i] = 2 * i;
  return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, even + 1);
#endif
}

// Return one register whose lane i is the sum over the lanes of register i, for COUNT = LANES
// registers. Summing one register over its lanes takes log2(LANES) shuffles; adding registers in
// pairs lets all of them use the same shuffles.
template <typename T, int LANES, int COUNT = LANES>
DDETR_INLINE Vector<T, LANES> sums(const Vector<T, LANES>* registers) {
  if constexpr (COUNT == 1) return registers[0];
  else return pairs<T, LANES>(sums<T, LANES, COUNT / 2>(registers),
                              sums<T, LANES, COUNT / 2>(registers + COUNT / 2));
}

}  // namespace ddetr
