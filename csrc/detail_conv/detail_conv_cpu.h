// The CPU kernels, one copy per instruction set, and the launchers that choose one of them, defined
// in detail_conv_cpu_binding.cpp. No torch header.
#pragma once
#include "detail_conv.h"

namespace detail_conv {

using ibnvision::Parallel;
using ibnvision::run;

IBNVISION_DECLARE_CPU_KERNELS

void detail_conv_forward_cpu(const Args& args);
void detail_conv_backward_cpu(const Args& args);

}  // namespace detail_conv
