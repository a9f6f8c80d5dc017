// Matrices of float turned by blocks in registers. Internal linkage: compiled once per instruction
// set. No torch header.
#pragma once
#include "cpu_vector.h"

namespace {

#if defined(__AVX512F__)
// to[j * to_step + i] = from[i][j] * factor, i, j < 16.
inline void transpose_block(const float* const* from, float* to, int64_t to_step, float factor) {
  __m512 r[16], t[16];
  for (int i = 0; i < 16; ++i)
    r[i] = _mm512_mul_ps(_mm512_loadu_ps(from[i]), _mm512_set1_ps(factor));
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  const auto low = [](__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
  const auto high = [](__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
  for (int i = 0; i < 16; i += 4) {  // r[i + k]: columns k, 4 + k, 8 + k, 12 + k of rows i to i + 3
    r[i] = low(t[i], t[i + 2]), r[i + 1] = high(t[i], t[i + 2]);
    r[i + 2] = low(t[i + 1], t[i + 3]), r[i + 3] = high(t[i + 1], t[i + 3]);
  }
  for (int k = 0; k < 4; ++k) {
    const __m512 a = _mm512_shuffle_f32x4(r[k], r[4 + k], 0x88),
                 b = _mm512_shuffle_f32x4(r[k], r[4 + k], 0xdd),
                 c = _mm512_shuffle_f32x4(r[8 + k], r[12 + k], 0x88),
                 d = _mm512_shuffle_f32x4(r[8 + k], r[12 + k], 0xdd);
    _mm512_storeu_ps(to + k * to_step, _mm512_shuffle_f32x4(a, c, 0x88));
    _mm512_storeu_ps(to + (4 + k) * to_step, _mm512_shuffle_f32x4(b, d, 0x88));
    _mm512_storeu_ps(to + (8 + k) * to_step, _mm512_shuffle_f32x4(a, c, 0xdd));
    _mm512_storeu_ps(to + (12 + k) * to_step, _mm512_shuffle_f32x4(b, d, 0xdd));
  }
}
#endif

// to[j * to_step + i] = from[i][j] * factor for i < kLanes<float> and j < count.
inline void transpose(const float* const* from, int64_t count, float* to, int64_t to_step,
                      float factor) {
  int64_t j = 0;
#if defined(__AVX512F__)
  for (; j + 16 <= count; j += 16) {
    const float* block[16];
    for (int i = 0; i < 16; ++i) block[i] = from[i] + j;
    transpose_block(block, to + j * to_step, to_step, factor);
  }
#endif
  for (; j < count; ++j)
    for (int64_t i = 0; i < kLanes<float>; ++i) to[j * to_step + i] = from[i][j] * factor;
}

}  // namespace
