// CPU kernels of ibn_norm, compiled once per instruction set (namespace IBN_ISA).
// Contract and formula: ibnvision/ops/ibn_norm.py; derivation and bytes moved: README.md here.
//
// contiguous     one task is a channel, or a few with small planes: read for the statistics, then
//                again, last image first, from the cache for the result
// channels_last  one task is up to kPixels pixels of an image, all channels at once, in two sweeps
//                over memory, the second one backwards, so that what is still cached is used
//
// Statistics: sums of z - pilot and of its square over some kFlush values or kPixels pixels, the
// pilot being the mean of the first of them, merged by Chan's formula in double.
#include "ibn_norm_cpu.h"

#include <cmath>

#include "ibn_norm_cpu_span.h"

namespace ibn_norm {
namespace IBN_ISA {
namespace {

constexpr int64_t kBlock = 2048;              // values of a plane worked on at a time, in L1
constexpr int64_t kPixels = 256;              // pixels of a channels_last task
constexpr int64_t kTogether = 32;             // channels of a task, where planes are small,
constexpr int64_t kStretchBytes = 32 << 10;   // to read this much of an image at a time
constexpr int64_t kGroupBytes = 256 << 10;    // and find this much of a batch in the cache again
constexpr int64_t kStreamBytes = 24ll << 20;  // results above this are not found in a cache again

template <typename F>
void run(Parallel parallel, int64_t count, F f) {
  parallel(count, &f, [](void* context, int64_t begin, int64_t end) {
    (*static_cast<F*>(context))(begin, end);
  });
}

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

  // --- contiguous, [N, C, S]: one task is a few neighbouring channels of one kind -------------

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

  int64_t group_size(int64_t c) const { return instance(c) ? 1 : a.batch_group; }
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
            normalize_span<act, Kind::plane>(plane(n, c) + s, v, k[c - c0].affine(), b);
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
            differentiate_span<act, Kind::plane>(plane(n, c) + s, v, k[c - c0].affine(), b);
          });
    }
    for (int64_t c = c0; c < c1; ++c) set_parameter_gradients(c, d_weight[c - c0], d_bias[c - c0]);
  }

  // --- channels_last, [N, S, C]: task t is up to kPixels pixels of one image ----------------

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
    explicit Coefficients(const Pass& p) : mean(p.a.N * p.a.C), scale(p.a.N * p.a.C), bias(p.a.C) {
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
  void forward_channels_last(Parallel parallel) const {
    channels_last_statistics(parallel);
    const Coefficients coefficients(*this);
    run(parallel, a.N * tasks_per_image(), [&](int64_t begin, int64_t end) {
      const Scratch<A> scratch(rows_at_once() * a.C);
      for (int64_t task = end - 1; task >= begin; --task) {
        const Affine<A> k = coefficients.image(task / tasks_per_image(), a.C);
        for_pixels(task, [&](int64_t pixel, int64_t rows) {
          const Span<A> s = pixel_span(pixel, rows, scratch);
          normalize_span<act, Kind::pixels>(pixel * a.C, s, k, scratch);
        });
      }
    });
  }

  template <Act act>
  void backward_channels_last(Parallel parallel) const {
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
          differentiate_span<act, Kind::pixels>(pixel * a.C, s, k, scratch);
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

template <typename T, typename A>
void forward_typed(const Args& args, Parallel parallel) {
  const Pass<T, A> pass{args};
  with_act(args.act, [&](auto act) {
    if (args.channels_last) return pass.template forward_channels_last<act()>(parallel);
    run(parallel, pass.channel_tasks(), [&](int64_t begin, int64_t end) {
      const Scratch<A> scratch(kBlock);
      for (int64_t task = begin; task < end; ++task)
        pass.template forward_channels<act()>(pass.channels(task), scratch);
    });
  });
}

template <typename T, typename A>
void backward_typed(const Args& args, Parallel parallel) {
  const Pass<T, A> pass{args};
  with_act(args.act, [&](auto act) {
    if (args.channels_last) return pass.template backward_channels_last<act()>(parallel);
    run(parallel, pass.channel_tasks(), [&](int64_t begin, int64_t end) {
      const Scratch<A> scratch(kBlock);
      for (int64_t task = begin; task < end; ++task)
        pass.template backward_channels<act()>(pass.channels(task), scratch);
    });
  });
}

}  // namespace

void forward(const Args& args, Parallel parallel) {
  switch (args.dtype) {
    case Dtype::float32:
      return forward_typed<float, float>(args, parallel);
    case Dtype::float16:
      return forward_typed<Half, float>(args, parallel);
    case Dtype::bfloat16:
      return forward_typed<BFloat16, float>(args, parallel);
    case Dtype::float64:
      return forward_typed<double, double>(args, parallel);
  }
}

void backward(const Args& args, Parallel parallel) {
  switch (args.dtype) {
    case Dtype::float32:
      return backward_typed<float, float>(args, parallel);
    case Dtype::float16:
      return backward_typed<Half, float>(args, parallel);
    case Dtype::bfloat16:
      return backward_typed<BFloat16, float>(args, parallel);
    case Dtype::float64:
      return backward_typed<double, double>(args, parallel);
  }
}

}  // namespace IBN_ISA
}  // namespace ibn_norm
