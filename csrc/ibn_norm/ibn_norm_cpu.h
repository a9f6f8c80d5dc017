// The CPU kernels, one copy per instruction set, and the launchers that choose one of them, defined
// in ibn_norm_cpu_binding.cpp. No torch header.
#pragma once
#include "ibn_norm.h"

namespace ibn_norm {

using ibnvision::Parallel;

#define IBN_NORM_DECLARE(isa)                         \
  namespace isa {                                     \
  void forward(const Args& args, Parallel parallel);  \
  void backward(const Args& args, Parallel parallel); \
  }
IBN_NORM_DECLARE(baseline)
IBN_NORM_DECLARE(avx2)
IBN_NORM_DECLARE(avx512)
#undef IBN_NORM_DECLARE

void ibn_norm_forward_cpu(const Args& args);
void ibn_norm_backward_cpu(const Args& args);

}  // namespace ibn_norm
