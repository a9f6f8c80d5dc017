// The 49 taps on tiles in cache, for both memory formats and every storage type. A cell is one
// vector: kLanes columns of a plane, or kLanes channels of a pixel (channels_last). A tile is rows
// of cells; the next column lies `step` elements on: 1 in a plane, kLanes among pixels. Internal
// linkage throughout: compiled once per instruction set.
#pragma once
#include <type_traits>

#include "../cpu_vector.h"
#include "content_guided_attention.h"

namespace content_guided_attention {
namespace IBN_ISA {
namespace {

template <typename F>  // f(integral_constant R, first row) with R = 8, 4, 2 or 1 at compile time
inline void for_row_blocks(int64_t rows, F f) {
  int64_t j = 0;
  for (; j + 8 <= rows; j += 8) f(std::integral_constant<int, 8>{}, j);
  if (rows - j >= 4) f(std::integral_constant<int, 4>{}, j), j += 4;
  if (rows - j >= 2) f(std::integral_constant<int, 2>{}, j), j += 2;
  if (rows - j >= 1) f(std::integral_constant<int, 1>{}, j);
}

// out[j, i] = start + sum over taps of in[j + ky, i + kx] w[ky, kx]; without a start it is added to
// what out holds. kMirrored turns the kernel by 180 degrees: the transposed convolution. kSplat:
// `in` has one value where out has a cell. Eight rows at once and a column of taps: 16 registers
// hold the sums, the taps and one input, which serves up to seven sums.
template <bool kMirrored, bool kSplat, typename A>
__attribute__((noinline)) void correlate(A* out, int64_t out_row, const A* in, int64_t in_row,
                                         int64_t step, const Vec<A>* w, int64_t rows, int64_t cells,
                                         const Vec<A>* start) {
  constexpr int64_t L = kLanes<A>;
  for_row_blocks(rows, [&](auto rows_at_once, int64_t j0) {
    constexpr int R = rows_at_once();
    for (int64_t i = 0; i < cells; ++i) {
      A* to = out + j0 * out_row + i * L;
      const A* from = in + j0 * in_row + i * (kSplat ? 1 : L);
      Vec<A> sums[R];
#pragma GCC unroll 8
      for (int j = 0; j < R; ++j) sums[j] = start ? *start : load(to + j * out_row);
      for (int kx = 0; kx < 7; ++kx) {
        Vec<A> taps[7];
#pragma GCC unroll 7
        for (int ky = 0; ky < 7; ++ky)
          taps[ky] = kMirrored ? w[kTaps - 1 - 7 * ky - kx] : w[7 * ky + kx];
#pragma GCC unroll 14
        for (int k = 0; k < R + 6; ++k) {
          const A* p = from + k * in_row + kx * step;
          const Vec<A> v = kSplat ? splat<A>(*p) : load(p);
#pragma GCC unroll 8
          for (int j = 0; j < R; ++j)
            if (k - j >= 0 && k - j < 7) sums[j] += v * taps[k - j];
        }
      }
#pragma GCC unroll 8
      for (int j = 0; j < R; ++j) store(to + j * out_row, sums[j]);
    }
  });
}

// totals[ky, kx] += sum over cells of d[j, i] in[j + ky, i + kx], lane by lane. As above, a column
// of taps at once; the sums of eight rows are added to the total once.
template <bool kSplat, typename A>
__attribute__((noinline)) void correlate_gradient(Vec<A>* totals, const A* d, int64_t d_row,
                                                  const A* in, int64_t in_row, int64_t step,
                                                  int64_t rows, int64_t cells) {
  constexpr int64_t L = kLanes<A>;
  for_row_blocks(rows, [&](auto rows_at_once, int64_t j0) {
    constexpr int R = rows_at_once();
    for (int kx = 0; kx < 7; ++kx) {
      Vec<A> sums[7] = {};
      for (int64_t i = 0; i < cells; ++i) {
        const A* at = d + j0 * d_row + i * L;
        const A* from = in + j0 * in_row + i * (kSplat ? 1 : L) + kx * step;
        Vec<A> gradient[R];
#pragma GCC unroll 8
        for (int j = 0; j < R; ++j) gradient[j] = load(at + j * d_row);
#pragma GCC unroll 14
        for (int k = 0; k < R + 6; ++k) {
          const Vec<A> v = kSplat ? splat<A>(from[k * in_row]) : load(from + k * in_row);
#pragma GCC unroll 8
          for (int j = 0; j < R; ++j)
            if (k - j >= 0 && k - j < 7) sums[k - j] += v * gradient[j];
        }
      }
#pragma GCC unroll 7
      for (int ky = 0; ky < 7; ++ky) totals[7 * ky + kx] += sums[ky];
    }
  });
}

template <typename A>
inline Vec<A> sigmoid(Vec<A> v) {
  return A(1) / (A(1) + exponential<A>(-v));
}

// The first `count` values at p, zeros behind them.
template <typename A, typename T>
inline Vec<A> load_cell(const T* p, int64_t count) {
  constexpr int64_t L = kLanes<A>;
  if constexpr (std::is_same<T, A>::value) {
    return count == L ? load(p) : load_first(p, count);
  } else {
    alignas(kVectorBytes) A buffer[L] = {};
    if (count == L)
      fetch(p, L, buffer);
    else
      fetch(p, count, buffer);
    return load<A>(buffer);
  }
}

template <typename A, typename T>
inline void store_cell(T* p, Vec<A> v, int64_t count) {
  constexpr int64_t L = kLanes<A>;
  if constexpr (std::is_same<T, A>::value) {
    count == L ? store(p, v) : store_first(p, v, count);
  } else {
    alignas(kVectorBytes) A buffer[L];
    store<A>(buffer, v);
    if (count == L)
      put(p, buffer, L);
    else
      put(p, buffer, count);
  }
}

}  // namespace
}  // namespace IBN_ISA
}  // namespace content_guided_attention
