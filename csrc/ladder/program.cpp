// Runs one step of the ladder: program INPUT OUTPUT THREADS ROUNDS SECONDS
//
// INPUT holds N, S, M, D, Lq, L, P and H, W of each level as 32-bit integers, then value, locations
// and weights as floats. OUTPUT gets the result as floats, then as doubles: how many calls were
// timed, how often value, locations and weights were read, how often something just outside of them
// was, and 1 if something outside the output was written; the milliseconds of each timed call; and
// the positions in `value` of all reads, in order. Reads are counted with DDETR_COUNT_READS only.
//
// A first call warms up; then there are at most ROUNDS more, as long as SECONDS are not over. If
// the first alone takes longer than that, its time is the result.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "ladder.h"

static const std::size_t GUARD = 4096;  // numbers before and after each array

// An array with NaN on both sides: what is read there spoils the result.
struct Guarded {
  std::vector<float> all;
  std::size_t count;

  explicit Guarded(std::size_t count) : all(count + 2 * GUARD, NAN), count(count) {}
  float* begin() { return all.data() + GUARD; }
  const Number* numbers() { return reinterpret_cast<const Number*>(begin()); }
  bool holds(const void* p) { return p >= begin() && p < begin() + count; }
  bool is_near(const void* p) { return p >= all.data() && p < all.data() + all.size(); }
  bool untouched_around() {
    for (std::size_t i = 0; i < GUARD; ++i)
      if (!std::isnan(all[i]) || !std::isnan(all[count + GUARD + i])) return false;
    return true;
  }
};

static Guarded* arrays[3];            // value, locations, weights
static double reads[3], outside;       // of each, and reads just outside of any
static std::vector<double> positions;  // of the reads of value

#ifdef DDETR_COUNT_READS
void note_read(const void* address) {
  for (int i = 0; i < 3; ++i) {
    if (arrays[i]->holds(address)) {
      ++reads[i];
      const float* number = static_cast<const float*>(address);
      if (i == 0) positions.push_back(double(number - arrays[0]->begin()));
    } else if (arrays[i]->is_near(address)) {
      ++outside;
    }
  }
}
#endif

int main(int, char** argv) {
  std::FILE* in = std::fopen(argv[1], "rb");
  int n[7];
  if (!in || std::fread(n, sizeof(int), 7, in) != 7) return 3;
  std::vector<int> shapes(2 * n[5]), height, width, start;
  if (std::fread(shapes.data(), sizeof(int), shapes.size(), in) != shapes.size()) return 3;
  for (int l = 0, first = 0; l < n[5]; first += shapes[2 * l] * shapes[2 * l + 1], ++l)
    height.push_back(shapes[2 * l]), width.push_back(shapes[2 * l + 1]), start.push_back(first);
  const std::size_t points = std::size_t(n[0]) * n[4] * n[2] * n[5] * n[6];
  Guarded value(std::size_t(n[0]) * n[1] * n[2] * n[3]), locations(2 * points), weights(points);
  Guarded output(std::size_t(n[0]) * n[4] * n[2] * n[3]);
  arrays[0] = &value, arrays[1] = &locations, arrays[2] = &weights;
  for (Guarded* a : arrays)
    if (std::fread(a->begin(), sizeof(float), a->count, in) != a->count) return 3;
  std::fclose(in);

  const Sizes sizes{n[0], n[1], n[2], n[3], n[4], n[5], n[6],
                    height.data(), width.data(), start.data(), std::atoi(argv[3])};
  std::vector<double> times;
  double total = 0;
  for (int round = 0; round <= std::atoi(argv[4]) && total <= 1000 * std::atof(argv[5]); ++round) {
    const auto started = std::chrono::steady_clock::now();
    attend(sizes, value.numbers(), locations.numbers(), weights.numbers(), output.begin());
    const auto took = std::chrono::steady_clock::now() - started;
    times.push_back(std::chrono::duration<double, std::milli>(took).count());
    total += times.back();
  }
  if (times.size() > 1) times.erase(times.begin());  // the first one has warmed up
  const double counts[] = {double(times.size()), reads[0], reads[1], reads[2], outside,
                           double(!output.untouched_around())};
  std::FILE* out = std::fopen(argv[2], "wb");
  if (!out) return 3;
  std::fwrite(output.begin(), sizeof(float), output.count, out);
  std::fwrite(counts, sizeof(double), 6, out);
  std::fwrite(times.data(), sizeof(double), times.size(), out);
  std::fwrite(positions.data(), sizeof(double), positions.size(), out);
  return std::fclose(out) ? 3 : 0;
}
