// The words that launchers of every op share. No torch header.
#pragma once
#include <cstdint>

namespace ibnvision {

enum class Dtype : int32_t { float32 = 0, float16 = 1, bfloat16 = 2, float64 = 3 };

// Calls body(context, begin, end) so that the parts cover [0, count) once, on the caller's threads.
using Body = void (*)(void* context, int64_t begin, int64_t end);
using Parallel = void (*)(int64_t count, void* context, Body body);

// f(begin, end) by `parallel`. Static: compiled once per instruction set.
template <typename F>
static inline void run(Parallel parallel, int64_t count, F f) {
  parallel(count, &f, [](void* context, int64_t begin, int64_t end) {
    (*static_cast<F*>(context))(begin, end);
  });
}

}  // namespace ibnvision

// In an op's namespace: its two passes, one copy per instruction set.
#define IBNVISION_DECLARE_CPU_PASSES(isa)             \
  namespace isa {                                     \
  void forward(const Args& args, Parallel parallel);  \
  void backward(const Args& args, Parallel parallel); \
  }
#define IBNVISION_DECLARE_CPU_KERNELS    \
  IBNVISION_DECLARE_CPU_PASSES(baseline) \
  IBNVISION_DECLARE_CPU_PASSES(avx2)     \
  IBNVISION_DECLARE_CPU_PASSES(avx512)
