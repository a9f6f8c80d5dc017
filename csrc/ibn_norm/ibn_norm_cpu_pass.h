// What both memory formats share on the CPU: one call's tensors, channels and stretches.
// Internal linkage throughout: compiled once per instruction set. See ibn_norm_cpu.cpp.
#pragma once
#include <cmath>

#include "ibn_norm_cpu.h"
#include "ibn_norm_cpu_span.h"

namespace ibn_norm {
namespace IBN_ISA {
namespace {

constexpr int64_t kBlock = 2048;              // values worked on at a time, in L1
constexpr int64_t kStreamBytes = 24ll << 20;  // results above this are not found in a cache again

// Room for one Span and its results, per thread.
template <typename A>
struct Scratch {
  Buffer<A> z, residual, dy, out, out2;
  explicit Scratch(int64_t n) : z(n), residual(n), dy(n), out(n), out2(n) {}
};

template <typename T, typename A>
struct Pass {
  const Args& a;
  const T *x = static_cast<const T*>(a.x), *residual = static_cast<const T*>(a.residual);
  const T* dy = static_cast<const T*>(a.dy);
  T *y = static_cast<T*>(a.y), *dx = static_cast<T*>(a.dx);
  T* d_residual = static_cast<T*>(a.d_residual);
  A *mean = static_cast<A*>(a.mean), *var = static_cast<A*>(a.var);
  const A slope = a.act == Act::leaky_relu ? A(a.slope) : A(0);
  const int64_t instance_begin = a.instance_last ? a.C - a.instance_channels : 0;
  const int64_t instance_end = instance_begin + a.instance_channels;
  const int64_t mask_row = ((a.channels_last ? a.C : a.S) + 7) / 8;
  const bool past_cache =
      std::is_same<T, A>::value && a.N * a.C * a.S * int64_t(sizeof(T)) > kStreamBytes;

  bool instance(int64_t c) const { return c >= instance_begin && c < instance_end; }
  bool has_statistics(int64_t c) const { return instance(c) || a.batch_stats; }
  A weight(int64_t c) const { return parameter(a.in_weight, a.bn_weight, c, A(1)); }
  A bias(int64_t c) const { return parameter(a.in_bias, a.bn_bias, c, A(0)); }
  int64_t local(int64_t c) const {  // the index of c within its own parameter tensor
    return instance(c) ? c - instance_begin : c - (instance_begin == 0 ? a.instance_channels : 0);
  }
  A parameter(const void* in, const void* bn, int64_t c, A none) const {
    const A* p = static_cast<const A*>(instance(c) ? in : bn);
    return p ? p[local(c)] : none;
  }
  double inverse_deviation(int64_t n, int64_t c) const {
    return 1 / std::sqrt(double(var[n * a.C + c]) + a.eps);
  }
  int64_t group_size(int64_t c) const { return instance(c) ? 1 : a.batch_group; }
  void set_statistics(int64_t n, int64_t c, double m, double v) const {
    mean[n * a.C + c] = A(m);
    var[n * a.C + c] = A(v);
  }
  void set_running(int64_t n, int64_t c) const {
    const int64_t i = local(c);
    set_statistics(n, c, static_cast<const A*>(a.running_mean)[i],
                   static_cast<const A*>(a.running_var)[i]);
  }
  void move_channel(int64_t c) const {  // after set_statistics of the whole batch
    if (a.moves && !instance(c)) move_running(a, local(c), mean[c], var[c], a.N * a.S);
  }
  void set_parameter_gradients(int64_t c, double d_weight, double d_bias) const {
    A* w = static_cast<A*>(instance(c) ? a.d_in_weight : a.d_bn_weight);
    A* b = static_cast<A*>(instance(c) ? a.d_in_bias : a.d_bn_bias);
    w[local(c)] = A(d_weight);
    b[local(c)] = A(d_bias);
  }

  const A* normalized_input(int64_t offset, int64_t n, const Scratch<A>& scratch) const {
    const A* z = fetch(x + offset, n, scratch.z.get());
    if (!residual || !a.residual_first) return z;
    const A* r = fetch(residual + offset, n, scratch.residual.get());
    for (int64_t i = 0; i < n; ++i) scratch.z[i] = z[i] + r[i];
    return scratch.z.get();
  }

  // n values, or rows of n; `bit` is the first one's index in its row of the mask, a multiple of 8
  Span<A> span(int64_t offset, int64_t n, int64_t rows, int64_t mask_index, int64_t bit,
               const Scratch<A>& s) const {
    const bool added = residual && !a.residual_first;
    return {normalized_input(offset, n * rows, s),
            added ? fetch(residual + offset, n * rows, s.residual.get()) : nullptr,
            dy ? fetch(dy + offset, n * rows, s.dy.get()) : nullptr,
            a.mask ? a.mask + mask_index * mask_row + bit / 8 : nullptr,
            n,
            rows,
            mask_row};
  }

  bool streams(const T* p) const {
    return past_cache && reinterpret_cast<uintptr_t>(p) % kVectorBytes == 0 &&
           (!a.channels_last || a.C % kLanes<A> == 0);
  }

  template <Act act, Kind kind>
  void normalize_span(int64_t offset, const Span<A>& s, Affine<A> k, const Scratch<A>& b) const {
    A* out = target(y + offset, b.out.get());
    normalize<act, kind>(s, out, k, slope, streams(y + offset));
    put(y + offset, out, s.n * s.rows);
  }

  template <Act act, Kind kind>
  void differentiate_span(int64_t offset, const Span<A>& s, Affine<A> k,
                          const Scratch<A>& b) const {
    A* out = target(dx + offset, b.out.get());
    A* out2 = d_residual ? target(d_residual + offset, b.out2.get()) : nullptr;
    differentiate<act, kind>(s, out, out2, k, slope, streams(dx + offset));
    put(dx + offset, out, s.n * s.rows);
    if (d_residual) put(d_residual + offset, out2, s.n * s.rows);
  }
};

}  // namespace
}  // namespace IBN_ISA
}  // namespace ibn_norm
