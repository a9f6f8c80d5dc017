// ibn_norm on channels_last activations, [N, S, C]: lanes across channels, threads down the pixels.
#pragma once
#include "ibn_norm_math.cuh"

namespace ibn_norm {

constexpr int kRowsBlock = 256;  // threads a block
constexpr int kRowsAtOnce = 4;   // rows a thread loads before it uses the first

// The pixels of an image are split into chunks, the channels into tiles of `width` vectors.
struct Rows {
  int64_t tiles, chunks;
  int64_t chunk_rows;  // pixels a chunk
  bool aligned;        // every vector is full and a multiple of 16 bytes
};

// One thread's share: `count` channels from c on, pixels begin + threadIdx.y, + blockDim.y, ...
template <typename scalar_t>
struct Strip {
  static constexpr int kSize = Vec<scalar_t>::kSize;
  int64_t n, slot, tile_channel, c, begin, end;
  int count;

  __device__ Strip(const Args& args, const Rows& rows, bool backwards) {
    const int64_t block = backwards ? gridDim.x - 1 - static_cast<int64_t>(blockIdx.x) : blockIdx.x;
    const auto by_tile = divide(block, rows.tiles);
    const auto by_chunk = divide(by_tile.quotient, rows.chunks);
    n = by_chunk.quotient;
    slot = by_tile.quotient;
    tile_channel = by_tile.remainder * blockDim.x * kSize;
    c = tile_channel + threadIdx.x * kSize;
    begin = by_chunk.remainder * rows.chunk_rows;
    end = smaller(args.S, begin + rows.chunk_rows);
    count = c < args.C ? static_cast<int>(smaller(args.C - c, kSize)) : 0;
  }

  __device__ Place place(const Args& args, int64_t s) const {
    const int64_t row = n * args.S + s;
    return {row * args.C + c, row * ((args.C + 7) / 8) + c / 8, static_cast<int>(c % 8),
            s < end ? count : 0};
  }

  template <typename acc_t>
  __device__ void read_affines(const Args& args, Affine<acc_t> (&affine)[kSize]) const {
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      affine[i] = {0, 0, 0, 0};
      if (i < count) affine[i] = read_affine<acc_t>(args, n, c + i);
    }
  }
};

// Merges the parts of a channel over the block and leaves one for each channel in the workspace.
template <typename scalar_t, typename T>
__device__ void write_parts(const Args& args, const Strip<scalar_t>& strip,
                            const Workspace<acc_of<scalar_t>>& workspace,
                            T (&part)[Vec<scalar_t>::kSize]) {
  constexpr int kSize = Vec<scalar_t>::kSize;
  constexpr int kWarps = kRowsBlock / 32;
  SHARED_ARRAY(T, warps, kWarps * 32 * kSize);
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  const int channels = blockDim.x * kSize;
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    part[i] = warp_merge(part[i], blockDim.x);
    if (thread % 32 < blockDim.x)
      warps[(thread / 32) * channels + threadIdx.x * kSize + i] = part[i];
  }
  __syncthreads();
  for (int i = thread; i < channels; i += kRowsBlock) {
    T total = warps[i];
    for (int warp = 1; warp < kWarps; ++warp) total = merge(total, warps[warp * channels + i]);
    const int64_t c = strip.tile_channel + i;
    if (c < args.C) workspace.write(strip.slot * args.C + c, total);
  }
}

// grid:  one block a (tile, chunk, image), of (width, kRowsBlock / width) threads
// x is read once here and once in the apply kernel, along C with 128-bit accesses where
// Rows::aligned; tiles of channels that take the running statistics are skipped.
// SASS: 128-bit loads
template <typename scalar_t>
__global__ void __launch_bounds__(kRowsBlock, 2) ibn_norm_forward_part_rows_kernel(
    const __grid_constant__ Args args, const __grid_constant__ Rows rows,
    const __grid_constant__ Workspace<acc_of<scalar_t>> workspace) {
  using acc_t = acc_of<scalar_t>;
  constexpr int kSize = Vec<scalar_t>::kSize;
  const auto x = static_cast<const scalar_t*>(args.x);
  const Strip<scalar_t> strip(args, rows, false);
  const int64_t tile_last = smaller(args.C, strip.tile_channel + blockDim.x * kSize) - 1;
  if (!from_data(args, strip.tile_channel) && !from_data(args, tile_last)) return;

  ShiftedSums<acc_t> sums[kSize];
  int64_t pixels = 0;
  const int64_t step = blockDim.y;
  for (int64_t s0 = strip.begin + threadIdx.y; s0 < strip.end; s0 += step * kRowsAtOnce) {
    Vec<scalar_t> loaded[kRowsAtOnce];
#pragma unroll
    for (int u = 0; u < kRowsAtOnce; ++u) {
      const Place place = strip.place(args, s0 + u * step);
      loaded[u] = load_vec(x + place.offset, place.count, rows.aligned);
    }
#pragma unroll
    for (int u = 0; u < kRowsAtOnce; ++u) {
      const Place place = strip.place(args, s0 + u * step);
      if (s0 + u * step >= strip.end) break;
      acc_t z[kSize];
      normalized_input(args, loaded[u], place, rows.aligned, z);
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        if (pixels == 0) sums[i].shift = z[i];
        sums[i].add(z[i]);
      }
      ++pixels;
    }
  }
  Moments<acc_t> moments[kSize];
#pragma unroll
  for (int i = 0; i < kSize; ++i) moments[i] = sums[i].finish(static_cast<acc_t>(pixels));
  write_parts(args, strip, workspace, moments);
}

