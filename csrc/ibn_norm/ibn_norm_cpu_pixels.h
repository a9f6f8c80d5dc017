// ibn_norm on channels_last activations, [N, S, C]: task t is up to kPixels pixels of one image,
// all channels at once, in two sweeps over memory, the second one backwards, so that what is still
// cached is used.
#pragma once
#include "ibn_norm_cpu_pass.h"

namespace ibn_norm {
namespace IBN_ISA {
namespace {

constexpr int64_t kPixels = 256;

template <typename T, typename A>
struct Pixels : Pass<T, A> {
  using Base = Pass<T, A>;
  using Base::a, Base::mean, Base::var, Base::instance, Base::has_statistics, Base::weight,
      Base::bias, Base::group_size, Base::inverse_deviation, Base::set_statistics,
      Base::set_running, Base::move_channel, Base::set_parameter_gradients, Base::slope,
      Base::normalized_input, Base::span, Base::instance_begin;

  int64_t tasks_per_image() const { return (a.S + kPixels - 1) / kPixels; }

  int64_t pixels(int64_t task) const {
    const int64_t first = task % tasks_per_image() * kPixels;
    return a.S - first < kPixels ? a.S - first : kPixels;
  }

  int64_t rows_at_once() const { return a.C < kBlock ? kBlock / a.C : 1; }  // pixels, in L1

  template <typename F>  // f(first pixel counted over all images, number of pixels)
  void for_pixels(int64_t task, F f) const {
    const int64_t first = task / tasks_per_image() * a.S + task % tasks_per_image() * kPixels;
    const int64_t last = first + pixels(task), step = rows_at_once();
    for (int64_t pixel = first; pixel < last; pixel += step)
      f(pixel, last - pixel < step ? last - pixel : step);
  }

  Span<A> pixel_span(int64_t pixel, int64_t rows, const Scratch<A>& b) const {
    return span(pixel * a.C, a.C, rows, pixel, 0, b);
  }

  // Per task: mean and sum of squared deviations of the channels [lo, lo + n).
  void partial_moments(int64_t task, int64_t lo, int64_t n, double* means, double* m2s,
                       const Scratch<A>& b) const {
    A *pilot = b.dy.get(), *s1 = b.out.get(), *s2 = b.out2.get();
    for (int64_t c = 0; c < n; ++c) pilot[c] = s1[c] = s2[c] = 0;
    const int64_t count = pixels(task), first = count < 8 ? count : 8;
    const int64_t begin = task / tasks_per_image() * a.S + task % tasks_per_image() * kPixels;
    for (int64_t pixel = begin; pixel < begin + first; ++pixel) {
      const A* z = normalized_input(pixel * a.C, a.C, b) + lo;
      for (int64_t c = 0; c < n; ++c) pilot[c] += z[c] * A(1.0 / first);
    }
    for_pixels(task, [&](int64_t pixel, int64_t rows) {
      const A* z = normalized_input(pixel * a.C, a.C * rows, b) + lo;
      add_pixel_moments(s1, s2, pilot, z, n, rows, a.C);
    });
    for (int64_t c = 0; c < n; ++c) {
      const double shift = double(s1[c]) / count;
      means[c] = pilot[c] + shift;
      m2s[c] = s2[c] - shift * s1[c];
    }
  }

  // Chan's formula for n channels at once: `into` holds means and, behind them, m2s.
  static void merge(double* into, double have, const double* means, const double* m2s, double more,
                    int64_t n) {
    const double share = more / (have + more), spread = have * share;
    for (int64_t c = 0; c < n; ++c) {
      const double delta = means[c] - into[c];
      into[c] += delta * share;
      into[n + c] += m2s[c] + delta * delta * spread;
    }
  }

