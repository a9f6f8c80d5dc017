// The CPU kernels, one copy per instruction set, and the launchers that choose one of them, defined
// in ibn_norm_cpu_binding.cpp. No torch header.
#pragma once
#include "ibn_norm.h"

namespace ibn_norm {

// Calls body(context, begin, end) so that the parts cover [0, count) once, on the caller's threads.
using Body = void (*)(void* context, int64_t begin, int64_t end);
using Parallel = void (*)(int64_t count, void* context, Body body);

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
