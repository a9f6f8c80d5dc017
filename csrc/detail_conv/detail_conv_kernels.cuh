// The fold and its transpose on the GPU. Contract: ibnvision/ops/detail_conv.py.
// Each reads its inputs once and writes its outputs once, in one launch.
#pragma once
#include "../cuda_common.cuh"
#include "detail_conv.h"
#include "detail_conv_math.h"

namespace detail_conv {

using namespace cuda_common;

constexpr int kBlock = 128;

// Where the taps of one (output, input) pair lie.
struct Place {
  int64_t taps, stride;  // of a [O, I, 3, 3] tensor: tap t at taps + t * stride
  int64_t line;          // of a [O, I, 3] tensor

  __device__ Place(int64_t pair, int64_t wide, bool channels_last)
      : taps(9 * pair), stride(1), line(3 * pair) {
    if (channels_last) {
      const Divided at = divide(pair, wide);
      taps = at.quotient * 9 * wide + at.remainder;
      stride = wide;
    }
  }
};

template <typename scalar_t>
__device__ acc_of<scalar_t> value_at(const void* p, int64_t index) {
  return widen(static_cast<const scalar_t*>(p)[index]);
}

template <typename scalar_t>
__device__ void store_at(void* p, int64_t index, acc_of<scalar_t> value) {
  narrow(value, static_cast<scalar_t*>(p)[index]);
}

// grid: pairs of channels, then outputs for the bias, kBlock a block; a thread a pair.
// The 9 taps of neighbouring threads are neighbours in memory, so that a warp uses the whole of
// each line that it brings to L1.
// SASS: no local memory
template <typename scalar_t>
__global__ void __launch_bounds__(kBlock) detail_conv_forward_kernel(Args args, int64_t pairs) {
  using acc_t = acc_of<scalar_t>;
  const int64_t pair = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (pair < args.O && args.bias != nullptr) {
    const void* biases[] = {args.central_bias, args.horizontal_bias, args.vertical_bias,
                            args.angular_bias, args.vanilla_bias};
    acc_t sum = 0;
#pragma unroll
    for (int i = 0; i < 5; ++i) {
      if (biases[i] != nullptr) sum += value_at<scalar_t>(biases[i], pair);
    }
    store_at<scalar_t>(args.bias, pair, sum);
  }
  if (pair >= pairs) return;
  const Place at(pair, args.I, args.channels_last);
  Branches<acc_t> w;
  acc_t kernel[9];
#pragma unroll
  for (int t = 0; t < 9; ++t) {
    const int64_t tap = at.taps + t * at.stride;
    w.central[t] = value_at<scalar_t>(args.central, tap);
    w.angular[t] = value_at<scalar_t>(args.angular, tap);
    kernel[t] = args.vanilla != nullptr ? value_at<scalar_t>(args.vanilla, tap) : acc_t(0);
  }
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    w.horizontal[i] = value_at<scalar_t>(args.horizontal, at.line + i);
    w.vertical[i] = value_at<scalar_t>(args.vertical, at.line + i);
  }
  const Thetas<acc_t> theta{acc_t(args.central_theta), acc_t(args.angular_theta)};
  add_differences(w, theta, kernel);
#pragma unroll
  for (int t = 0; t < 9; ++t) store_at<scalar_t>(args.weight, at.taps + t * at.stride, kernel[t]);
}

// grid: pairs of channels, kBlock a block; a thread a pair.
// SASS: no local memory
template <typename scalar_t>
__global__ void __launch_bounds__(kBlock) detail_conv_backward_kernel(Args args, int64_t pairs) {
  using acc_t = acc_of<scalar_t>;
  const int64_t pair = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (pair >= pairs) return;
  const Place at(pair, args.I, args.channels_last);
  acc_t g[9];
#pragma unroll
  for (int t = 0; t < 9; ++t) g[t] = value_at<scalar_t>(args.d_weight, at.taps + t * at.stride);
  const Thetas<acc_t> theta{acc_t(args.central_theta), acc_t(args.angular_theta)};
  const Branches<acc_t> d = branch_gradients(g, theta);
#pragma unroll
  for (int t = 0; t < 9; ++t) {
    store_at<scalar_t>(args.d_central, at.taps + t * at.stride, d.central[t]);
    store_at<scalar_t>(args.d_angular, at.taps + t * at.stride, d.angular[t]);
  }
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    store_at<scalar_t>(args.d_horizontal, at.line + i, d.horizontal[i]);
    store_at<scalar_t>(args.d_vertical, at.line + i, d.vertical[i]);
  }
}

template <typename scalar_t>
void run(const Args& args, bool backward, cudaStream_t stream) {
  const int64_t pairs = args.O * args.I;
  const int64_t threads = backward || pairs > args.O ? pairs : args.O;
  if (threads == 0) return;
  const auto kernel =
      backward ? detail_conv_backward_kernel<scalar_t> : detail_conv_forward_kernel<scalar_t>;
  launch(kernel, dim3(static_cast<unsigned>((threads + kBlock - 1) / kBlock)), dim3(kBlock), 0,
         stream, args, pairs);
}

}  // namespace detail_conv
