// Which part of an image a task works on, and tiles with reflected borders.
// Internal linkage throughout: compiled once per instruction set.
#pragma once
#include "../cpu_scratch.h"
#include "content_guided_attention_cpu_taps.h"

namespace content_guided_attention {
namespace IBN_ISA {
namespace {

// Not std::min and std::max, whose copies the linker would share among instruction sets.
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// One axis of a task. Own positions are [begin, end); tasks cover the image once.
struct Axis {
  int64_t size, begin, end;
  bool backward;
  // where the gradient of the padded input arises: the own positions and the border beyond
  int64_t full_begin() const { return begin == 0 ? -kReach : begin; }
  int64_t full_end() const { return end == size ? size + kReach : end; }
  // where the attention is computed: in the backward also what reaches those positions
  int64_t map_begin() const { return backward ? larger(0, full_begin() - kReach) : begin; }
  int64_t map_end() const { return backward ? smaller(size, full_end() + kReach) : end; }

  int64_t own() const { return end - begin; }
  int64_t map() const { return map_end() - map_begin(); }
  int64_t full() const { return full_end() - full_begin(); }
};

// An axis cut into parts of about `wanted`, at multiples of 16 so that only the last part of an
// image has an incomplete vector; by the size alone, so that threads do not change a result.
struct Cuts {
  int64_t size, count;
  Cuts(int64_t size, int64_t wanted) : size(size), count(larger(1, (size + wanted / 2) / wanted)) {}
  int64_t at(int64_t i) const { return i == count ? size : i * size / count / 16 * 16; }
  Axis axis(int64_t i, bool backward) const { return {size, at(i), at(i + 1), backward}; }
  int64_t largest() const {
    int64_t most = 0;
    for (int64_t i = 0; i < count; ++i) most = larger(most, at(i + 1) - at(i));
    return most;
  }
};

inline int64_t reflect(int64_t i, int64_t size) {
  return i < 0 ? -i : i >= size ? 2 * (size - 1) - i : i;
}

// tile[j, i] = the image at (map_begin - 3 + j, map_begin - 3 + i), reflected at its borders. kUnit
// elements a column; cell(y, x, count) gives `count` columns of a plane or one pixel.
template <int64_t kUnit, typename A, typename Cell>
inline void fill_reflected(A* tile, int64_t row, const Axis& ys, const Axis& xs, Cell cell) {
  constexpr int64_t L = kLanes<A>;
  const int64_t first = xs.map_begin() - kReach, last = xs.map_end() + kReach;
  const int64_t begin = larger(0, first), end = smaller(xs.size, last);
  for (int64_t j = 0; j < ys.map() + 2 * kReach; ++j) {
    const int64_t y = reflect(ys.map_begin() - kReach + j, ys.size);
    A* out = tile + j * row - first * kUnit;  // out[x * kUnit] is column x
    if constexpr (kUnit == 1) {
      for (int64_t x = begin; x < end; x += L) store(out + x, cell(y, x, smaller(L, end - x)));
    } else {
      for (int64_t x = begin; x < end; ++x) store(out + x * kUnit, cell(y, x, kUnit));
    }
    for (int64_t k = 1; k <= kReach; ++k)
      for (int64_t u = 0; u < kUnit; ++u) {
        if (first <= -k) out[-k * kUnit + u] = out[k * kUnit + u];
        if (last > xs.size - 1 + k)
          out[(xs.size - 1 + k) * kUnit + u] = out[(xs.size - 1 - k) * kUnit + u];
      }
  }
}

// The transposed reflection: what arose in the border is added where it was reflected from. The
// tile begins at full_begin; both places are in it, since a part of a cut axis has 16 positions or
// more.
template <int64_t kUnit, typename A>
inline void fold_reflected(A* tile, int64_t row, const Axis& ys, const Axis& xs) {
  const auto at = [&](int64_t y, int64_t x) {
    return tile + (y - ys.full_begin()) * row + (x - xs.full_begin()) * kUnit;
  };
  const auto add = [](A* to, const A* from, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] += from[i];
  };
  for (int64_t y = ys.full_begin(); y < ys.full_end(); ++y)
    for (int64_t k = 1; k <= kReach; ++k) {
      if (xs.begin == 0) add(at(y, k), at(y, -k), kUnit);
      if (xs.end == xs.size) add(at(y, xs.size - 1 - k), at(y, xs.size - 1 + k), kUnit);
    }
  for (int64_t k = 1; k <= kReach; ++k) {
    const int64_t x = xs.begin, count = xs.own() * kUnit;
    if (ys.begin == 0) add(at(k, x), at(-k, x), count);
    if (ys.end == ys.size) add(at(ys.size - 1 - k, x), at(ys.size - 1 + k, x), count);
  }
}

}  // namespace
}  // namespace IBN_ISA
}  // namespace content_guided_attention
