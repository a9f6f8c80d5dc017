// Tiles in shared memory and the 49 taps on them, for both memory formats.
//
// A tile is kX x kY pixels of one plane or, kPixels (channels_last), of kUnit channels, innermost;
// its halo is three pixels wide. threadIdx.x counts columns of a plane or channels of a pixel. Each
// thread has kColumn outputs, one below the other: an input serves up to seven of them.
#pragma once
#include "../cuda_common.cuh"
#include "content_guided_attention.h"

namespace content_guided_attention {

using namespace cuda_common;

constexpr int kColumn = 8;

template <bool kPixels>
struct Geometry {
  static constexpr int kUnit = kPixels ? 32 : 1;
  static constexpr int kX = kPixels ? 8 : 32, kY = kPixels ? 8 : 32;
  static constexpr int kThreadRows = kPixels ? kX : kY / kColumn;  // the block is (32, kThreadRows)
  static constexpr int kHaloX = kX + 2 * kReach, kHaloY = kY + 2 * kReach;
  static constexpr int kRow = kHaloX * kUnit, kTile = kHaloY * kRow;  // elements with the halo
  static constexpr int kPlane = kHaloY * kHaloX;
  static constexpr int kTaps2 = 2 * kTaps * kUnit;
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Tiles {  // of an image, and of the channels
  int64_t across, count, slabs;
};

template <bool kPixels>
Tiles count_tiles(const Args& args) {
  using G = Geometry<kPixels>;
  const int64_t across = ceil_div(args.W, G::kX);
  return {across, across * ceil_div(args.H, G::kY), ceil_div(args.C, G::kUnit)};
}

// One tile of one slab, and the outputs of the calling thread in it.
template <bool kPixels>
struct Place {
  using G = Geometry<kPixels>;
  int64_t n, slab, y0, x0;
  __device__ Place(const Tiles& tiles, int64_t image, int64_t slab, int64_t tile)
      : n(image), slab(slab) {
    const auto at = divide(tile, tiles.across);
    y0 = at.quotient * G::kY;
    x0 = at.remainder * G::kX;
  }
  __device__ int64_t channel0() const { return slab * G::kUnit; }
  __device__ int64_t channel() const { return channel0() + (kPixels ? threadIdx.x : 0); }
  __device__ int column() const { return kPixels ? threadIdx.y : threadIdx.x; }
  __device__ int row() const { return kPixels ? 0 : threadIdx.y * kColumn; }
  // of (row, column) of the halo tile, for this thread's channel
  __device__ static int shared(int row, int column) {
    return row * G::kRow + column * G::kUnit + (kPixels ? threadIdx.x : 0);
  }
  __device__ bool inside(const Args& args, int j) const {
    return channel() < args.C && y0 + row() + j < args.H && x0 + column() < args.W;
  }
  __device__ int64_t offset(const Args& args, int64_t y, int64_t x, int64_t c) const {
    return kPixels ? ((n * args.H + y) * args.W + x) * args.C + c
                   : ((n * args.C + c) * args.H + y) * args.W + x;
  }
  __device__ int64_t output(const Args& args, int j) const {
    return offset(args, y0 + row() + j, x0 + column(), channel());
  }
};

__device__ inline int64_t reflect(int64_t i, int64_t size) {
  return i < 0 ? -i : i >= size ? 2 * (size - 1) - i : i;
}

// Where column or row i of a halo tile comes from; -1 for a zero: behind the reflected border or,
// where nothing is reflected, outside the image.
template <bool kReflected>
__device__ int64_t source(int64_t i, int64_t size) {
  if constexpr (kReflected) return i < size + kReach ? reflect(i, size) : -1;
  return i >= 0 && i < size ? i : -1;
}

// The tile at `place` without its first kReach - kHalo rows and columns: `first` plus, where it is
// given, `second`. Pixels come in vectors, a plane by columns. `aligned` as in load_vec.
template <bool kPixels, bool kReflected, int kHalo, typename scalar_t>
__device__ void load_tile(acc_of<scalar_t>* tile, const Args& args, const Place<kPixels>& place,
                          const scalar_t* first, const scalar_t* second, bool aligned) {
  using G = Geometry<kPixels>;
  using acc_t = acc_of<scalar_t>;
  constexpr int kAcross = G::kX + 2 * kHalo, kDown = G::kY + 2 * kHalo;
  constexpr int kSize = kPixels ? Vec<scalar_t>::kSize : 1, kParts = G::kUnit / kSize;
  const int threads = blockDim.x * blockDim.y;
  for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < kAcross * kDown * kParts; i += threads) {
    const int lane = i % kParts * kSize, column = i / kParts % kAcross, row = i / kParts / kAcross;
    const int64_t y = source<kReflected>(place.y0 - kHalo + row, args.H);
    const int64_t x = source<kReflected>(place.x0 - kHalo + column, args.W);
    const int64_t c = place.channel0() + lane;
    const bool some = y >= 0 && x >= 0 && c < args.C;
    const int64_t from = some ? place.offset(args, y, x, c) : 0;
    if constexpr (kPixels) {
      const int count = some ? static_cast<int>(smaller(args.C - c, kSize)) : 0;
      const auto a = load_vec(first + from, count, aligned);
      acc_t values[kSize];
#pragma unroll
      for (int j = 0; j < kSize; ++j) values[j] = a[j];
      if (second) {
        const auto b = load_vec(second + from, count, aligned);
#pragma unroll
        for (int j = 0; j < kSize; ++j) values[j] += b[j];
      }
#pragma unroll
      for (int j = 0; j < kSize; ++j) tile[i * kSize + j] = values[j];
    } else {
      acc_t value = some ? widen(first[from]) : acc_t(0);
      if (second && some) value += widen(second[from]);
      tile[i] = value;
    }
  }
}

// The spatial attention under a tile and its halo: one value a pixel.
template <bool kPixels, typename acc_t>
__device__ void load_spatial(acc_t* tile, const Args& args, const Place<kPixels>& place) {
  using G = Geometry<kPixels>;
  const auto sa = static_cast<const acc_t*>(args.sa) + place.n * args.H * args.W;
  const int threads = blockDim.x * blockDim.y;
  for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < G::kPlane; i += threads) {
    const int64_t y = source<true>(place.y0 - kReach + i / G::kHaloX, args.H);
    const int64_t x = source<true>(place.x0 - kReach + i % G::kHaloX, args.W);
    tile[i] = y >= 0 && x >= 0 ? sa[y * args.W + x] : acc_t(0);
  }
}

