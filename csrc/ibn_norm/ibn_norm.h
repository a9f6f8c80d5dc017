// What every launcher of ibn_norm is told, on every device. Contract: ibnvision/ops/ibn_norm.py.
// Sizes and counts in elements; a pointer is null where the contract says None. No torch header.
#pragma once
#include <cstdint>

namespace ibn_norm {

enum class Act : int32_t { none = 0, relu = 1, leaky_relu = 2, silu = 3 };
enum class Dtype : int32_t { float32 = 0, float16 = 1, bfloat16 = 2, float64 = 3 };

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
  const void *in_weight, *in_bias;         // [I]
  const void *bn_weight, *bn_bias;         // [C - I]
  const void *running_mean, *running_var;  // [C - I], read only, used without batch statistics
  void *mean, *var;               // [N, C], biased variance; written forward, read backward
  void *d_in_weight, *d_in_bias;  // [I], backward
  void *d_bn_weight, *d_bn_bias;  // [C - I], backward
  void* workspace;                // CUDA only: workspace_bytes(args) bytes
  int64_t N, C, S;
  int64_t instance_channels;  // I, a range at the start of the channels or, instance_last, the end
  int64_t batch_group;        // images that share batch statistics: N today
  double eps, slope;
  Dtype dtype;
  Act act;
  bool instance_last, residual_first, batch_stats, channels_last;
};

}  // namespace ibn_norm
