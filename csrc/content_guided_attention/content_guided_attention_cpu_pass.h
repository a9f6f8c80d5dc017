// Forward and backward of one task: a tile of the image and a group of channels, of which a slab is
// worked on at a time: one plane, or kLanes channels of the pixels (channels_last).
// Internal linkage throughout: compiled once per instruction set. Formulas: README.md here.
#pragma once
#include "content_guided_attention_cpu.h"
#include "content_guided_attention_cpu_tile.h"

namespace content_guided_attention {
namespace IBN_ISA {
namespace {

constexpr int64_t kGroup = 16;            // channels of a task; their d_sa are added in order
constexpr int64_t kSums = 2 * kTaps + 1;  // of a channel: taps on x, taps on sa, the sum of da
enum Part : int64_t { kOnX = 0, kOnSa = kTaps, kBias = 2 * kTaps };

template <typename T, typename A, bool kPixels>
struct Pass {
  static constexpr int64_t L = kLanes<A>, kUnit = kPixels ? L : 1;
  const Args& a;
  const bool backward;
  const T *x = static_cast<const T*>(a.x), *high = static_cast<const T*>(a.high);
  const T *residual = static_cast<const T*>(a.residual), *dy = static_cast<const T*>(a.dy);
  T *y = static_cast<T*>(a.y), *dx = static_cast<T*>(a.dx), *d_high = static_cast<T*>(a.d_high);
  const A *ca = static_cast<const A*>(a.ca), *sa = static_cast<const A*>(a.sa);
  const A *weight = static_cast<const A*>(a.weight), *bias = static_cast<const A*>(a.bias);

  // About 0.3 MiB a tile of channels_last, less of planes; several halves a tile's recomputed
  // border.
  const Cuts rows{a.H, kPixels ? 32 : 64}, columns{a.W, kPixels ? 64 : 256};
  const int64_t groups = (a.C + kGroup - 1) / kGroup, tiles = rows.count * columns.count;
  const int64_t tasks = a.N * groups * tiles;
  const int64_t halo = backward ? 4 * kReach : 2 * kReach;
  const int64_t row = (columns.largest() + halo) * kUnit + (kPixels ? 0 : L);
  const int64_t sa_row = columns.largest() + halo + L;
  const int64_t tile_size = (rows.largest() + halo) * row;
  A* group_d_sa = nullptr;  // [N, groups, H, W]
  double* sums = nullptr;   // [N, tiles, C, kSums]

  struct Task {
    int64_t n, group, tile;
    Axis ys, xs;
  };
  Task task(int64_t i) const {
    const int64_t tile = i % tiles, group = i / tiles % groups;
    return {i / tiles / groups, group, tile, rows.axis(tile / columns.count, backward),
            columns.axis(tile % columns.count, backward)};
  }

  struct Scratch {
    Tile<A> x, sa, map, gate, full, full_sa;
    explicit Scratch(const Pass& p)
        : x(p.tile_size),
          sa((p.rows.largest() + p.halo) * p.sa_row),
          map(p.tile_size),
          gate(p.backward ? p.tile_size : 0),
          full(p.backward ? p.tile_size : 0),
          full_sa(p.backward ? p.tile_size : 0) {}
  };

  struct Slab {  // of channels, with its taps; lanes behind the last channel are 0
    int64_t n, c, channels;
    Vec<A> on_x[kTaps], on_sa[kTaps], sum_on_sa, start;
  };
  Slab slab(int64_t n, int64_t c, int64_t c_end) const {
    Slab s;
    s.n = n, s.c = c, s.channels = smaller(kUnit, c_end - c);
    const auto of_channels = [&](auto value) {
      if constexpr (!kPixels) return splat<A>(value(c));
      Vec<A> v{};
      for (int64_t lane = 0; lane < s.channels; ++lane) v[lane] = value(c + lane);
      return v;
    };
    s.sum_on_sa = Vec<A>{};
    for (int64_t t = 0; t < kTaps; ++t) {
      s.on_x[t] = of_channels([&](int64_t c) { return weight[(2 * c) * kTaps + t]; });
      s.on_sa[t] = of_channels([&](int64_t c) { return weight[(2 * c + 1) * kTaps + t]; });
      s.sum_on_sa += s.on_sa[t];
    }
    s.start = of_channels([&](int64_t c) { return bias[c]; }) +
              of_channels([&](int64_t c) { return ca[n * a.C + c]; }) * s.sum_on_sa;
    return s;
  }

  int64_t offset(const Slab& s, int64_t py, int64_t px) const {
    return kPixels ? ((s.n * a.H + py) * a.W + px) * a.C + s.c
                   : ((s.n * a.C + s.c) * a.H + py) * a.W + px;
  }
  static int64_t cells(int64_t size) { return kPixels ? size : (size + L - 1) / L; }

