// Vectors of the instruction set this file is compiled for, and conversions of 16-bit floats.
// Everything has internal linkage: the same names are compiled once per instruction set.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename A>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef int32_t integer;
  typedef int32_t bits __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef int64_t integer;
  typedef int64_t bits __attribute__((vector_size(kVectorBytes)));
};
template <typename A>
using Vec = typename VectorOf<A>::type;
template <typename A>
constexpr int64_t kLanes = kVectorBytes / sizeof(A);

template <typename A>
inline Vec<A> splat(A value) {
  return value - Vec<A>{};
}

template <typename A>
inline Vec<A> load(const A* p) {
  Vec<A> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// The first `count` lanes; the others are 0. Nothing is read behind them.
inline Vec<float> load_first(const float* p, int64_t count) {
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p);
#else
  Vec<float> v{};
  for (int64_t i = 0; i < count; ++i) v[i] = p[i];
  return v;
#endif
}
inline Vec<double> load_first(const double* p, int64_t count) {
  Vec<double> v{};
  for (int64_t i = 0; i < count; ++i) v[i] = p[i];
  return v;
}

template <typename A>
inline Vec<A> first_lanes(Vec<A> v, int64_t count) {  // the others become 0
  typename VectorOf<A>::bits lane;
  for (int64_t i = 0; i < kLanes<A>; ++i) lane[i] = i;
  return lane < typename VectorOf<A>::integer(count) ? v : Vec<A>{};
}

template <typename A>
inline void store(A* p, Vec<A> v) {
  std::memcpy(p, &v, sizeof v);
}

inline void store_first(float* p, Vec<float> v, int64_t count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), v);
#else
  for (int64_t i = 0; i < count; ++i) p[i] = v[i];
#endif
}
inline void store_first(double* p, Vec<double> v, int64_t count) {
  for (int64_t i = 0; i < count; ++i) p[i] = v[i];
}

// Past the caches: for results too large to be found there again. p is aligned to the vector.
template <typename A>
inline void stream(A* p, Vec<A> v) {
#if defined(__AVX512F__)
  __m512i raw;
  std::memcpy(&raw, &v, sizeof v);
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), raw);
#elif defined(__AVX2__)
  __m256i raw;
  std::memcpy(&raw, &v, sizeof v);
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), raw);
#else
  store(p, v);
#endif
}

// Bit i: whether lane i is positive.
template <typename A>
inline uint32_t positive_lanes(Vec<A> v) {
  uint32_t bits = 0;
  for (int64_t i = 0; i < kLanes<A>; ++i) bits |= uint32_t(v[i] > 0) << i;
  return bits;
}
#if defined(__AVX512F__)
template <>
inline uint32_t positive_lanes<float>(Vec<float> v) {
  return _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GT_OQ);
}
#elif defined(__AVX2__)
template <>
inline uint32_t positive_lanes<float>(Vec<float> v) {
  return _mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_GT_OQ));
}
#endif

// The bits of `count` lanes that start at element i, a multiple of the vector, of a row of bits;
// those behind the row's end are 0.
template <typename A>
inline void store_bits(uint8_t* row, int64_t i, uint32_t bits, int64_t count) {
  bits &= (1u << count) - 1;
  if (i % 8)
    row[i / 8] |= uint8_t(bits << (i % 8));
  else
    row[i / 8] = uint8_t(bits);
  if (kLanes<A> > 8 && count > 8) row[i / 8 + 1] = uint8_t(bits >> 8);
}

template <typename A>
inline typename VectorOf<A>::bits load_bits(const uint8_t* row, int64_t i, int64_t count) {
  using Bits = typename VectorOf<A>::bits;
  uint32_t word = row[i / 8] >> (i % 8);
  if (kLanes<A> > 8 && count > 8) word |= uint32_t(row[i / 8 + 1]) << 8;
  Bits lane;
  for (int64_t j = 0; j < kLanes<A>; ++j) lane[j] = 1 << j;
  return (lane & (Bits{} + word)) != 0;
}

inline float sum(Vec<float> v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(v);
#else
  for (int64_t width = kLanes<float> / 2; width > 0; width /= 2)
    for (int64_t i = 0; i < width; ++i) v[i] += v[i + width];
  return v[0];
#endif
}
inline double sum(Vec<double> v) {
  double total = 0;
  for (int64_t i = 0; i < kLanes<double>; ++i) total += v[i];
  return total;
}

