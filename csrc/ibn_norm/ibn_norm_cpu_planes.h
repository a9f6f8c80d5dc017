// ibn_norm on contiguous activations, [N, C, S]: a task is a channel, or a few of one kind where
// planes are small. It is read for the statistics, then again, last image first, from the cache.
#pragma once
#include "ibn_norm_cpu_pass.h"

namespace ibn_norm {
namespace IBN_ISA {
namespace {

constexpr int64_t kTogether = 32;            // channels of a task, where planes are small,
constexpr int64_t kStretchBytes = 32 << 10;  // to read this much of an image at a time
constexpr int64_t kGroupBytes = 256 << 10;   // and find this much of a batch in the cache again

template <typename T, typename A>
struct Planes : Pass<T, A> {
  using Base = Pass<T, A>;
  using Base::a, Base::mean, Base::has_statistics, Base::instance_begin, Base::instance_end,
      Base::weight, Base::bias, Base::group_size, Base::inverse_deviation, Base::set_statistics,
      Base::set_running, Base::move_channel, Base::set_parameter_gradients, Base::slope,
      Base::normalized_input, Base::span;

  struct Channels {
    int64_t begin, end;
  };

  int64_t together() const {  // channels of a task: memory is read in stretches of many planes
    int64_t wanted = kStretchBytes / (a.S * int64_t(sizeof(T)));
    const int64_t cached = kGroupBytes / (a.S * int64_t(sizeof(T)) * a.batch_group);
    wanted = wanted < cached ? wanted : cached;
    return wanted < 1 ? 1 : wanted < kTogether ? wanted : kTogether;
  }
  int64_t tasks_before(int64_t channels) const { return (channels + together() - 1) / together(); }
  int64_t channel_tasks() const {
    return tasks_before(instance_begin) + tasks_before(a.instance_channels) +
           tasks_before(a.C - instance_end);
  }
  Channels channels(int64_t task) const {
    const int64_t bounds[] = {0, instance_begin, instance_end, a.C};
    for (int part = 0; part < 3; ++part) {
      const int64_t tasks = tasks_before(bounds[part + 1] - bounds[part]);
      const int64_t begin = bounds[part] + task * together(), end = begin + together();
      if (task < tasks) return {begin, end < bounds[part + 1] ? end : bounds[part + 1]};
      task -= tasks;
    }
    return {0, 0};
  }

  int64_t plane(int64_t n, int64_t c) const { return (n * a.C + c) * a.S; }

  template <typename F>  // f(begin, count) over the blocks of a plane
  void for_blocks(F f) const {
    for (int64_t s = 0; s < a.S; s += kBlock) f(s, a.S - s < kBlock ? a.S - s : kBlock);
  }

  Span<A> block(int64_t n, int64_t c, int64_t s, int64_t count, const Scratch<A>& b) const {
    return span(plane(n, c) + s, count, 1, n * a.C + c, s, b);
  }

  struct Constants {  // the coefficients of one channel
    A mean, scale, bias, c1, c2;
    Affine<A> affine() const { return {&mean, &scale, &bias, &c1, &c2}; }
  };
  Constants constants(int64_t n, int64_t c) const {
    const A scale = A(double(weight(c)) * inverse_deviation(n, c));
    return {mean[n * a.C + c], scale, bias(c), A(0), A(0)};
  }

  template <Act act>
  void forward_channels(Channels range, const Scratch<A>& b) const {
    const auto [c0, c1] = range;
    Constants k[kTogether];
    for (int64_t n0 = 0; n0 < a.N; n0 += group_size(c0)) {
      const int64_t n1 = n0 + group_size(c0) < a.N ? n0 + group_size(c0) : a.N;
      if (has_statistics(c0)) {
        PlaneMoments<A> moments[kTogether];
        for (int64_t n = n0; n < n1; ++n)
          for (int64_t c = c0; c < c1; ++c)
            for_blocks([&](int64_t s, int64_t count) {
              moments[c - c0].add(normalized_input(plane(n, c) + s, count, b), count);
            });
        for (int64_t c = c0; c < c1; ++c) {
          const Moments m = moments[c - c0].finish();
          for (int64_t n = n0; n < n1; ++n) set_statistics(n, c, m.mean, m.m2 / m.count);
          move_channel(c);
        }
      } else {
        for (int64_t n = n0; n < n1; ++n)
          for (int64_t c = c0; c < c1; ++c) set_running(n, c);
      }
      for (int64_t c = c0; c < c1; ++c) k[c - c0] = constants(n0, c);
      for (int64_t n = n1 - 1; n >= n0; --n)
        for (int64_t c = c0; c < c1; ++c)
          for_blocks([&](int64_t s, int64_t count) {
            const Span<A> v = block(n, c, s, count, b);
            this->template normalize_span<act, Kind::plane>(plane(n, c) + s, v, k[c - c0].affine(),
                                                            b);
          });
    }
  }

  template <Act act>
  void backward_channels(Channels range, const Scratch<A>& b) const {
    const auto [c0, c1] = range;
    Constants k[kTogether];
    double d_weight[kTogether] = {}, d_bias[kTogether] = {};
    for (int64_t n0 = 0; n0 < a.N; n0 += group_size(c0)) {
      const int64_t n1 = n0 + group_size(c0) < a.N ? n0 + group_size(c0) : a.N;
      PlaneGradients<A> sums[kTogether];
      for (int64_t c = c0; c < c1; ++c) k[c - c0] = constants(n0, c);
      for (int64_t n = n0; n < n1; ++n)
        for (int64_t c = c0; c < c1; ++c)
          for_blocks([&](int64_t s, int64_t count) {
            const Span<A> v = block(n, c, s, count, b);
            sums[c - c0].template add<act>(v, k[c - c0].affine(), slope);
          });
      const double share = has_statistics(c0) ? 1 / double((n1 - n0) * a.S) : 0;
      for (int64_t i = 0; i < c1 - c0; ++i) {
        sums[i].flush();
        const double inverse = inverse_deviation(n0, c0 + i);
        d_weight[i] += sums[i].gx * inverse;
        d_bias[i] += sums[i].g;
        k[i].c1 = A(sums[i].g * share);
        k[i].c2 = A(sums[i].gx * share * inverse * inverse);
      }
      for (int64_t n = n1 - 1; n >= n0; --n)
        for (int64_t c = c0; c < c1; ++c)
          for_blocks([&](int64_t s, int64_t size) {
            const Span<A> v = block(n, c, s, size, b);
            this->template differentiate_span<act, Kind::plane>(plane(n, c) + s, v,
                                                                k[c - c0].affine(), b);
          });
    }
    for (int64_t c = c0; c < c1; ++c) set_parameter_gradients(c, d_weight[c - c0], d_bias[c - c0]);
  }
};

}  // namespace
}  // namespace IBN_ISA
}  // namespace ibn_norm
