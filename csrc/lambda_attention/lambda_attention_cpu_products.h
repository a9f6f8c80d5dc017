// The two products of attention, with the tile's own tokens in the lanes of two vectors and the
// others' rows read number by number: no sum ever crosses lanes.
// Internal linkage throughout: compiled once per instruction set.
#pragma once
#include "../cpu_vector.h"

namespace lambda_attention {
namespace IBN_ISA {
namespace {

constexpr int64_t L = kLanes<float>, kTile = 2 * L;  // own tokens of a vector and of a tile
constexpr int kBlock = kVectorBytes == 64 ? 8 : 4;   // rows at once; lists are filled up to it
constexpr int64_t kChunk = 96;                       // rows between two looks at the softmax
constexpr float kHidden = -1e30f, kLog2E = 1.44269504f, kLn2 = 0.693147181f;

// Rows of two operands by token.
struct Others {
  const float *first, *second;
  int64_t first_step, second_step;  // floats from token to token
  const float *lse, *delta;         // one of each a token, where they are queries
};

// to[i] = start[i] + <own, row i of other>, [count][kVectors * L]; own is [D][kTile]. start[i] is
// at bias + add[i], or bias for all where add is null. count is a multiple of kBlock.
template <int kVectors>
inline void scores(const float* own, const float* other, int64_t step, const int64_t* token,
                   const float* bias, const int64_t* add, int64_t count, int64_t D, float* to) {
  for (int64_t i = 0; i < count; i += kBlock) {
    const float* row[kBlock];
    Vec<float> sum[kBlock][kVectors];
    for (int k = 0; k < kBlock; ++k) {
      row[k] = other + token[i + k] * step;
      const float* start = add ? bias + add[i + k] : bias;
      for (int v = 0; v < kVectors; ++v) sum[k][v] = load(start + v * L);
    }
    for (int64_t d = 0; d < D; ++d) {
      Vec<float> x[kVectors];
      for (int v = 0; v < kVectors; ++v) x[v] = load(own + d * kTile + v * L);
      for (int k = 0; k < kBlock; ++k) {
        const float y = row[k][d];
        for (int v = 0; v < kVectors; ++v) sum[k][v] += x[v] * y;
      }
    }
    for (int k = 0; k < kBlock; ++k)
      for (int v = 0; v < kVectors; ++v) store(to + ((i + k) * kVectors + v) * L, sum[k][v]);
  }
}

// to[d] = to[d] * shrink + sum_i weights[i] * other[i][d]; to is [D][kTile], weights
// [count][kVectors * L].
template <int kVectors>
inline void accumulate(float* to, const Vec<float> (&shrink)[kVectors], const float* weights,
                       const float* other, int64_t step, const int64_t* token, int64_t count,
                       int64_t D) {
  for (int64_t d0 = 0; d0 < D; d0 += kBlock) {
    Vec<float> sum[kBlock][kVectors];
    for (int d = 0; d < kBlock; ++d)
      for (int v = 0; v < kVectors; ++v)
        sum[d][v] = load(to + (d0 + d) * kTile + v * L) * shrink[v];
    for (int64_t i = 0; i < count; ++i) {
      Vec<float> w[kVectors];
      for (int v = 0; v < kVectors; ++v) w[v] = load(weights + (i * kVectors + v) * L);
      const float* row = other + token[i] * step + d0;
      for (int d = 0; d < kBlock; ++d) {
        const float y = row[d];
        for (int v = 0; v < kVectors; ++v) sum[d][v] += w[v] * y;
      }
    }
    for (int d = 0; d < kBlock; ++d)
      for (int v = 0; v < kVectors; ++v) store(to + (d0 + d) * kTile + v * L, sum[d][v]);
  }
}

inline Vec<float> larger(Vec<float> a, Vec<float> b) { return a > b ? a : b; }

// 2^x for x up to 126 to 2 ulp; 0 where x belongs to a hidden pair; NaN stays NaN.
inline Vec<float> power_of_two(Vec<float> x) {
  const Vec<float> least = splat<float>(-126.0f), reached = x < least ? least : x;
  const Vec<float> magic = splat<float>(12582912.0f);  // 1.5 * 2^23: rounds to an integer
  const Vec<float> whole = (reached + magic) - magic, f = reached - whole;
  Vec<float> p = f * 1.535336188319500e-4f + 1.339887440266574e-3f;
  p = p * f + 9.618437357674640e-3f;
  p = p * f + 5.550332471162809e-2f;
  p = p * f + 2.402264791363012e-1f;
  p = p * f + 6.931472028550421e-1f;
  p = p * f + 1.0f;
  using Bits = VectorOf<float>::bits;
  Bits raw;
  std::memcpy(&raw, &p, sizeof p);
  raw += __builtin_convertvector(whole, Bits) << 23;
  std::memcpy(&p, &raw, sizeof p);
  return x < splat<float>(kHidden / 2) ? Vec<float>{} : p;
}

}  // namespace
}  // namespace IBN_ISA
}  // namespace lambda_attention
