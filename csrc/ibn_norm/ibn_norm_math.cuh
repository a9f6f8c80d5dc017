// The mathematics of ibn_norm on one vector and the merging of statistics. Contract:
// ibnvision/ops/ibn_norm.py.
#pragma once
#include "../cuda_common.cuh"
#include "ibn_norm.h"

namespace ibn_norm {

using namespace cuda_common;

constexpr int kLargestTeam = 384;  // threads

// ---- channels

__host__ __device__ inline bool is_instance(const Args& args, int64_t c) {
  return args.instance_last ? c >= args.C - args.instance_channels : c < args.instance_channels;
}

// Whether the statistics of channel c come from x itself and so take part in its gradient.
__host__ __device__ inline bool from_data(const Args& args, int64_t c) {
  return args.batch_stats || is_instance(args, c);
}

// Place of channel c in the parameters of its kind.
__device__ inline int64_t parameter_index(const Args& args, int64_t c) {
  if (is_instance(args, c)) return args.instance_last ? c - (args.C - args.instance_channels) : c;
  return args.instance_last ? c : c - args.instance_channels;
}

// Images that share the statistics of channel c, and how many such groups there are.
__host__ __device__ inline int64_t group_images(const Args& args, int64_t c) {
  return is_instance(args, c) ? 1 : args.batch_group;
}
__host__ __device__ inline int64_t groups_of(const Args& args, int64_t c) {
  const int64_t images = group_images(args, c);
  return (args.N + images - 1) / images;
}

// ---- statistics

// Count, mean and sum of squared deviations; merged after Chan, Golub and LeVeque (1979).
template <typename acc_t>
struct Moments {
  acc_t count, mean, m2;
};

template <typename acc_t>
__device__ Moments<acc_t> merge(const Moments<acc_t>& a, const Moments<acc_t>& b) {
  const acc_t count = a.count + b.count;
  const acc_t share = count > 0 ? b.count / count : acc_t(0);
  const acc_t delta = b.mean - a.mean;
  return {count, a.mean + delta * share, a.m2 + b.m2 + delta * delta * a.count * share};
}

template <typename acc_t>
__device__ Moments<acc_t> shuffle_xor(const Moments<acc_t>& a, int lane) {
  return {__shfl_xor_sync(kFullWarp, a.count, lane), __shfl_xor_sync(kFullWarp, a.mean, lane),
          __shfl_xor_sync(kFullWarp, a.m2, lane)};
}

template <typename acc_t>
__device__ Moments<acc_t> shuffle(const Moments<acc_t>& a, int lane) {
  return {__shfl_sync(kFullWarp, a.count, lane), __shfl_sync(kFullWarp, a.mean, lane),
          __shfl_sync(kFullWarp, a.m2, lane)};
}

// Sums over a group of g, the gradient behind the activation, and of g times the normalized x.
template <typename acc_t>
struct Sums {
  acc_t g, gx;
};

template <typename acc_t>
__device__ Sums<acc_t> merge(const Sums<acc_t>& a, const Sums<acc_t>& b) {
  return {a.g + b.g, a.gx + b.gx};
}

template <typename acc_t>
__device__ Sums<acc_t> shuffle_xor(const Sums<acc_t>& a, int lane) {
  return {__shfl_xor_sync(kFullWarp, a.g, lane), __shfl_xor_sync(kFullWarp, a.gx, lane)};
}

template <typename acc_t>
__device__ Sums<acc_t> shuffle(const Sums<acc_t>& a, int lane) {
  return {__shfl_sync(kFullWarp, a.g, lane), __shfl_sync(kFullWarp, a.gx, lane)};
}

// Merges the lanes whose numbers are equal modulo `width`, a power of two; lanes below it hold it.
template <typename T>
__device__ T warp_merge(T part, int width = 1) {
  for (int lane = 16; lane >= width; lane /= 2) part = merge(part, shuffle_xor(part, lane));
  return part;
}

// Merges over a row of the block, 32 to kLargestTeam threads; every thread gets the same value. At
// most one call for each T in a kernel: the shared array is not guarded against a second.
template <typename T>
__device__ T team_merge(T part) {
  part = warp_merge(part);
  if (blockDim.x == 32) return shuffle(part, 0);
  SHARED_ARRAY(T, warps, kLargestTeam / 32);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = part;
  __syncthreads();
  part = warps[0];
  for (int i = 1; i < blockDim.x / 32; ++i) part = merge(part, warps[i]);
  return part;
}

// One thread's sums about a value of its own, so that a large mean cancels before anything is
// squared.
template <typename acc_t>
struct ShiftedSums {
  acc_t shift = 0, sum = 0, squares = 0;

  __device__ void add(acc_t value) {
    const acc_t deviation = value - shift;
    sum += deviation;
    squares += deviation * deviation;
  }

