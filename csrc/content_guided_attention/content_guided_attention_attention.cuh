// The attention and what is pointwise behind it: the result, or the gradient before the taps.
#pragma once
#include "content_guided_attention_tile.cuh"

namespace content_guided_attention {

// Scratch of the backward, all acc_t. `gate` is p, of the mixup sigmoid(p).
template <typename scalar_t>
struct Workspace {
  using acc_t = acc_of<scalar_t>;
  acc_t* d_map;       // like x: the gradient before the sigmoid
  acc_t* gate;        // like x; in dx where its type is acc_t
  acc_t* group_d_sa;  // [N, groups, H, W]
  acc_t* sums;        // [N, chunks, C, kSums]
  int64_t groups, chunks;
};

template <bool kPixels>
constexpr int64_t attention_shared_elements() {
  using G = Geometry<kPixels>;
  return G::kTile + G::kPlane + G::kTaps2;
}

// The attention before its sigmoid of the thread's outputs. `x` is left with the tile of x (+
// high).
template <typename scalar_t, bool kPixels>
__device__ void attend(const Args& args, const Place<kPixels>& place, acc_of<scalar_t>* x,
                       acc_of<scalar_t> (&sums)[kColumn], bool aligned) {
  using acc_t = acc_of<scalar_t>;
  using G = Geometry<kPixels>;
  acc_t* const sa = x + G::kTile;
  acc_t* const taps = sa + G::kPlane;
  load_tile<kPixels, true, kReach>(x, args, place, static_cast<const scalar_t*>(args.x),
                                   static_cast<const scalar_t*>(args.high), aligned);
  load_spatial<kPixels>(sa, args, place);
  load_taps<kPixels>(taps, args, place.channel0());
  __syncthreads();
  const int64_t c = place.channel();
  const bool some = c < args.C;
  const acc_t bias = some ? static_cast<const acc_t*>(args.bias)[c] : acc_t(0);
  const acc_t ca = some ? static_cast<const acc_t*>(args.ca)[place.n * args.C + c] : acc_t(0);
#pragma unroll
  for (int j = 0; j < kColumn; ++j) sums[j] = bias;
  const acc_t* own = taps + (kPixels ? threadIdx.x : 0);
  correlate<false, G::kUnit>(sums, x + place.shared(place.row(), place.column()), G::kRow, G::kUnit,
                             own, acc_t(0));
  correlate<false, G::kUnit>(sums, sa + place.row() * G::kHaloX + place.column(), G::kHaloX, 1,
                             own + kTaps * G::kUnit, ca);
}

// grid: one block a (tile, slab, image), of (32, kThreadRows) threads
// x is read once with its halo; a residual or the two features once more, by the pixel.
// SASS: 128-bit loads for true
template <typename scalar_t, bool kPixels>
__global__ void __launch_bounds__(32 * Geometry<kPixels>::kThreadRows)
    content_guided_attention_forward_kernel(const __grid_constant__ Args args,
                                            const __grid_constant__ Tiles tiles, bool aligned) {
  using acc_t = acc_of<scalar_t>;
  DYNAMIC_SHARED(acc_t, shared);
  const auto by_tile = divide(blockIdx.x, tiles.count);
  const auto by_slab = divide(by_tile.quotient, tiles.slabs);
  const Place<kPixels> place(tiles, by_slab.quotient, by_slab.remainder, by_tile.remainder);
  acc_t sums[kColumn];
  attend<scalar_t>(args, place, shared, sums, aligned);
  const auto x = static_cast<const scalar_t*>(args.x);
  const auto high = static_cast<const scalar_t*>(args.high);
  const auto residual = static_cast<const scalar_t*>(args.residual);
#pragma unroll
  for (int j = 0; j < kColumn; ++j) {
    if (!place.inside(args, j)) continue;
    const int64_t at = place.output(args, j);
    const acc_t p = sigmoid(sums[j]);
    acc_t value;
    if (high) {
      const acc_t w = sigmoid(p);
      value = widen(x[at]) * (acc_t(1) + w) + widen(high[at]) * (acc_t(2) - w);
    } else {
      value = shared[place.shared(place.row() + j + kReach, place.column() + kReach)] * p;
      if (residual) value += widen(residual[at]);
    }
    narrow(value, static_cast<scalar_t*>(args.y)[at]);
  }
}

// As the forward; leaves the gradient before the sigmoid and the gate.
// SASS: 128-bit loads for true
template <typename scalar_t, bool kPixels>
__global__ void __launch_bounds__(32 * Geometry<kPixels>::kThreadRows)
    content_guided_attention_backward_map_kernel(
        const __grid_constant__ Args args, const __grid_constant__ Tiles tiles,
        const __grid_constant__ Workspace<scalar_t> workspace, bool aligned) {
  using acc_t = acc_of<scalar_t>;
  DYNAMIC_SHARED(acc_t, shared);
  const auto by_tile = divide(blockIdx.x, tiles.count);
  const auto by_slab = divide(by_tile.quotient, tiles.slabs);
  const Place<kPixels> place(tiles, by_slab.quotient, by_slab.remainder, by_tile.remainder);
  acc_t sums[kColumn];
  attend<scalar_t>(args, place, shared, sums, aligned);
  const auto x = static_cast<const scalar_t*>(args.x);
  const auto high = static_cast<const scalar_t*>(args.high);
#pragma unroll
  for (int j = 0; j < kColumn; ++j) {
    if (!place.inside(args, j)) continue;
    const int64_t at = place.output(args, j);
    const acc_t p = sigmoid(sums[j]), dy = widen(static_cast<const scalar_t*>(args.dy)[at]);
    acc_t gate = p, dp;
    if (high) {
      gate = sigmoid(p);
      dp = dy * (widen(x[at]) - widen(high[at])) * gate * (acc_t(1) - gate);
    } else {
      dp = dy * shared[place.shared(place.row() + j + kReach, place.column() + kReach)];
    }
    workspace.d_map[at] = dp * p * (acc_t(1) - p);
    workspace.gate[at] = gate;
  }
}

}  // namespace content_guided_attention
