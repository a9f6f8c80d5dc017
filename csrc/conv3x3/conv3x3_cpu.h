// The CPU kernel, one copy per instruction set, and the launcher that chooses one of them, defined
// in conv3x3_cpu_binding.cpp. There is no backward. No torch header.
#pragma once
#include "conv3x3.h"

namespace conv3x3 {

using ibnvision::Parallel;
using ibnvision::run;

IBNVISION_DECLARE_CPU_KERNELS

void conv3x3_forward_cpu(const Args& args);

}  // namespace conv3x3