  void channels_last_statistics(Parallel parallel) const {
    const int64_t lo = a.batch_stats ? 0 : instance_begin;
    const int64_t n_stats = a.batch_stats ? a.C : a.instance_channels;
    const int64_t per_image = tasks_per_image(), tasks = a.N * per_image;
    Buffer<double> partial(tasks * 2 * n_stats), total(a.N * 2 * n_stats), group(2 * n_stats);
    if (n_stats > 0)
      run(parallel, tasks, [&](int64_t begin, int64_t end) {
        const Scratch<A> scratch(rows_at_once() * a.C);
        for (int64_t task = begin; task < end; ++task) {
          double* p = partial.get() + task * 2 * n_stats;
          partial_moments(task, lo, n_stats, p, p + n_stats, scratch);
        }
      });
    for (int64_t n = 0; n < a.N && n_stats > 0; ++n) {
      double* t = total.get() + n * 2 * n_stats;
      for (int64_t c = 0; c < 2 * n_stats; ++c) t[c] = 0;
      double have = 0;
      for (int64_t i = 0; i < per_image; ++i) {
        const double* p = partial.get() + (n * per_image + i) * 2 * n_stats;
        const double more = double(pixels(i));
        merge(t, have, p, p + n_stats, more, n_stats);
        have += more;
      }
    }
    for (int64_t n0 = 0; n0 < a.N; n0 += a.batch_group) {
      const int64_t n1 = n0 + a.batch_group < a.N ? n0 + a.batch_group : a.N;
      for (int64_t c = 0; c < 2 * n_stats; ++c) group[c] = 0;
      for (int64_t n = n0; n < n1 && n_stats > 0; ++n) {
        const double* t = total.get() + n * 2 * n_stats;
        merge(group.get(), double((n - n0) * a.S), t, t + n_stats, double(a.S), n_stats);
      }
      for (int64_t n = n0; n < n1; ++n)
        for (int64_t c = 0; c < a.C; ++c) {
          if (!has_statistics(c)) {
            set_running(n, c);
            continue;
          }
          const double* t = instance(c) ? total.get() + n * 2 * n_stats : group.get();
          const double count = double(instance(c) ? a.S : (n1 - n0) * a.S);
          set_statistics(n, c, t[c - lo], t[n_stats + c - lo] / count);
        }
    }
    for (int64_t c = 0; c < a.C; ++c) move_channel(c);
  }

  // Arrays over [N, C] that may be loaded in whole vectors, past the end of the tensors.
  struct Coefficients {
    Buffer<A> mean, scale, bias;
    explicit Coefficients(const Pixels& p)
        : mean(p.a.N * p.a.C), scale(p.a.N * p.a.C), bias(p.a.C) {
      const int64_t C = p.a.C;
      Buffer<double> weight(C);
      for (int64_t c = 0; c < C; ++c) bias[c] = p.bias(c), weight[c] = p.weight(c);
      for (int64_t n = 0; n < p.a.N; ++n) {
        const A* var = p.var + n * C;
        for (int64_t c = 0; c < C; ++c) mean[n * C + c] = p.mean[n * C + c];
        for (int64_t c = 0; c < C; ++c)
          scale[n * C + c] = A(weight[c] / std::sqrt(double(var[c]) + p.a.eps));
      }
    }
    Affine<A> image(int64_t n, int64_t C) const {
      return {mean.get() + n * C, scale.get() + n * C, bias.get(), nullptr, nullptr};
    }
  };

  template <Act act>
  void forward(Parallel parallel) const {
    channels_last_statistics(parallel);
    const Coefficients coefficients(*this);
    run(parallel, a.N * tasks_per_image(), [&](int64_t begin, int64_t end) {
      const Scratch<A> scratch(rows_at_once() * a.C);
      for (int64_t task = end - 1; task >= begin; --task) {
        const Affine<A> k = coefficients.image(task / tasks_per_image(), a.C);
        for_pixels(task, [&](int64_t pixel, int64_t rows) {
          const Span<A> s = pixel_span(pixel, rows, scratch);
          this->template normalize_span<act, Kind::pixels>(pixel * a.C, s, k, scratch);
        });
      }
    });
  }

