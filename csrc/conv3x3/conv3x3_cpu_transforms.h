// The three transforms of Winograd's F(2x2, 3x3) in vectors of channels: README.md here.
// Internal linkage throughout: compiled once per instruction set.
#pragma once
#include "../cpu_vector.h"
#include "conv3x3.h"

namespace conv3x3 {
namespace IBN_ISA {
namespace {

using V = Vec<float>;
constexpr int64_t L = kLanes<float>;
constexpr int64_t kPoints = 16;  // of a transformed tile: 4 x 4

// The kernel g of L output channels and one input channel: out[4 r + c] = (G g G^T)[r, c].
inline void transform_kernel(const Args& a, int64_t o, int64_t i, V* out) {
  alignas(kVectorBytes) float taps[9][L];
  for (int64_t lane = 0; lane < L; ++lane) {
    const float* from = a.weight + (o + lane) * 9 * a.I + i * a.of_input;
    for (int64_t tap = 0; tap < 9; ++tap) taps[tap][lane] = from[tap * a.of_tap];
  }
  V half[4][3];
  for (int c = 0; c < 3; ++c) {
    const V first = load(taps[c]), last = load(taps[6 + c]);
    const V outer = 0.5f * (first + last), inner = 0.5f * load(taps[3 + c]);
    half[0][c] = first, half[1][c] = outer + inner, half[2][c] = outer - inner, half[3][c] = last;
  }
  for (int r = 0; r < 4; ++r) {
    const V outer = 0.5f * (half[r][0] + half[r][2]), inner = 0.5f * half[r][1];
    out[4 * r] = half[r][0], out[4 * r + 1] = outer + inner;
    out[4 * r + 2] = outer - inner, out[4 * r + 3] = half[r][2];
  }
}

// One column d of a tile's 4 x 4 pixels: B^T d.
inline void transform_column(const V* d, V* out) {
  out[0] = d[0] - d[2], out[1] = d[1] + d[2], out[2] = d[2] - d[1], out[3] = d[1] - d[3];
}

// The same along the rows, from such columns: out[(4 r + c) * plane] = (B^T d B)[r, c].
inline void transform_rows(const V (*columns)[4], float* out, int64_t plane) {
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    float* to = out + 4 * r * plane;
    store(to, columns[0][r] - columns[2][r]);
    store(to + plane, columns[1][r] + columns[2][r]);
    store(to + 2 * plane, columns[2][r] - columns[1][r]);
    store(to + 3 * plane, columns[1][r] - columns[3][r]);
  }
}

// The 2 x 2 results of a tile: out[2 r + c] = (A^T m A)[r, c] for m[r, c] = in[(4 r + c) * plane].
inline void transform_back(const float* in, int64_t plane, V* out) {
  V half[2][4];
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const float* from = in + c * plane;
    const V first = load(from), second = load(from + 4 * plane), third = load(from + 8 * plane);
    half[0][c] = first + second + third;
    half[1][c] = second - third - load(from + 12 * plane);
  }
  for (int r = 0; r < 2; ++r) {
    out[2 * r] = half[r][0] + half[r][1] + half[r][2];
    out[2 * r + 1] = half[r][1] - half[r][2] - half[r][3];
  }
}

}  // namespace
}  // namespace IBN_ISA
}  // namespace conv3x3