  __device__ Moments<acc_t> finish(acc_t count) const {
    if (!(count > 0)) return {0, 0, 0};
    const acc_t mean = sum / count;
    const acc_t m2 = squares - sum * mean;
    return {count, shift + mean, m2 < 0 ? acc_t(0) : m2};
  }
};

// ---- one vector

// Where one vector lies: element offset in the activations, its byte in the mask, elements in it.
struct Place {
  int64_t offset, mask_byte;
  int mask_shift, count;
};

// n = (z - mean) * scale + bias, scale = weight * rstd
template <typename acc_t>
struct Affine {
  acc_t mean, rstd, scale, bias;
};

template <typename acc_t>
__device__ Affine<acc_t> make_affine(const Args& args, int64_t c, acc_t mean, acc_t var) {
  const bool instance = is_instance(args, c);
  const int64_t index = parameter_index(args, c);
  const auto weight = static_cast<const acc_t*>(instance ? args.in_weight : args.bn_weight);
  const auto bias = static_cast<const acc_t*>(instance ? args.in_bias : args.bn_bias);
  const acc_t rstd = inverse_sqrt(var + static_cast<acc_t>(args.eps));
  return {mean, rstd, weight ? weight[index] * rstd : rstd, bias ? bias[index] : acc_t(0)};
}

template <typename acc_t>
__device__ Affine<acc_t> read_affine(const Args& args, int64_t n, int64_t c) {
  const int64_t i = n * args.C + c;
  return make_affine(args, c, static_cast<const acc_t*>(args.mean)[i],
                     static_cast<const acc_t*>(args.var)[i]);
}

// By the one thread that knows the batch statistics of channel c.
template <typename acc_t>
__device__ void move_channel(const Args& args, int64_t c, acc_t mean, acc_t var) {
  if (args.moves && !is_instance(args, c)) {
    move_running(args, parameter_index(args, c), mean, var, args.N * args.S);
  }
}

// dx = scale * g + by_deviation * (z - mean) + offset: README, "Backward".
template <typename acc_t>
struct InputGradient {
  acc_t by_deviation, offset;
};

template <typename acc_t>
__device__ InputGradient<acc_t> make_input_gradient(const Args& args, int64_t n, int64_t c,
                                                    const Affine<acc_t>& affine,
                                                    const Sums<acc_t>& sums) {
  if (!from_data(args, c)) return {0, 0};
  const int64_t images = group_images(args, c);
  const int64_t first = n - divide(n, images).remainder;
  const acc_t count = static_cast<acc_t>(smaller(images, args.N - first) * args.S);
  return {-affine.scale * affine.rstd * (sums.gx / count), -affine.scale * (sums.g / count)};
}

template <int kSize, typename acc_t>
__device__ void activate(Act act, acc_t slope, acc_t (&t)[kSize]) {
  if (act == Act::relu) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) t[i] = t[i] <= 0 ? acc_t(0) : t[i];
  } else if (act == Act::leaky_relu) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) t[i] = t[i] > 0 ? t[i] : t[i] * slope;
  } else if (act == Act::silu) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) t[i] = t[i] / (1 + exponential(-t[i]));
  }
}

// g *= act'(t)
template <int kSize, typename acc_t>
__device__ void activate_gradient(Act act, acc_t slope, const acc_t (&t)[kSize],
                                  acc_t (&g)[kSize]) {
  if (act == Act::relu) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) g[i] = t[i] > 0 ? g[i] : acc_t(0);
  } else if (act == Act::leaky_relu) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) g[i] = t[i] > 0 ? g[i] : g[i] * slope;
  } else if (act == Act::silu) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const acc_t sigmoid = 1 / (1 + exponential(-t[i]));
      g[i] *= sigmoid * (1 + t[i] * (1 - sigmoid));
    }
  }
}

// What is normalized: x, or x + residual where the residual comes first.
template <typename scalar_t>
__device__ void normalized_input(const Args& args, const Vec<scalar_t>& x, const Place& place,
                                 bool aligned, acc_of<scalar_t> (&z)[Vec<scalar_t>::kSize]) {
  constexpr int kSize = Vec<scalar_t>::kSize;
#pragma unroll
  for (int i = 0; i < kSize; ++i) z[i] = x[i];
  if (args.residual_first && args.residual != nullptr) {
    const auto r =
        load_vec(static_cast<const scalar_t*>(args.residual) + place.offset, place.count, aligned);
#pragma unroll
    for (int i = 0; i < kSize; ++i) z[i] += r[i];
  }
}

template <typename scalar_t>
__device__ void add_late_residual(const Args& args, const Place& place, bool aligned,
                                  acc_of<scalar_t> (&t)[Vec<scalar_t>::kSize]) {
  if (args.residual_first || args.residual == nullptr) return;
  const auto r =
      load_vec(static_cast<const scalar_t*>(args.residual) + place.offset, place.count, aligned);
#pragma unroll
  for (int i = 0; i < Vec<scalar_t>::kSize; ++i) t[i] += r[i];
}

