// From the gradient before the sigmoid to those of the inputs, the taps and the attentions.
#pragma once
#include "content_guided_attention_attention.cuh"

namespace content_guided_attention {

constexpr int kSums = 2 * kTaps + 1;  // of a channel: taps on x, taps on ca + sa, the sum of d_map
constexpr int kGroupPlanes = 16;      // channels whose d_sa one block adds, in order
constexpr int kChunkTiles = 4;        // tiles of one image whose sums one block adds, in order
constexpr int kMergeThreads = 128;

template <bool kPixels>
constexpr int kGroupSlabs = kPixels ? 1 : kGroupPlanes;

template <bool kPixels>
constexpr int64_t input_shared_elements() {
  return Geometry<kPixels>::kTile + Geometry<kPixels>::kTaps2;
}

template <bool kPixels>
constexpr int64_t weight_shared_elements() {
  using G = Geometry<kPixels>;
  return G::kTile + G::kPlane + G::kX * G::kY * G::kUnit;
}

// The places of the padded image, of one axis, that hold position i: itself and its reflections.
struct Images {
  int64_t i, size;
  bool before, behind;  // whether it is reflected there
  __device__ Images(int64_t i, int64_t size)
      : i(i),
        size(size),
        before(i >= 1 && i <= kReach),
        behind(size - 1 - i >= 1 && size - 1 - i <= kReach) {}
  __device__ int count() const { return 1 + before + behind; }
  __device__ int64_t at(int k) const {
    if (k == 0) return i;
    return k == 1 && before ? -i : 2 * (size - 1) - i;
  }
};

// Adds what reached the thread's output (y, x) through its reflections in the border. Everything
// that they see lies in the output's own 7x7 window, hence in the tile.
template <bool kPixels, typename acc_t>
__device__ void add_reflections(const Args& args, const Place<kPixels>& place, const acc_t* tile,
                                const acc_t* taps, int64_t y, int64_t x, acc_t& on_x,
                                acc_t& on_sa) {
  using G = Geometry<kPixels>;
  const Images down(y, args.H), across(x, args.W);
  for (int k = 1; k < down.count() * across.count(); ++k) {  // 0 is the output itself
    const int64_t ey = down.at(k / across.count()), ex = across.at(k % across.count());
    for (int tap = 0; tap < kTaps; ++tap) {
      const int64_t py = ey + kReach - tap / 7, px = ex + kReach - tap % 7;
      if (py < 0 || py >= args.H || px < 0 || px >= args.W) continue;
      const int row = static_cast<int>(py - place.y0), column = static_cast<int>(px - place.x0);
      const acc_t d = tile[place.shared(row + kReach, column + kReach)];
      on_x += d * taps[tap * G::kUnit];
      on_sa += d * taps[(kTaps + tap) * G::kUnit];
    }
  }
}

// grid: one block a (tile, group of slabs, image), of (32, kThreadRows) threads
// Reads d_map with its halo, the gate and dy; writes dx, d_high and the group's part of d_sa.
// SASS: 128-bit loads for true
template <typename scalar_t, bool kPixels>
__global__ void __launch_bounds__(32 * Geometry<kPixels>::kThreadRows)
    content_guided_attention_backward_input_kernel(
        const __grid_constant__ Args args, const __grid_constant__ Tiles tiles,
        const __grid_constant__ Workspace<scalar_t> workspace, bool aligned) {
  using acc_t = acc_of<scalar_t>;
  using G = Geometry<kPixels>;
  DYNAMIC_SHARED(acc_t, tile);
  acc_t* const taps = tile + G::kTile;
  const acc_t* const own = taps + (kPixels ? threadIdx.x : 0);
  const auto by_tile = divide(blockIdx.x, tiles.count);
  const auto by_group = divide(by_tile.quotient, workspace.groups);
  const int64_t n = by_group.quotient, group = by_group.remainder;
  const int64_t slab_end = smaller(tiles.slabs, (group + 1) * kGroupSlabs<kPixels>);
  acc_t d_sa[kColumn] = {};
  for (int64_t slab = group * kGroupSlabs<kPixels>; slab < slab_end; ++slab) {
    const Place<kPixels> place(tiles, n, slab, by_tile.remainder);
    __syncthreads();  // the slab before has been read
    load_tile<kPixels, false, kReach, acc_t>(tile, args, place, workspace.d_map, nullptr, aligned);
    load_taps<kPixels>(taps, args, place.channel0());
    __syncthreads();
    acc_t through[kColumn] = {};
    const acc_t* in = tile + place.shared(place.row(), place.column());
    correlate<true, G::kUnit>(through, in, G::kRow, G::kUnit, own, acc_t(0));
    correlate<true, G::kUnit>(d_sa, in, G::kRow, G::kUnit, own + kTaps * G::kUnit, acc_t(0));
#pragma unroll
    for (int j = 0; j < kColumn; ++j) {
      if (!place.inside(args, j)) continue;
      add_reflections(args, place, tile, own, place.y0 + place.row() + j, place.x0 + place.column(),
                      through[j], d_sa[j]);
      const int64_t at = place.output(args, j);
      const acc_t gate = workspace.gate[at];  // before dx, which may be the same memory
      const acc_t dy = widen(static_cast<const scalar_t*>(args.dy)[at]);
      const acc_t direct = args.high ? acc_t(1) + gate : gate;
      narrow(through[j] + dy * direct, static_cast<scalar_t*>(args.dx)[at]);
      if (args.high) {
        narrow(through[j] + dy * (acc_t(2) - gate), static_cast<scalar_t*>(args.d_high)[at]);
      }
    }
  }
  const Place<kPixels> place(tiles, n, 0, by_tile.remainder);
  acc_t* const plane = workspace.group_d_sa + by_tile.quotient * args.H * args.W;
#pragma unroll
  for (int j = 0; j < kColumn; ++j) {
    acc_t total = d_sa[j];
    if constexpr (kPixels) total = warp_sum(total);
    const int64_t y = place.y0 + place.row() + j, x = place.x0 + place.column();
    if (y < args.H && x < args.W && (!kPixels || threadIdx.x == 0)) plane[y * args.W + x] = total;
  }
}

// grid: one block a (chunk of tiles, slab, image), of (32, 7) threads: a warp has a column of taps
// SASS: 128-bit loads for true
template <typename scalar_t, bool kPixels>
__global__ void __launch_bounds__(32 * 7) content_guided_attention_backward_weight_kernel(
    const __grid_constant__ Args args, const __grid_constant__ Tiles tiles,
    const __grid_constant__ Workspace<scalar_t> workspace, bool aligned, bool map_aligned) {
  using acc_t = acc_of<scalar_t>;
  using G = Geometry<kPixels>;
  DYNAMIC_SHARED(acc_t, tile);
  acc_t* const sa = tile + G::kTile;
  acc_t* const d_map = sa + G::kPlane;
  const auto by_chunk = divide(blockIdx.x, workspace.chunks);
  const auto by_slab = divide(by_chunk.quotient, tiles.slabs);
  const int64_t n = by_slab.quotient, slab = by_slab.remainder, chunk = by_chunk.remainder;
  const int64_t end = smaller(tiles.count, (chunk + 1) * kChunkTiles);
  const int kx = threadIdx.y;
  const int64_t c = slab * G::kUnit + (kPixels ? threadIdx.x : 0);
  const acc_t ca = c < args.C ? static_cast<const acc_t*>(args.ca)[n * args.C + c] : acc_t(0);
  acc_t on_x[7] = {}, on_map[7] = {}, total = 0;
  for (int64_t i = chunk * kChunkTiles; i < end; ++i) {
    const Place<kPixels> place(tiles, n, slab, i);
    __syncthreads();  // the tile before has been read
    load_tile<kPixels, true, kReach>(tile, args, place, static_cast<const scalar_t*>(args.x),
                                     static_cast<const scalar_t*>(args.high), aligned);
    load_spatial<kPixels>(sa, args, place);
    load_tile<kPixels, false, 0, acc_t>(d_map, args, place, workspace.d_map, nullptr, map_aligned);
    __syncthreads();
#pragma unroll 1
    for (int step = 0; step < (kPixels ? G::kX : G::kY / kColumn); ++step) {
      const int row = kPixels ? 0 : step * kColumn, column = kPixels ? step : threadIdx.x;
      acc_t d[kColumn];
#pragma unroll
      for (int j = 0; j < kColumn; ++j) {
        d[j] = d_map[((row + j) * G::kX + column) * G::kUnit + (kPixels ? threadIdx.x : 0)];
        total += d[j];
      }
#pragma unroll
      for (int k = 0; k < kColumn + 6; ++k) {
        const acc_t v = tile[place.shared(row + k, column + kx)];
        const acc_t m = sa[(row + k) * G::kHaloX + column + kx] + ca;
#pragma unroll
        for (int j = 0; j < kColumn; ++j) {
          if (k - j < 0 || k - j >= 7) continue;
          on_x[k - j] += v * d[j];
          on_map[k - j] += m * d[j];
        }
      }
    }
  }
  if constexpr (!kPixels) {
#pragma unroll
    for (int ky = 0; ky < 7; ++ky) {
      on_x[ky] = warp_sum(on_x[ky]);
      on_map[ky] = warp_sum(on_map[ky]);
    }
    total = warp_sum(total);
  }
  if (c >= args.C || (!kPixels && threadIdx.x != 0)) return;
  acc_t* const to = workspace.sums + ((n * workspace.chunks + chunk) * args.C + c) * kSums;
#pragma unroll
  for (int ky = 0; ky < 7; ++ky) {
    to[7 * ky + kx] = on_x[ky];
    to[kTaps + 7 * ky + kx] = on_map[ky];
  }
  if (kx == 0) to[2 * kTaps] = total;
}

// grid: one block a channel; a thread has one sum over the images and their chunks
// SASS: no local memory
template <typename scalar_t>
__global__ void __launch_bounds__(kMergeThreads) content_guided_attention_backward_merge_kernel(
    const __grid_constant__ Args args, const __grid_constant__ Workspace<scalar_t> workspace) {
  using acc_t = acc_of<scalar_t>;
  const int64_t c = blockIdx.x;
  const int sum = threadIdx.x;
  if (sum >= kSums) return;
  const acc_t* const weight = static_cast<const acc_t*>(args.weight) + c * 2 * kTaps;
  acc_t on_map = 0, total = 0;
  if (sum == 2 * kTaps) {
    for (int tap = kTaps; tap < 2 * kTaps; ++tap) on_map += weight[tap];
  }
  for (int64_t n = 0; n < args.N; ++n) {
    acc_t image = 0;
    for (int64_t chunk = 0; chunk < workspace.chunks; ++chunk) {
      image += workspace.sums[((n * workspace.chunks + chunk) * args.C + c) * kSums + sum];
    }
    if (sum == 2 * kTaps) static_cast<acc_t*>(args.d_ca)[n * args.C + c] = on_map * image;
    total += image;
  }
  if (sum == 2 * kTaps) {
    static_cast<acc_t*>(args.d_bias)[c] = total;
  } else {
    static_cast<acc_t*>(args.d_weight)[c * 2 * kTaps + sum] = total;
  }
}

// grid: a thread has one pixel, over the groups of channels
// SASS: no local memory
template <typename scalar_t>
__global__ void __launch_bounds__(kMergeThreads) content_guided_attention_backward_merge_sa_kernel(
    const __grid_constant__ Args args, const __grid_constant__ Workspace<scalar_t> workspace) {
  using acc_t = acc_of<scalar_t>;
  const int64_t pixels = args.H * args.W;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kMergeThreads + threadIdx.x;
  if (i >= args.N * pixels) return;
  const auto at = divide(i, pixels);
  acc_t total = 0;
  for (int64_t group = 0; group < workspace.groups; ++group) {
    total += workspace.group_d_sa[(at.quotient * workspace.groups + group) * pixels + at.remainder];
  }
  static_cast<acc_t*>(args.d_sa)[i] = total;
}

}  // namespace content_guided_attention