  template <typename F>  // f(y, x, values that count in the cell) over [y0, y1) x [x0, x1)
  static void for_cells(const Slab& s, int64_t y0, int64_t y1, int64_t x0, int64_t x1, F f) {
    constexpr int64_t step = kPixels ? 1 : L;
    for (int64_t py = y0; py < y1; ++py)
      for (int64_t px = x0; px < x1; px += step)
        f(py, px, kPixels ? s.channels : smaller(L, x1 - px));
  }

  void read_sa(const Task& t, const Scratch& b) const {
    const A* plane = sa + t.n * a.H * a.W;
    fill_reflected<1>(b.sa.get(), sa_row, t.ys, t.xs, [&](int64_t py, int64_t px, int64_t count) {
      return load_cell<A>(plane + py * a.W + px, count);
    });
  }

  // The tile of r, or of low + high, and into `map` (one cell at `to` a position) the attention.
  void convolve(const Task& t, const Slab& s, const Scratch& b, A* to) const {
    fill_reflected<kUnit>(b.x.get(), row, t.ys, t.xs, [&](int64_t py, int64_t px, int64_t count) {
      const int64_t at = offset(s, py, px);
      if constexpr (kPixels) count = s.channels;
      const Vec<A> v = load_cell<A>(x + at, count);
      return high ? v + load_cell<A>(high + at, count) : v;
    });
    const int64_t height = t.ys.map(), width = cells(t.xs.map());
    correlate<false, false, A>(to, row, b.x.get(), row, kUnit, s.on_x, height, width, &s.start);
    correlate<false, kPixels, A>(to, row, b.sa.get(), sa_row, 1, s.on_sa, height, width, nullptr);
  }

  void forward_task(const Task& t, const Scratch& b) const {
    read_sa(t, b);
    const int64_t end = smaller(a.C, (t.group + 1) * kGroup);
    for (int64_t c = t.group * kGroup; c < end; c += kUnit) {
      const Slab s = slab(t.n, c, end);
      convolve(t, s, b, b.map.get());
      for_cells(s, t.ys.begin, t.ys.end, t.xs.begin, t.xs.end,
                [&](int64_t py, int64_t px, int64_t count) {
                  const int64_t j = py - t.ys.begin, i = (px - t.xs.begin) * kUnit,
                                at = offset(s, py, px);
                  const Vec<A> p = sigmoid<A>(load(b.map.get() + j * row + i));
                  Vec<A> v;
                  if (high) {
                    const Vec<A> w = sigmoid<A>(p), deep = load_cell<A>(high + at, count);
                    v = load_cell<A>(x + at, count) * (A(1) + w) + deep * (A(2) - w);
                  } else {
                    v = load(b.x.get() + (j + kReach) * row + i + kReach * kUnit) * p;
                    if (residual) v += load_cell<A>(residual + at, count);
                  }
                  store_cell<A>(y + at, v, count);
                });
    }
  }