// e^x to 2 ulp (float) or 1e-15 (double); x is clamped to where the result is finite and normal.
template <typename A>
inline Vec<A> exponential(Vec<A> x) {
  constexpr bool is_float = sizeof(A) == 4;
  const A limit = is_float ? A(87) : A(708);
  x = x > limit ? splat<A>(limit) : x;
  x = x < -limit ? splat<A>(-limit) : x;
  const Vec<A> magic = splat<A>(is_float ? A(12582912.0) : A(6755399441055744.0));  // 1.5 * 2^p
  const Vec<A> k = (x * A(1.4426950408889634) + magic) - magic;
  Vec<A> r = x - k * (is_float ? A(0.693359375) : A(6.93147180369123816490e-01));
  r = r - k * (is_float ? A(-2.12194440e-4) : A(1.90821492927058770002e-10));
  Vec<A> p = splat<A>(A(1));
  for (int i = is_float ? 7 : 13; i > 0; --i) p = p * r * (A(1) / A(i)) + A(1);
  using Bits = typename VectorOf<A>::bits;
  const Bits exponent = __builtin_convertvector(k, Bits) + (is_float ? 127 : 1023);
  const Bits raw = exponent << (is_float ? 23 : 52);
  Vec<A> power;
  std::memcpy(&power, &raw, sizeof raw);
  return p * power;
}

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float widen(BFloat16 v) { return bits_to_float(uint32_t(v.bits) << 16); }

inline BFloat16 narrow(float value, BFloat16) {  // to nearest even, NaN stays NaN
  const uint32_t bits = float_to_bits(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return {uint16_t((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded)};
}

inline float widen(Half v) {
  const uint32_t sign = uint32_t(v.bits & 0x8000) << 16, rest = uint32_t(v.bits & 0x7fff) << 13;
  // scaling by 2^112 moves the exponent and makes subnormals exact
  const float value = bits_to_float(rest) * bits_to_float(0x77800000);
  const uint32_t special = rest >= 0x0f800000 ? 0x7f800000 : 0;  // infinity and NaN
  return bits_to_float(sign | float_to_bits(value) | special);
}

inline Half narrow(float value, Half) {
  const uint32_t bits = float_to_bits(value), sign = (bits >> 16) & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return {uint16_t(sign | 0x7e00)};
  if (magnitude >= 0x477ff000) return {uint16_t(sign | 0x7c00)};  // rounds to infinity
  if (magnitude < 0x38800000) {  // subnormal: the addition rounds to nearest even
    const float shifted = bits_to_float(magnitude) + 0.5f;
    return {uint16_t(sign | (float_to_bits(shifted) - 0x3f000000))};
  }
  return {uint16_t(sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13))};
}

// Values as the arithmetic type: p itself where storage is that type, else converted into buffer.
inline const float* fetch(const float* p, int64_t, float*) { return p; }
inline const double* fetch(const double* p, int64_t, double*) { return p; }

inline const float* fetch(const BFloat16* p, int64_t n, float* buffer) {
  for (int64_t i = 0; i < n; ++i) buffer[i] = widen(p[i]);
  return buffer;
}

inline const float* fetch(const Half* p, int64_t n, float* buffer) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i));
    _mm256_storeu_ps(buffer + i, _mm256_cvtph_ps(raw));
  }
#endif
  for (; i < n; ++i) buffer[i] = widen(p[i]);
  return buffer;
}

inline void put(BFloat16* p, const float* values, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = narrow(values[i], BFloat16{});
}

inline void put(Half* p, const float* values, int64_t n) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    const __m128i raw = _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + i), raw);
  }
#endif
  for (; i < n; ++i) p[i] = narrow(values[i], Half{});
}

// Where results of n values are computed: in place, or in a buffer that `put` converts.
inline float* target(float* p, float*) { return p; }
inline double* target(double* p, double*) { return p; }
inline float* target(BFloat16*, float* buffer) { return buffer; }
inline float* target(Half*, float* buffer) { return buffer; }
inline void put(float*, const float*, int64_t) {}
inline void put(double*, const double*, int64_t) {}

}  // namespace
