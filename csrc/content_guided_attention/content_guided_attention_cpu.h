// The CPU kernels, one copy per instruction set, and the launchers that choose one of them, defined
// in content_guided_attention_cpu_binding.cpp. No torch header.
#pragma once
#include "content_guided_attention.h"

namespace content_guided_attention {

using ibnvision::Parallel;
using ibnvision::run;

IBNVISION_DECLARE_CPU_KERNELS

void content_guided_attention_forward_cpu(const Args& args);
void content_guided_attention_backward_cpu(const Args& args);

}  // namespace content_guided_attention
