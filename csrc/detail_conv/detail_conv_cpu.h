// The CPU kernels, one copy per instruction set, and the launchers that choose one of them, defined
// in detail_conv_cpu_binding.cpp. No torch header.
#pragma once
#include "detail_conv.h"

namespace detail_conv {

using ibnvision::Parallel;

#define DETAIL_CONV_DECLARE(isa)                      \
  namespace isa {                                     \
  void forward(const Args& args, Parallel parallel);  \
  void backward(const Args& args, Parallel parallel); \
  }
DETAIL_CONV_DECLARE(baseline)
DETAIL_CONV_DECLARE(avx2)
DETAIL_CONV_DECLARE(avx512)
#undef DETAIL_CONV_DECLARE

void detail_conv_forward_cpu(const Args& args);
void detail_conv_backward_cpu(const Args& args);

}  // namespace detail_conv
