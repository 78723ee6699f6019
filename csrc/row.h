// A row: the channels of one head at one token, held in vector registers; and the 16-bit types.
//
// Written with the vector extensions that g++ and clang++ share, so the same lines become AVX-512,
// AVX2, SSE or NEON. A row wider than a register takes several.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace ddetr {

#if defined(__AVX512F__)
constexpr int REGISTER_BYTES = 64;
#elif defined(__AVX__)
constexpr int REGISTER_BYTES = 32;
#else
constexpr int REGISTER_BYTES = 16;
#endif

// 16-bit numbers as they are stored. All arithmetic happens in float.
struct Half { std::uint16_t bits; };
struct BFloat16 { std::uint16_t bits; };

inline float as_float(std::uint32_t bits) { float x; std::memcpy(&x, &bits, 4); return x; }
inline std::uint32_t as_bits(float x) { std::uint32_t bits; std::memcpy(&bits, &x, 4); return bits; }

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(BFloat16 x) { return as_float(std::uint32_t(x.bits) << 16); }
inline float widen(Half x) {
  const std::uint32_t sign = std::uint32_t(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
  const std::uint32_t rebias = 112u << 23;  // exponents count from -15 in Half, from -127 in float
  const std::uint32_t normal = (rest << 13) + rebias + (rest >= 0x7c00 ? rebias : 0);
  const float subnormal = float(std::int32_t(rest)) * 0x1p-24f;
  return as_float(sign | (rest < 0x400 ? as_bits(subnormal) : normal));
}

inline void narrow(float x, float& to) { to = x; }
inline void narrow(double x, double& to) { to = x; }
inline void narrow(float x, BFloat16& to) {
  const std::uint32_t bits = as_bits(x);
  const std::uint32_t even = 0x7fff + ((bits >> 16) & 1);  // to nearest, ties to even
  to.bits = std::uint16_t(x != x ? 0x7fc0 : (bits + even) >> 16);
}
inline void narrow(float x, Half& to) {
  const std::uint32_t sign = as_bits(x) >> 16 & 0x8000, rest = as_bits(x) & 0x7fffffff;
  std::uint32_t half;
  if (rest >= 0x47800000) half = rest > 0x7f800000 ? 0x7e00 : 0x7c00;  // NaN; infinity
  else if (rest < 0x38800000) half = std::uint32_t(std::nearbyint(as_float(rest) * 0x1p24f));
  else half = (rest - (112u << 23) + 0xfff + ((rest >> 13) & 1)) >> 13;
  to.bits = std::uint16_t(sign | half);
}

template <typename T, int LANES>
struct Register {
  typedef T type __attribute__((vector_size(LANES * sizeof(T))));
};
template <int BYTES> struct IntOf;
template <> struct IntOf<4> { using type = std::int32_t; };
template <> struct IntOf<8> { using type = std::int64_t; };

template <typename T, int WIDTH>
struct Row {
  static constexpr int FULL = REGISTER_BYTES / int(sizeof(T));
  static constexpr int LANES = WIDTH < FULL ? WIDTH : FULL;
  static constexpr int PARTS = WIDTH / LANES;
  using Vector = typename Register<T, LANES>::type;

  Vector part[PARTS];

  static Row zeros() {
    Row row;
    for (int i = 0; i < PARTS; ++i) row.part[i] = Vector{};
    return row;
  }
  template <typename Stored>
  static Row load(const Stored* from) {
    T wide[WIDTH];
    for (int d = 0; d < WIDTH; ++d) wide[d] = widen(from[d]);
    return load(wide);
  }
  static Row load(const T* from) {
    Row row;
    std::memcpy(row.part, from, sizeof row.part);
    return row;
  }
  void store(T* to) const { std::memcpy(to, part, sizeof part); }
  template <typename Stored>
  void store(Stored* to) const {
    T wide[WIDTH];
    store(wide);
    for (int d = 0; d < WIDTH; ++d) narrow(wide[d], to[d]);
  }
  // this += weight * other
  void add(T weight, const Row& other) {
    for (int i = 0; i < PARTS; ++i) part[i] += weight * other.part[i];
  }
  void add(const Row& other) {
    for (int i = 0; i < PARTS; ++i) part[i] += other.part[i];
  }
  // The products with another row, summed as far as that needs no crossing of lanes.
  Vector products(const Row& other) const {
    Vector sum = part[0] * other.part[0];
    for (int i = 1; i < PARTS; ++i) sum += part[i] * other.part[i];
    return sum;
  }
};

// Neighbours added in pairs: (a0 + a1, a2 + a3, ..., b0 + b1, b2 + b3, ...).
template <typename T, int LANES>
typename Register<T, LANES>::type pairs(
    typename Register<T, LANES>::type a, typename Register<T, LANES>::type b) {
  using Int = typename IntOf<sizeof(T)>::type;
  typename Register<Int, LANES>::type even;
  for (int i = 0; i < LANES; ++i) even[i] = Int(2 * i);
#ifdef __clang__
  typename Register<T, LANES>::type low, high;
  for (int i = 0; i < LANES; ++i) {
    low[i] = 2 * i < LANES ? a[2 * i] : b[2 * i - LANES];
    high[i] = 2 * i < LANES ? a[2 * i + 1] : b[2 * i + 1 - LANES];
  }
  return low + high;
#else
  return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, even + 1);
#endif
}

// One register holding the sum over the lanes of each of COUNT registers; with COUNT = LANES.
// Summing a register across its lanes takes log2(LANES) shuffles; adding up pairs of registers
// shares those among all.
template <typename T, int LANES, int COUNT = LANES>
typename Register<T, LANES>::type sums(const typename Register<T, LANES>::type* rows) {
  if constexpr (COUNT == 1) return rows[0];
  else
    return pairs<T, LANES>(sums<T, LANES, COUNT / 2>(rows),
                           sums<T, LANES, COUNT / 2>(rows + COUNT / 2));
}

}  // namespace ddetr
