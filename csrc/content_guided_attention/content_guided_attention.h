// What every launcher of content_guided_attention is told, on every device. Contract:
// ibnvision/ops/content_guided_attention.py. Sizes in elements; a pointer is null where the
// contract says None. No torch header.
#pragma once
#include <cstdint>

#include "../common.h"

namespace content_guided_attention {

using ibnvision::Dtype;

constexpr int kTaps = 49, kReach = 3;

struct Args {
  // activations, [N, C, H, W] or, channels_last, [N, H, W, C]; type scalar_t = dtype
  const void* x;         // r, or low where high is given
  const void* high;      // mixup; null for the gate
  const void* residual;  // gate, forward; or null
  const void* dy;        // backward
  void* y;               // forward
  void *dx, *d_high;     // backward; d_high null for the gate
  // type acc_t = float, for float64 double
  const void *ca, *sa, *weight, *bias;    // [N, C], [N, H, W], [C, 2, 7, 7], [C]
  void *d_ca, *d_sa, *d_weight, *d_bias;  // backward
  void* workspace;                        // CUDA only: workspace_bytes(args, backward) bytes
  int64_t N, C, H, W;                     // N, C at least 1, H, W at least 4
  Dtype dtype;
  bool channels_last;
};

}  // namespace content_guided_attention
