// The CPU kernels, one copy per instruction set, and the launchers that choose one of them, defined
// in content_guided_attention_cpu_binding.cpp. No torch header.
#pragma once
#include "content_guided_attention.h"

namespace content_guided_attention {

using ibnvision::Parallel;

#define CONTENT_GUIDED_ATTENTION_DECLARE(isa)         \
  namespace isa {                                     \
  void forward(const Args& args, Parallel parallel);  \
  void backward(const Args& args, Parallel parallel); \
  }
CONTENT_GUIDED_ATTENTION_DECLARE(baseline)
CONTENT_GUIDED_ATTENTION_DECLARE(avx2)
CONTENT_GUIDED_ATTENTION_DECLARE(avx512)
#undef CONTENT_GUIDED_ATTENTION_DECLARE

void content_guided_attention_forward_cpu(const Args& args);
void content_guided_attention_backward_cpu(const Args& args);

}  // namespace content_guided_attention