// [2 * kTaps][kUnit]: the taps on x, then those on ca + sa; 0 behind the last channel.
template <bool kPixels, typename acc_t>
__device__ void load_taps(acc_t* taps, const Args& args, int64_t channel0) {
  using G = Geometry<kPixels>;
  const auto weight = static_cast<const acc_t*>(args.weight);
  const int threads = blockDim.x * blockDim.y;
  for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < G::kTaps2; i += threads) {
    const int64_t c = channel0 + i / (2 * kTaps);  // neighbours in memory for neighbouring threads
    const int tap = i % (2 * kTaps);
    taps[tap * G::kUnit + i / (2 * kTaps)] = c < args.C ? weight[c * 2 * kTaps + tap] : acc_t(0);
  }
}

// sums[j] += sum over taps of (in[j + ky, kx] + shift) taps[ky, kx]; kMirrored turns the kernel by
// 180 degrees. `in` is the upper left corner of what the first output sees.
template <bool kMirrored, int kUnit, typename acc_t>
__device__ void correlate(acc_t (&sums)[kColumn], const acc_t* in, int row, int step,
                          const acc_t* taps, acc_t shift) {
#pragma unroll 1
  for (int kx = 0; kx < 7; ++kx) {
    acc_t column[7];
#pragma unroll
    for (int ky = 0; ky < 7; ++ky) {
      const int tap = 7 * ky + kx;
      column[ky] = taps[(kMirrored ? kTaps - 1 - tap : tap) * kUnit];
    }
#pragma unroll
    for (int k = 0; k < kColumn + 6; ++k) {
      const acc_t v = in[k * row + kx * step] + shift;
#pragma unroll
      for (int j = 0; j < kColumn; ++j) {
        if (k - j >= 0 && k - j < 7) sums[j] += v * column[k - j];
      }
    }
  }
}

template <typename acc_t>
__device__ acc_t sigmoid(acc_t v) {
  return acc_t(1) / (acc_t(1) + exponential(-v));
}

template <typename acc_t>
__device__ acc_t warp_sum(acc_t v) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) v += __shfl_xor_sync(kFullWarp, v, lane);
  return v;
}

}  // namespace content_guided_attention
