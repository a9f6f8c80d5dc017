// Arithmetic on one stretch of a plane or on a few pixels, in L1; everything in the vector type.
// Internal linkage throughout: compiled once per instruction set. See ibn_norm_cpu.cpp.
#pragma once
#include <cstdlib>
#include <new>
#include <type_traits>

#include "../cpu_vector.h"
#include "ibn_norm.h"

namespace ibn_norm {
namespace IBN_ISA {
namespace {

template <typename A>
class Buffer {  // 64-byte aligned, with room to load one vector past the end
 public:
  explicit Buffer(int64_t count)
      : p_(static_cast<A*>(std::aligned_alloc(64, (count * sizeof(A) / 64 + 2) * 64))) {
    if (!p_) throw std::bad_alloc();
  }
  ~Buffer() { std::free(p_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  A* get() const { return p_; }
  A& operator[](int64_t i) const { return p_[i]; }

 private:
  A* p_;
};

struct Moments {  // of `count` values: mean and sum of squared deviations
  double count = 0, mean = 0, m2 = 0;
  void merge(const Moments& more) {  // Chan's formula
    if (count == 0) {
      *this = more;
      return;
    }
    const double share = more.count / (count + more.count), delta = more.mean - mean;
    mean += delta * share;
    m2 += more.m2 + delta * delta * (count * share);
    count += more.count;
  }
};

// What normalizes: n = (z - mean) * scale + bias. The backward adds c1 = mean(g) and
// c2 = mean(g * (z - mean)) / (var + eps). One value for a plane, arrays over channels for pixels.
template <typename A>
struct Affine {
  const A *mean, *scale, *bias, *c1, *c2;
};

// Converted to the arithmetic type: one row of n values of a plane, or `rows` pixels of n channels.
template <typename A>
struct Span {
  const A *z, *residual, *dy;  // residual only where it is added after the norm
  uint8_t* mask;
  int64_t n, rows, mask_row;
};

enum class Kind { plane, pixels };  // of one channel, or of all

// One coefficient as a vector: held in a register for a plane, loaded for pixels.
template <Kind kind, typename A>
class Coefficient {
 public:
  explicit Coefficient(const A* p) : p_(p) {
    if constexpr (kind == Kind::plane) value_ = splat<A>(*p);
  }
  Vec<A> at(int64_t i) const {
    if constexpr (kind == Kind::plane) return value_;
    return load(p_ + i);
  }

 private:
  const A* p_;
  Vec<A> value_;
};

template <typename A>
inline Vec<A> load_some(const A* p, int64_t count) {
  return count == kLanes<A> ? load(p) : load_first(p, count);
}

template <typename A>
inline void store_some(A* p, Vec<A> v, int64_t count) {
  count == kLanes<A> ? store(p, v) : store_first(p, v, count);
}

// f(i, count, chain) for every vector of [0, n); count < kLanes only for the last. Neighbours get
// different chains, for sums that do not wait for each other.
template <int chains, typename A, typename F>
inline void for_vectors(int64_t n, F f) {
  int64_t i = 0;
  for (; i + chains * kLanes<A> <= n; i += chains * kLanes<A>) {
    f(i, kLanes<A>, 0);
    if constexpr (chains == 2) f(i + kLanes<A>, kLanes<A>, 1);
  }
  for (; i + kLanes<A> <= n; i += kLanes<A>) f(i, kLanes<A>, 0);
  if (i < n) f(i, n - i, 0);
}
#define IBN_NORM_INLINE __attribute__((always_inline))

template <Act act, typename A>
inline Vec<A> activate(Vec<A> v, A slope) {
  if constexpr (act == Act::relu) return v > A(0) ? v : Vec<A>{};
  if constexpr (act == Act::leaky_relu) return v > A(0) ? v : v * slope;
  if constexpr (act == Act::silu) return v / (A(1) + exponential<A>(-v));
  return v;
}

template <Act act, typename A>  // dy times the derivative of the activation at v
inline Vec<A> through_activation(Vec<A> v, Vec<A> dy, A slope) {
  if constexpr (act == Act::relu) return v > A(0) ? dy : Vec<A>{};
  if constexpr (act == Act::leaky_relu) return v > A(0) ? dy : dy * slope;
  if constexpr (act == Act::silu) {
    const Vec<A> s = A(1) / (A(1) + exponential<A>(-v));
    return dy * s * (A(1) + v * (A(1) - s));
  }
  return dy;
}

template <typename F>
inline void with_act(Act act, F f) {  // run-time activation to compile-time, outside the loops
  switch (act) {
    case Act::relu:
      return f(std::integral_constant<Act, Act::relu>{});
    case Act::leaky_relu:
      return f(std::integral_constant<Act, Act::leaky_relu>{});
    case Act::silu:
      return f(std::integral_constant<Act, Act::silu>{});
    default:
      return f(std::integral_constant<Act, Act::none>{});
  }
}

template <Act act, Kind kind, typename A>
inline void normalize(Span<A> s, A* y, Affine<A> k, A slope, bool past_cache) {
  const Coefficient<kind, A> means(k.mean), scales(k.scale), biases(k.bias);
  for (int64_t row = 0; row < (kind == Kind::plane ? 1 : s.rows); ++row) {
    for_vectors<1, A>(s.n, [&](int64_t i, int64_t count, int) IBN_NORM_INLINE {
      const int64_t j = row * s.n + i;
      Vec<A> v = (load_some(s.z + j, count) - means.at(i)) * scales.at(i) + biases.at(i);
      if (s.residual) v += load_some(s.residual + j, count);
      if (s.mask) store_bits<A>(s.mask + row * s.mask_row, i, positive_lanes<A>(v), count);
      v = activate<act, A>(v, slope);
      if (past_cache && count == kLanes<A>)
        stream(y + j, v);
      else
        store_some(y + j, v, count);
    });
  }
}

template <typename A>
struct Gradient {
  Vec<A> centered, g;  // z - mean and the gradient behind the activation
};

template <Act act, typename A>
inline Gradient<A> gradient(Span<A> s, int64_t row, int64_t i, int64_t count, Vec<A> mean,
                            Vec<A> scale, Vec<A> bias, A slope) {
  const int64_t j = row * s.n + i;
  const Vec<A> centered = load_some(s.z + j, count) - mean;
  const Vec<A> dy = load_some(s.dy + j, count);  // 0 past the end, so that g is 0 there
  if (s.mask)
    return {centered, load_bits<A>(s.mask + row * s.mask_row, i, count) ? dy : dy * slope};
  Vec<A> v = centered * scale + bias;
  if (s.residual) v += load_some(s.residual + j, count);
  return {centered, through_activation<act, A>(v, dy, slope)};
}

template <Act act, Kind kind, typename A>
inline void differentiate(Span<A> s, A* dx, A* d_residual, Affine<A> k, A slope, bool past_cache) {
  const Coefficient<kind, A> means(k.mean), scales(k.scale), biases(k.bias), c1s(k.c1), c2s(k.c2);
  for (int64_t row = 0; row < (kind == Kind::plane ? 1 : s.rows); ++row) {
    for_vectors<1, A>(s.n, [&](int64_t i, int64_t count, int) IBN_NORM_INLINE {
      const int64_t j = row * s.n + i;
      const Vec<A> scale = scales.at(i);
      const auto [centered, g] =
          gradient<act>(s, row, i, count, means.at(i), scale, biases.at(i), slope);
      if (d_residual) store_some(d_residual + j, g, count);
      const Vec<A> v = scale * (g - c1s.at(i) - centered * c2s.at(i));
      if (past_cache && count == kLanes<A>)
        stream(dx + j, v);
      else
        store_some(dx + j, v, count);
    });
  }
}

// Sums over the planes of a group, in vectors that are emptied into double every kFlush values.
constexpr int64_t kFlush = 4096;

template <typename A>
struct PlaneGradients {
  double g = 0, gx = 0;  // of g and of g * (z - mean)
  Vec<A> g_sum[2] = {}, gx_sum[2] = {};
  int64_t pending = 0;

  template <Act act>
  void add(Span<A> s, Affine<A> k, A slope) {
    const Vec<A> mean = splat<A>(*k.mean), scale = splat<A>(*k.scale), bias = splat<A>(*k.bias);
    Vec<A> total_g[2] = {g_sum[0], g_sum[1]}, total_gx[2] = {gx_sum[0], gx_sum[1]};
    for_vectors<2, A>(s.n, [&](int64_t i, int64_t count, int chain) IBN_NORM_INLINE {
      const auto [centered, behind] = gradient<act>(s, 0, i, count, mean, scale, bias, slope);
      total_g[chain] += behind;
      total_gx[chain] += behind * centered;
    });
    for (int chain = 0; chain < 2; ++chain) {
      g_sum[chain] = total_g[chain];
      gx_sum[chain] = total_gx[chain];
    }
    pending += s.n;
    if (pending >= kFlush) flush();
  }

  void flush() {
    g += sum(g_sum[0] + g_sum[1]);
    gx += sum(gx_sum[0] + gx_sum[1]);
    for (int chain = 0; chain < 2; ++chain) g_sum[chain] = gx_sum[chain] = Vec<A>{};
    pending = 0;
  }
};

template <typename A>
struct PlaneMoments {
  Moments total;
  Vec<A> s1[2] = {}, s2[2] = {};  // of z - pilot and of its square
  A pilot = 0;
  int64_t pending = 0;

  void add(const A* z, int64_t n) {
    if (pending == 0) choose_pilot(z, n);
    const Vec<A> shift = splat<A>(pilot);
    Vec<A> total1[2] = {s1[0], s1[1]}, total2[2] = {s2[0], s2[1]};
    for_vectors<2, A>(n, [&](int64_t i, int64_t count, int chain) IBN_NORM_INLINE {
      Vec<A> d = load_some(z + i, count) - shift;
      if (count < kLanes<A>) d = first_lanes<A>(d, count);
      total1[chain] += d;
      total2[chain] += d * d;
    });
    for (int chain = 0; chain < 2; ++chain) s1[chain] = total1[chain], s2[chain] = total2[chain];
    pending += n;
    if (pending >= kFlush) flush();
  }

  void choose_pilot(const A* z, int64_t n) {
    const int64_t first = n < 4 * kLanes<A> ? n : 4 * kLanes<A>;
    Vec<A> head{};
    for_vectors<1, A>(first, [&](int64_t i, int64_t count, int)
                                 IBN_NORM_INLINE { head += load_some(z + i, count); });
    pilot = A(sum(head) / double(first));
  }

  Moments finish() {
    flush();
    return total;
  }

  void flush() {
    if (pending == 0) return;
    const double total1 = sum(s1[0] + s1[1]);
    const double total2 = sum(s2[0] + s2[1]);
    const double shift = total1 / double(pending);
    total.merge({double(pending), pilot + shift, total2 - shift * total1});
    for (int chain = 0; chain < 2; ++chain) s1[chain] = s2[chain] = Vec<A>{};
    pending = 0;
  }
};

// f(first row, compile-time count of rows): few channels are summed over four pixels at a time, to
// spare the accumulators in memory; the pixels of many are read in order.
template <typename F>
inline void for_rows(int64_t rows, int64_t n, F f) {
  constexpr int64_t few = 128;
  int64_t row = 0;
  for (; n <= few && row + 4 <= rows; row += 4) f(row, std::integral_constant<int, 4>{});
  for (; row < rows; ++row) f(row, std::integral_constant<int, 1>{});
}

template <Act act, typename A>  // per channel, in arrays that hold whole vectors
inline void add_pixel_gradients(A* g_sum, A* gx_sum, Span<A> s, Affine<A> k, A slope) {
  for_rows(s.rows, s.n, [&](int64_t first, auto together) {
    for_vectors<1, A>(s.n, [&](int64_t i, int64_t count, int) IBN_NORM_INLINE {
      const Vec<A> mean = load(k.mean + i), scale = load(k.scale + i), bias = load(k.bias + i);
      Vec<A> total_g = load(g_sum + i), total_gx = load(gx_sum + i);
      for (int row = 0; row < together(); ++row) {
        const auto [centered, g] =
            gradient<act>(s, first + row, i, count, mean, scale, bias, slope);
        total_g += g;
        total_gx += g * centered;
      }
      store(g_sum + i, total_g);
      store(gx_sum + i, total_gx);
    });
  });
}

template <typename A>  // sums of z - pilot and its square for n channels of `rows` pixels
inline void add_pixel_moments(A* s1, A* s2, const A* pilot, const A* z, int64_t n, int64_t rows,
                              int64_t stride) {
  for_rows(rows, n, [&](int64_t first, auto together) {
    for_vectors<1, A>(n, [&](int64_t i, int64_t count, int) IBN_NORM_INLINE {
      const Vec<A> shift = load(pilot + i);
      Vec<A> total1 = load(s1 + i), total2 = load(s2 + i);
      for (int row = 0; row < together(); ++row) {
        const Vec<A> d = load_some(z + (first + row) * stride + i, count) - shift;
        total1 += d;
        total2 += d * d;
      }
      store(s1 + i, total1);
      store(s2 + i, total2);
    });
  });
}

}  // namespace
}  // namespace IBN_ISA
}  // namespace ibn_norm