// Grid as above, from the end of x, which the part kernel read last and may still be cached.
// SASS: 128-bit loads, 128-bit stores
template <typename scalar_t>
__global__ void __launch_bounds__(kRowsBlock, 2)
    ibn_norm_forward_apply_rows_kernel(const __grid_constant__ Args args,
                                       const __grid_constant__ Rows rows) {
  using acc_t = acc_of<scalar_t>;
  constexpr int kSize = Vec<scalar_t>::kSize;
  const auto x = static_cast<const scalar_t*>(args.x);
  const Strip<scalar_t> strip(args, rows, true);
  Affine<acc_t> affine[kSize];
  strip.read_affines(args, affine);
  const int64_t step = blockDim.y;
  for (int64_t base = strip.begin; base < strip.end; base += step * kRowsAtOnce) {
    const int64_t s0 = base + threadIdx.y;
    Vec<scalar_t> loaded[kRowsAtOnce];
#pragma unroll
    for (int u = 0; u < kRowsAtOnce; ++u) {
      const Place place = strip.place(args, s0 + u * step);
      loaded[u] = load_vec(x + place.offset, place.count, rows.aligned);
    }
#pragma unroll
    for (int u = 0; u < kRowsAtOnce; ++u) {
      write_forward(args, loaded[u], strip.place(args, s0 + u * step), rows.aligned,
                    [&](int i) { return affine[i]; });
    }
  }
}

constexpr int kRowsAtOnceBackward = 2;  // of both x and dy

// Grid of the forward's part kernel; reads x and dy once.
// SASS: 128-bit loads
template <typename scalar_t>
__global__ void __launch_bounds__(kRowsBlock, 2) ibn_norm_backward_part_rows_kernel(
    const __grid_constant__ Args args, const __grid_constant__ Rows rows,
    const __grid_constant__ Workspace<acc_of<scalar_t>> workspace) {
  using acc_t = acc_of<scalar_t>;
  constexpr int kSize = Vec<scalar_t>::kSize;
  const auto x = static_cast<const scalar_t*>(args.x);
  const auto dy = static_cast<const scalar_t*>(args.dy);
  const Strip<scalar_t> strip(args, rows, false);
  Affine<acc_t> affine[kSize];
  strip.read_affines(args, affine);

  Sums<acc_t> sums[kSize];
#pragma unroll
  for (int i = 0; i < kSize; ++i) sums[i] = {0, 0};
  const int64_t step = blockDim.y;
  for (int64_t s0 = strip.begin + threadIdx.y; s0 < strip.end; s0 += step * kRowsAtOnceBackward) {
    Vec<scalar_t> loaded_x[kRowsAtOnceBackward], loaded_dy[kRowsAtOnceBackward];
#pragma unroll
    for (int u = 0; u < kRowsAtOnceBackward; ++u) {
      const Place place = strip.place(args, s0 + u * step);
      loaded_x[u] = load_vec(x + place.offset, place.count, rows.aligned);
      loaded_dy[u] = load_vec(dy + place.offset, place.count, rows.aligned);
    }
#pragma unroll
    for (int u = 0; u < kRowsAtOnceBackward; ++u) {
      acc_t g[kSize], deviation[kSize];
      read_gradient(
          args, loaded_x[u], loaded_dy[u], strip.place(args, s0 + u * step), rows.aligned,
          [&](int i) { return affine[i]; }, g, deviation);
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        sums[i].g += g[i];
        sums[i].gx += g[i] * deviation[i];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kSize; ++i) sums[i].gx *= affine[i].rstd;
  write_parts(args, strip, workspace, sums);
}

// Grid of the forward's apply kernel; reads x and dy once and writes dx, and d_residual if wanted.
// SASS: 128-bit loads, 128-bit stores
template <typename scalar_t>
__global__ void __launch_bounds__(kRowsBlock, 2) ibn_norm_backward_apply_rows_kernel(
    const __grid_constant__ Args args, const __grid_constant__ Rows rows,
    const __grid_constant__ Workspace<acc_of<scalar_t>> workspace) {
  using acc_t = acc_of<scalar_t>;
  constexpr int kSize = Vec<scalar_t>::kSize;
  const auto x = static_cast<const scalar_t*>(args.x);
  const auto dy = static_cast<const scalar_t*>(args.dy);
  const Strip<scalar_t> strip(args, rows, true);
  Affine<acc_t> affine[kSize];
  InputGradient<acc_t> input[kSize];
  strip.read_affines(args, affine);
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    input[i] = {0, 0};
    if (i < strip.count) {
      const int64_t group = divide(strip.n, group_images(args, strip.c + i)).quotient;
      input[i] = make_input_gradient(args, strip.n, strip.c + i, affine[i],
                                     workspace.sums(group * args.C + strip.c + i));
    }
  }
  const int64_t step = blockDim.y;
  for (int64_t s0 = strip.begin + threadIdx.y; s0 < strip.end; s0 += step * kRowsAtOnceBackward) {
    Vec<scalar_t> loaded_x[kRowsAtOnceBackward], loaded_dy[kRowsAtOnceBackward];
#pragma unroll
    for (int u = 0; u < kRowsAtOnceBackward; ++u) {
      const Place place = strip.place(args, s0 + u * step);
      loaded_x[u] = load_vec(x + place.offset, place.count, rows.aligned);
      loaded_dy[u] = load_vec(dy + place.offset, place.count, rows.aligned);
    }
#pragma unroll
    for (int u = 0; u < kRowsAtOnceBackward; ++u) {
      write_backward(
          args, loaded_x[u], loaded_dy[u], strip.place(args, s0 + u * step), rows.aligned,
          [&](int i) { return affine[i]; }, [&](int i) { return input[i]; });
    }
  }
}

}  // namespace ibn_norm
