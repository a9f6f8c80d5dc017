// What every launcher of detail_conv is told, on every device. Contract:
// ibnvision/ops/detail_conv.py. A pointer is null where the contract says None. No torch header.
#pragma once
#include <cstdint>

#include "../common.h"

namespace detail_conv {

using ibnvision::Dtype;

struct Args {
  // forward reads these, type scalar_t = dtype
  const void *central, *angular, *vanilla;  // [O, I, 3, 3], all in one memory format
  const void *horizontal, *vertical;        // [O, I, 3]
  const void *central_bias, *horizontal_bias, *vertical_bias, *angular_bias, *vanilla_bias;  // [O]
  void* weight;  // [O, I, 3, 3], written by the forward
  void* bias;    // [O], written by the forward; null where all biases are
  // backward
  const void* d_weight;             // [O, I, 3, 3]
  void *d_central, *d_angular;      // [O, I, 3, 3]
  void *d_horizontal, *d_vertical;  // [O, I, 3]
  int64_t O, I;                     // I is the width of one group
  double central_theta, angular_theta;
  Dtype dtype;
  bool channels_last;  // [O, I, 3, 3] lies in memory as [O, 3, 3, I]
};

}  // namespace detail_conv
