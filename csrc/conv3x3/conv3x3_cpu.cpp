// CPU kernel of conv3x3, compiled once per instruction set (namespace IBN_ISA): kTiles tiles of
// 2 x 2 results at a time are transformed, multiplied and transformed back in cache.
// Contract: ibnvision/ops/conv3x3.py; algorithm: README.md here.
#include "conv3x3_cpu.h"

#include "../cpu_scratch.h"
#include "conv3x3_cpu_transforms.h"

namespace conv3x3 {
namespace IBN_ISA {
namespace {

constexpr int64_t kTiles = 24;   // a multiple of every kRows
constexpr int64_t kPad = 16;     // keeps the points of a tile out of one set of the L1 cache
constexpr bool kMany = L == 16;  // 32 registers, else 16

// out[r, :] = in[r, :] w for kRows rows and kWide vectors of columns; w: [depth, kWide * L].
template <int kRows, int kWide>
__attribute__((noinline)) void multiply(float* out, int64_t out_row, const float* in,
                                        const float* w, int64_t depth) {
  V sums[kRows][kWide] = {};
  for (int64_t k = 0; k < depth; ++k) {
    V right[kWide];
#pragma GCC unroll 4
    for (int s = 0; s < kWide; ++s) right[s] = load(w + (k * kWide + s) * L);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const V left = splat<float>(in[r * depth + k]);
#pragma GCC unroll 4
      for (int s = 0; s < kWide; ++s) sums[r][s] += left * right[s];
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int s = 0; s < kWide; ++s) store(out + r * out_row + s * L, sums[r][s]);
}

template <int kWide>
struct Pass {
  static constexpr int kRows = kMany && kWide < 4 ? 12 : 6;
  static constexpr int64_t kBlock = kWide * L;  // output channels that are multiplied at once
  const Args& a;
  const float* kernels;  // [kPoints, O / kBlock, I, kBlock]
  const int64_t across = (a.W + 1) / 2, down = (a.H + 1) / 2, tiles = a.N * down * across;
  const int64_t in_plane = kTiles * a.I + kPad, out_plane = kTiles * a.O + kPad;

  struct Place {  // of a tile
    int64_t n, ty, tx;
  };
  Place place(int64_t tile) const {
    return {tile / across / down, tile / across % down, tile % across};
  }
  void advance(Place& p) const {
    if (++p.tx < across) return;
    p.tx = 0;
    if (++p.ty == down) p.ty = 0, ++p.n;
  }

  void transform_kernels(float* to, int64_t begin, int64_t end) const {  // of vectors of outputs
    for (int64_t o = begin * L; o < end * L; o += L)
      for (int64_t i = 0; i < a.I; ++i) {
        V points[kPoints];
        transform_kernel(a, o, i, points);
        for (int64_t p = 0; p < kPoints; ++p)
          store(to + ((p * (a.O / kBlock) + o / kBlock) * a.I + i) * kBlock + o % kBlock,
                points[p]);
      }
  }

  // Tiles first to first + count into planes [kPoints, kTiles, I]. Neighbours share two columns.
  void read(int64_t first, int64_t count, float* planes) const {
    for (int64_t i = 0; i < a.I; i += L) {
      Place at = place(first);
      V columns[4][4];
      const auto column = [&](int64_t px, V* out) {
        V d[4];
#pragma GCC unroll 4
        for (int r = 0; r < 4; ++r) {
          const int64_t py = 2 * at.ty - 1 + r;
          const bool inside = px >= 0 && px < a.W && py >= 0 && py < a.H;
          d[r] = inside ? load(a.x + ((at.n * a.H + py) * a.W + px) * a.I + i) : V{};
        }
        transform_column(d, out);
      };
      for (int64_t t = 0; t < count; ++t, advance(at)) {
        if (t == 0 || at.tx == 0) {
          column(2 * at.tx - 1, columns[0]), column(2 * at.tx, columns[1]);
        } else {
#pragma GCC unroll 4
          for (int r = 0; r < 4; ++r) columns[0][r] = columns[2][r], columns[1][r] = columns[3][r];
        }
        column(2 * at.tx + 1, columns[2]), column(2 * at.tx + 2, columns[3]);
        transform_rows(columns, planes + t * a.I + i, in_plane);
      }
    }
  }

  // Rows behind `count` are computed too, from what an earlier block left, and not written.
  void multiply_all(int64_t count, const float* in, float* out) const {
    const float* kernel = kernels;
    for (int64_t p = 0; p < kPoints; ++p)
      for (int64_t o = 0; o < a.O; o += kBlock, kernel += a.I * kBlock)
        for (int64_t t = 0; t < count; t += kRows)
          multiply<kRows, kWide>(out + p * out_plane + t * a.O + o, a.O,
                                 in + p * in_plane + t * a.I, kernel, a.I);
  }

  void write(int64_t first, int64_t count, const float* planes) const {
    Place at = place(first);
    for (int64_t t = 0; t < count; ++t, advance(at))
      for (int64_t o = 0; o < a.O; o += L) {
        V results[4];
        transform_back(planes + t * a.O + o, out_plane, results);
        const V bias = a.bias ? load(a.bias + o) : V{};
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
          const int64_t py = 2 * at.ty + k / 2, px = 2 * at.tx + k % 2;
          if (py >= a.H || px >= a.W) continue;
          const int64_t to = ((at.n * a.H + py) * a.W + px) * a.O + o;
          V v = results[k] + bias;
          if (a.relu) v = v < 0.0f ? V{} : v;  // NaN stays
          if (a.residual) v += load(a.residual + to);
          store(a.y + to, v);
        }
      }
  }
};

template <int kWide>
void forward_wide(const Args& args, Parallel parallel) {
  const Tile<float> kernels(kPoints * args.I * args.O);
  const Pass<kWide> pass{args, kernels.get()};
  run(parallel, args.O / L,
      [&](int64_t begin, int64_t end) { pass.transform_kernels(kernels.get(), begin, end); });
  run(parallel, (pass.tiles + kTiles - 1) / kTiles, [&](int64_t begin, int64_t end) {
    const Tile<float> in(kPoints * pass.in_plane), out(kPoints * pass.out_plane);
    for (int64_t first = begin * kTiles; first < end * kTiles; first += kTiles) {
      const int64_t left = pass.tiles - first, count = left < kTiles ? left : kTiles;
      pass.read(first, count, in.get());
      pass.multiply_all(count, in.get(), out.get());
      pass.write(first, count, out.get());
    }
  });
}

}  // namespace

void forward(const Args& args, Parallel parallel) {
  if constexpr (kMany) {
    if (args.O % (4 * L) == 0) return forward_wide<4>(args, parallel);
    if (args.O % (2 * L) != 0) return forward_wide<1>(args, parallel);
  }
  forward_wide<2>(args, parallel);
}

}  // namespace IBN_ISA
}  // namespace conv3x3