  template <Act act>
  void backward(Parallel parallel) const {
    const int64_t per_image = tasks_per_image(), tasks = a.N * per_image;
    const Coefficients coefficients(*this);
    const Buffer<double> partial(tasks * 2 * a.C);
    run(parallel, tasks, [&](int64_t begin, int64_t end) {
      const Scratch<A> scratch(rows_at_once() * a.C);
      A *g_sum = scratch.out.get(), *gx_sum = scratch.out2.get();
      for (int64_t task = begin; task < end; ++task) {
        const Affine<A> k = coefficients.image(task / per_image, a.C);
        for (int64_t c = 0; c < a.C; ++c) g_sum[c] = gx_sum[c] = 0;
        for_pixels(task, [&](int64_t pixel, int64_t rows) {
          const Span<A> s = pixel_span(pixel, rows, scratch);
          add_pixel_gradients<act>(g_sum, gx_sum, s, k, slope);
        });
        double* p = partial.get() + task * 2 * a.C;
        for (int64_t c = 0; c < a.C; ++c) p[c] = g_sum[c], p[a.C + c] = gx_sum[c];
      }
    });
    const Buffer<A> c1(a.N * a.C), c2(a.N * a.C);
    reduce_gradients(partial, c1, c2);
    run(parallel, tasks, [&](int64_t begin, int64_t end) {
      const Scratch<A> scratch(rows_at_once() * a.C);
      for (int64_t task = end - 1; task >= begin; --task) {
        Affine<A> k = coefficients.image(task / per_image, a.C);
        k.c1 = c1.get() + task / per_image * a.C;
        k.c2 = c2.get() + task / per_image * a.C;
        for_pixels(task, [&](int64_t pixel, int64_t rows) {
          const Span<A> s = pixel_span(pixel, rows, scratch);
          this->template differentiate_span<act, Kind::pixels>(pixel * a.C, s, k, scratch);
        });
      }
    });
  }

  // Sums of the tasks to c1, c2 of every image and to the gradients of the parameters.
  void reduce_gradients(const Buffer<double>& partial, const Buffer<A>& c1,
                        const Buffer<A>& c2) const {
    const int64_t per_image = tasks_per_image();
    Buffer<double> total(a.N * 2 * a.C);  // per image: sums of g and of g * centered
    for (int64_t i = 0; i < a.N * 2 * a.C; ++i) total[i] = 0;
    for (int64_t task = 0; task < a.N * per_image; ++task)
      for (int64_t i = 0; i < 2 * a.C; ++i)
        total[task / per_image * 2 * a.C + i] += partial[task * 2 * a.C + i];
    for (int64_t c = 0; c < a.C; ++c) {
      double d_weight = 0, d_bias = 0;
      const int64_t size = group_size(c);
      for (int64_t n0 = 0; n0 < a.N; n0 += size) {
        const int64_t n1 = n0 + size < a.N ? n0 + size : a.N;
        double sum_g = 0, sum_gx = 0;
        for (int64_t n = n0; n < n1; ++n) {
          sum_g += total[n * 2 * a.C + c];
          sum_gx += total[n * 2 * a.C + a.C + c];
        }
        const double inverse = inverse_deviation(n0, c);
        const double share = has_statistics(c) ? 1 / double((n1 - n0) * a.S) : 0;
        d_weight += sum_gx * inverse;
        d_bias += sum_g;
        for (int64_t n = n0; n < n1; ++n) {
          c1[n * a.C + c] = A(sum_g * share);
          c2[n * a.C + c] = A(sum_gx * share * inverse * inverse);
        }
      }
      set_parameter_gradients(c, d_weight, d_bias);
    }
  }
};

}  // namespace
}  // namespace IBN_ISA
}  // namespace ibn_norm
