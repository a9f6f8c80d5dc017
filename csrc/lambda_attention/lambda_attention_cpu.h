// The CPU kernels, one copy per instruction set, and the launchers that choose one of them, defined
// in lambda_attention_cpu_binding.cpp. No torch header.
#pragma once
#include "lambda_attention.h"

namespace lambda_attention {

using ibnvision::Parallel;
using ibnvision::run;

IBNVISION_DECLARE_CPU_KERNELS

void lambda_attention_forward_cpu(const Args& args);
void lambda_attention_backward_cpu(const Args& args);

}  // namespace lambda_attention