// Writes y of one vector and its bits of the mask. `affine(i)` is element i's. All lanes of a warp
// call it together, with a count of 0 where there is nothing: the lanes of a mask byte exchange
// bits.
template <typename scalar_t, typename AffineOf>
__device__ void write_forward(const Args& args, const Vec<scalar_t>& x, const Place& place,
                              bool aligned, const AffineOf& affine) {
  using acc_t = acc_of<scalar_t>;
  constexpr int kSize = Vec<scalar_t>::kSize;
  acc_t t[kSize];
  normalized_input(args, x, place, aligned, t);
#pragma unroll
  for (int i = 0; i < kSize; ++i) t[i] = (t[i] - affine(i).mean) * affine(i).scale + affine(i).bias;
  add_late_residual<scalar_t>(args, place, aligned, t);
  if (args.mask != nullptr) {
    unsigned bits = 0;
#pragma unroll
    for (int i = 0; i < kSize; ++i) bits |= (i < place.count && t[i] > 0 ? 1u : 0u) << i;
    bits <<= place.mask_shift;
#pragma unroll
    for (int lane = 1; lane < 8 / kSize; lane *= 2) bits |= __shfl_xor_sync(kFullWarp, bits, lane);
    if (place.count > 0 && place.mask_shift == 0) {
      args.mask[place.mask_byte] = static_cast<uint8_t>(bits);
    }
  }
  activate(args.act, static_cast<acc_t>(args.slope), t);
  store_vec(static_cast<scalar_t*>(args.y) + place.offset, t, place.count, aligned);
}

// g = dy * act' and the deviation z - mean of one vector; g is 0 behind its end.
template <typename scalar_t, typename AffineOf>
__device__ void read_gradient(const Args& args, const Vec<scalar_t>& x, const Vec<scalar_t>& dy,
                              const Place& place, bool aligned, const AffineOf& affine,
                              acc_of<scalar_t> (&g)[Vec<scalar_t>::kSize],
                              acc_of<scalar_t> (&deviation)[Vec<scalar_t>::kSize]) {
  using acc_t = acc_of<scalar_t>;
  constexpr int kSize = Vec<scalar_t>::kSize;
  acc_t t[kSize];
  normalized_input(args, x, place, aligned, deviation);
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    g[i] = dy[i];
    deviation[i] -= affine(i).mean;
    t[i] = deviation[i] * affine(i).scale + affine(i).bias;
  }
  if (args.mask != nullptr) {
    const unsigned bits = place.count > 0 ? args.mask[place.mask_byte] >> place.mask_shift : 0u;
#pragma unroll
    for (int i = 0; i < kSize; ++i) t[i] = (bits >> i & 1) != 0 ? acc_t(1) : acc_t(-1);
  } else {
    add_late_residual<scalar_t>(args, place, aligned, t);
  }
  activate_gradient(args.act, static_cast<acc_t>(args.slope), t, g);
}

template <typename scalar_t, typename AffineOf, typename InputGradientOf>
__device__ void write_backward(const Args& args, const Vec<scalar_t>& x, const Vec<scalar_t>& dy,
                               const Place& place, bool aligned, const AffineOf& affine,
                               const InputGradientOf& input) {
  constexpr int kSize = Vec<scalar_t>::kSize;
  acc_of<scalar_t> g[kSize], deviation[kSize];
  read_gradient(args, x, dy, place, aligned, affine, g, deviation);
  if (args.d_residual != nullptr) {
    store_vec(static_cast<scalar_t*>(args.d_residual) + place.offset, g, place.count, aligned);
  }
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    g[i] = affine(i).scale * g[i] + input(i).by_deviation * deviation[i] + input(i).offset;
  }
  store_vec(static_cast<scalar_t*>(args.dx) + place.offset, g, place.count, aligned);
}

// Partial results, [slots, C] each, and the finished sums of the backward, [groups, C].
template <typename acc_t>
struct Workspace {
  acc_t *count, *mean, *m2;  // forward
  acc_t *part_g, *part_gx;   // backward
  acc_t *sum_g, *sum_gx;

  __device__ void write(int64_t i, const Moments<acc_t>& m) const {
    count[i] = m.count;
    mean[i] = m.mean;
    m2[i] = m.m2;
  }
  __device__ void write(int64_t i, const Sums<acc_t>& s) const {
    part_g[i] = s.g;
    part_gx[i] = s.gx;
  }
  __device__ void read(int64_t i, Moments<acc_t>& m) const { m = {count[i], mean[i], m2[i]}; }
  __device__ void read(int64_t i, Sums<acc_t>& s) const { s = {part_g[i], part_gx[i]}; }
  __device__ Sums<acc_t> sums(int64_t i) const { return {sum_g[i], sum_gx[i]}; }
};

}  // namespace ibn_norm
