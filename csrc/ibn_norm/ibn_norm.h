// What every launcher of ibn_norm is told, on every device. Contract: ibnvision/ops/ibn_norm.py.
// Sizes and counts in elements; a pointer is null where the contract says None. No torch header.
#pragma once
#include <cstdint>

#include "../common.h"

namespace ibn_norm {

enum class Act : int32_t { none = 0, relu = 1, leaky_relu = 2, silu = 3 };
using ibnvision::Dtype;

struct Args {
  // activations, [N, C, S] or, channels_last, [N, S, C]; type scalar_t = dtype
  const void* x;
  const void* residual;
  const void* dy;    // backward
  void* y;           // forward
  void* dx;          // backward
  void* d_residual;  // backward; null unless a residual after the norm has an activation behind it
  uint8_t* mask;  // one bit an element, rows [N, C] of S bits or, channels_last, [N, S] of C bits,
                  // each padded to whole bytes: whether norm + residual is positive
  // parameters, type acc_t = float, for float64 double
  const void *in_weight, *in_bias;     // [I]
  const void *bn_weight, *bn_bias;     // [C - I]
  void *running_mean, *running_var;    // [C - I], read without batch statistics, or moved
  const int64_t* num_batches_tracked;  // moved by 1 / it, the cumulative average; or null
  void *mean, *var;                    // [N, C], biased variance; written forward, read backward
  void *d_in_weight, *d_in_bias;       // [I], backward
  void *d_bn_weight, *d_bn_bias;       // [C - I], backward
  void* workspace;                     // CUDA only: workspace_bytes(args) bytes
  int64_t N, C, S;
  int64_t instance_channels;  // I, a range at the start of the channels or, instance_last, the end
  int64_t batch_group;        // images that share batch statistics: N today
  double eps, slope;
  double momentum;  // of the running statistics, where num_batches_tracked is null
  Dtype dtype;
  Act act;
  bool instance_last, residual_first, batch_stats, channels_last;
  bool moves;  // forward: the running statistics move towards the batch's; batch_group must be N
};

#ifdef __CUDACC__
#define IBN_NORM_FUNCTION static inline __host__ __device__
#else
#define IBN_NORM_FUNCTION static inline  // else the linker may pick another instruction set's
#endif

// One running value after a batch; the share 1 gives exactly the batch's.
template <typename acc_t>
IBN_NORM_FUNCTION acc_t moved(acc_t running, acc_t batch, acc_t share) {
  const acc_t step = batch - running;
  return share < acc_t(0.5) ? running + share * step : batch - step * (acc_t(1) - share);
}

// Moves the running statistics of entry `index` by the batch's mean and biased variance of `count`
// values.
template <typename acc_t>
IBN_NORM_FUNCTION void move_running(const Args& args, int64_t index, acc_t mean, acc_t var,
                                    int64_t count) {
  const acc_t share =
      args.num_batches_tracked ? acc_t(1) / acc_t(*args.num_batches_tracked) : acc_t(args.momentum);
  const acc_t unbiased = var * (acc_t(count) / acc_t(count > 1 ? count - 1 : 1));
  acc_t* running_mean = static_cast<acc_t*>(args.running_mean) + index;
  acc_t* running_var = static_cast<acc_t*>(args.running_var) + index;
  *running_mean = moved(*running_mean, mean, share);
  *running_var = moved(*running_var, unbiased, share);
}

}  // namespace ibn_norm
