// What the launcher of conv3x3 is told. Contract: ibnvision/ops/conv3x3.py. Sizes in elements; a
// pointer is null where the contract says None. No torch header.
#pragma once
#include <cstdint>

#include "../common.h"

namespace conv3x3 {

constexpr int64_t kChannels = 16;  // I and O are multiples of it

struct Args {
  const float* x;              // [N, H, W, I]
  const float *weight, *bias;  // [O, I, 3, 3], its strides below; [O]
  const float* residual;       // [N, H, W, O]
  float* y;                    // [N, H, W, O]
  int64_t N, H, W, I, O;       // all at least 1
  int64_t of_input, of_tap;    // of weight; an output channel follows 9 I on
  bool relu;
};

}  // namespace conv3x3
