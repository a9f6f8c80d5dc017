// The CPU kernels, one copy per instruction set, and the launchers that choose one of them, defined
// in ibn_norm_cpu_binding.cpp. No torch header.
#pragma once
#include "ibn_norm.h"

namespace ibn_norm {

using ibnvision::Parallel;
using ibnvision::run;

IBNVISION_DECLARE_CPU_KERNELS

void ibn_norm_forward_cpu(const Args& args);
void ibn_norm_backward_cpu(const Args& args);

}  // namespace ibn_norm