  void backward_task(const Task& t, Scratch& b) const {
    const int64_t map_y = t.ys.map_begin(), map_x = t.xs.map_begin();
    const auto place = [&](A* tile, int64_t y0, int64_t x0) {  // of (y0, x0) counted from its begin
      return tile + y0 * row + x0 * kUnit;
    };
    b.map.clear();
    b.full_sa.clear();
    read_sa(t, b);
    // `map` begins three positions before `full`, and is 0 outside the image
    A* const map =
        place(b.map.get(), map_y - t.ys.full_begin() + kReach, map_x - t.xs.full_begin() + kReach);
    A* const own = place(map, t.ys.begin - map_y, t.xs.begin - map_x);
    const int64_t own_x = (t.xs.begin - map_x) * kUnit, own_y = t.ys.begin - map_y;
    const int64_t end = smaller(a.C, (t.group + 1) * kGroup);
    const int64_t full_cells = cells(t.xs.full()), own_cells = cells(t.xs.own());
    for (int64_t c = t.group * kGroup; c < end; c += kUnit) {
      const Slab s = slab(t.n, c, end);
      convolve(t, s, b, map);
      for_cells(s, map_y, t.ys.map_end(), map_x, t.xs.map_end(),
                [&](int64_t py, int64_t px, int64_t count) {
                  const int64_t at = offset(s, py, px),
                                in_map = (py - map_y) * row + (px - map_x) * kUnit;
                  const Vec<A> p = sigmoid<A>(load(map + in_map)), g = load_cell<A>(dy + at, count);
                  Vec<A> dp, gate = p;
                  if (high) {
                    gate = sigmoid<A>(p);
                    const Vec<A> apart =
                        load_cell<A>(x + at, count) - load_cell<A>(high + at, count);
                    dp = g * apart * gate * (A(1) - gate);
                  } else {
                    dp = g * load(b.x.get() + in_map + kReach * (row + kUnit));
                  }
                  const Vec<A> da = dp * p * (A(1) - p);
                  store<A>(map + in_map, count == L ? da : first_lanes<A>(da, count));
                  store<A>(b.gate.get() + in_map, gate);
                });
      const int64_t height = t.ys.full();
      const Vec<A> zero{};
      correlate<true, false, A>(b.full.get(), row, b.map.get(), row, kUnit, s.on_x, height,
                                full_cells, &zero);
      correlate<true, false, A>(b.full_sa.get(), row, b.map.get(), row, kUnit, s.on_sa, height,
                                full_cells, nullptr);
      fold_reflected<kUnit>(b.full.get(), row, t.ys, t.xs);
      write_input_gradient(t, s, b);

      Vec<A> on_x[kTaps] = {}, on_sa[kTaps] = {}, total{};
      correlate_gradient<false, A>(on_x, own, row, b.x.get() + own_y * row + own_x, row, kUnit,
                                   t.ys.own(), own_cells);
      correlate_gradient<kPixels, A>(on_sa, own, row, b.sa.get() + own_y * sa_row + own_x / kUnit,
                                     sa_row, 1, t.ys.own(), own_cells);
      for (int64_t j = 0; j < t.ys.own(); ++j)
        for (int64_t i = 0; i < own_cells; ++i) total += load(own + j * row + i * L);
      for (int64_t channel = 0; channel < s.channels; ++channel) {
        double* to = sums + ((t.n * tiles + t.tile) * a.C + c + channel) * kSums;
        const auto value = [&](Vec<A> v) { return double(kPixels ? v[channel] : sum(v)); };
        for (int64_t tap = 0; tap < kTaps; ++tap) {
          to[kOnX + tap] = value(on_x[tap]);
          to[kOnSa + tap] = value(on_sa[tap]);
        }
        to[kBias] = value(total);
      }
    }
    fold_reflected<kUnit>(b.full_sa.get(), row, t.ys, t.xs);
    A* plane = group_d_sa + (t.n * groups + t.group) * a.H * a.W;
    for (int64_t py = t.ys.begin; py < t.ys.end; ++py)
      for (int64_t px = t.xs.begin; px < t.xs.end; ++px) {
        const A* from = place(b.full_sa.get(), py - t.ys.full_begin(), px - t.xs.full_begin());
        plane[py * a.W + px] = kPixels ? sum(load(from)) : *from;
      }
  }

  void write_input_gradient(const Task& t, const Slab& s, const Scratch& b) const {
    for_cells(
        s, t.ys.begin, t.ys.end, t.xs.begin, t.xs.end, [&](int64_t py, int64_t px, int64_t count) {
          const int64_t at = offset(s, py, px);
          const Vec<A> through = load(b.full.get() + (py - t.ys.full_begin()) * row +
                                      (px - t.xs.full_begin()) * kUnit);
          const Vec<A> gate =
              load(b.gate.get() + (py - t.ys.map_begin()) * row + (px - t.xs.map_begin()) * kUnit);
          const Vec<A> g = load_cell<A>(dy + at, count);
          store_cell<A>(dx + at, through + g * (high ? A(1) + gate : gate), count);
          if (high) store_cell<A>(d_high + at, through + g * (A(2) - gate), count);
        });
  }

  // The sums of the tasks, in order.
  void reduce_channel(int64_t c) const {
    A *d_ca = static_cast<A*>(a.d_ca), *d_weight = static_cast<A*>(a.d_weight);
    double total[kSums] = {}, weight_sum = 0;
    for (int64_t t = 0; t < kTaps; ++t) weight_sum += weight[(2 * c + 1) * kTaps + t];
    for (int64_t n = 0; n < a.N; ++n) {
      double image[kSums] = {};
      for (int64_t tile = 0; tile < tiles; ++tile)
        for (int64_t i = 0; i < kSums; ++i)
          image[i] += sums[((n * tiles + tile) * a.C + c) * kSums + i];
      d_ca[n * a.C + c] = A(weight_sum * image[kBias]);
      for (int64_t t = 0; t < kTaps; ++t) image[kOnSa + t] += ca[n * a.C + c] * image[kBias];
      for (int64_t i = 0; i < kSums; ++i) total[i] += image[i];
    }
    for (int64_t i = 0; i < 2 * kTaps; ++i) d_weight[c * 2 * kTaps + i] = A(total[i]);
    static_cast<A*>(a.d_bias)[c] = A(total[kBias]);
  }

  void reduce_row(int64_t image_row) const {  // of d_sa, [N, H]
    const int64_t n = image_row / a.H, py = image_row % a.H;
    A* to = static_cast<A*>(a.d_sa) + image_row * a.W;
    for (int64_t px = 0; px < a.W; ++px) to[px] = 0;
    for (int64_t group = 0; group < groups; ++group)
      for (int64_t px = 0; px < a.W; ++px)
        to[px] += group_d_sa[((n * groups + group) * a.H + py) * a.W + px];
  }
};

}  // namespace
}  // namespace IBN_ISA
}  // namespace content_guided_attention
