// One chooser among the per-instruction-set builds of the CPU kernels. No torch header.
//
// CMake compiles <op>_cpu.cpp once per instruction set, each time into the namespace that
// IBN_ISA names. The caller declares its functions in those namespaces and takes a pointer by
//   auto* kernel = IBNVISION_CPU_KERNEL(ibn_norm_forward);
#pragma once

#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

namespace ibnvision {

enum class CpuCapability : int { baseline, avx2, avx512 };

inline const char* capability_name(CpuCapability capability) {
  constexpr const char* names[] = {"baseline", "avx2", "avx512"};
  return names[static_cast<int>(capability)];
}

// Compiled into this library, weakest first.
inline std::vector<CpuCapability> compiled_capabilities() {
  return {
      CpuCapability::baseline,
#ifdef IBNVISION_HAVE_AVX2
      CpuCapability::avx2,
#endif
#ifdef IBNVISION_HAVE_AVX512
      CpuCapability::avx512,
#endif
  };
}

// Whether this processor and its operating system run what the variant's compile flags allow.
// Every processor with AVX2 has F16C too, which old compilers cannot ask for.
inline bool processor_has(CpuCapability capability) {
#if defined(IBNVISION_HAVE_AVX2) || defined(IBNVISION_HAVE_AVX512)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  if (capability == CpuCapability::avx512) return avx512;
  if (capability == CpuCapability::avx2) return avx2;
#endif
  return capability == CpuCapability::baseline;
}

inline CpuCapability best_capability() {
  CpuCapability best = CpuCapability::baseline;
  for (CpuCapability capability : compiled_capabilities())
    if (processor_has(capability)) best = capability;
  return best;
}

inline std::atomic<CpuCapability>& active_capability() {
  static std::atomic<CpuCapability> active{best_capability()};
  return active;
}

inline std::string cpu_capability() {
  return capability_name(active_capability().load(std::memory_order_relaxed));
}

// For tests and benchmarks: run another compiled variant, for the whole process.
inline void set_cpu_capability(const std::string& name) {
  std::string usable;
  for (CpuCapability capability : compiled_capabilities()) {
    if (!processor_has(capability)) continue;
    if (name == capability_name(capability)) {
      active_capability().store(capability, std::memory_order_relaxed);
      return;
    }
    usable += (usable.empty() ? "" : ", ") + std::string(capability_name(capability));
  }
  throw std::invalid_argument("name must be one of the variants built and supported here, " +
                              usable + "; got " + name);
}

template <typename Function>
Function* choose(Function* baseline, Function* avx2, Function* avx512) {
  switch (active_capability().load(std::memory_order_relaxed)) {
    case CpuCapability::avx512:
      return avx512;
    case CpuCapability::avx2:
      return avx2;
    default:
      return baseline;
  }
}

}  // namespace ibnvision

#ifdef IBNVISION_HAVE_AVX2
#define IBNVISION_AVX2(...) &avx2::__VA_ARGS__
#else
#define IBNVISION_AVX2(...) &baseline::__VA_ARGS__
#endif
#ifdef IBNVISION_HAVE_AVX512
#define IBNVISION_AVX512(...) &avx512::__VA_ARGS__
#else
#define IBNVISION_AVX512(...) &baseline::__VA_ARGS__
#endif
#define IBNVISION_CPU_KERNEL(...)                                          \
  ::ibnvision::choose(&baseline::__VA_ARGS__, IBNVISION_AVX2(__VA_ARGS__), \
                      IBNVISION_AVX512(__VA_ARGS__))
