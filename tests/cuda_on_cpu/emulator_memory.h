// Accesses with rules of their own: read-only and vector accesses of global memory, atomic updates,
// declared exchanges within a warp.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "emulator_machine.h"

namespace emulator {

// Within its scope, lanes of one warp may touch the same shared memory without a barrier between:
// for an exchange that the kernel means, as when all lanes store the same value.
class WarpSynchronous {
 public:
  WarpSynchronous() { ++machine.current->synchronous; }
  ~WarpSynchronous() { --machine.current->synchronous; }
  WarpSynchronous(const WarpSynchronous&) = delete;
};

// Whether the bytes from p on lie in one shared array.
inline bool in_shared(const void* p, size_t bytes) { return machine.memory.contains(p, bytes); }

inline void check_aligned(const void* p, size_t bytes, const char* access) {
  if (reinterpret_cast<uintptr_t>(p) % bytes == 0) return;
  throw Error(machine.in_block("misaligned " + std::string(access) + " of " +
                               std::to_string(bytes) + " bytes"));
}

inline void check_global(const void* p, size_t bytes, const char* access) {
  check_aligned(p, bytes, access);
  if (in_shared(p, 1))
    throw Error(machine.in_block(std::string(access) + " of global memory got shared memory"));
}

template <typename T>
void store(T* p, T value) {
  check_global(p, sizeof(T), "store");
  *p = value;
}

// The race detector sees one atomic access, not a read and a write.
template <typename T, typename Update>
__attribute__((no_sanitize("thread"), noinline)) T atomic_update(T* p, const Update& update) {
  check_aligned(p, sizeof(T), "atomic update");
#ifdef __SANITIZE_THREAD__
  machine.access(p, sizeof(T), Access::atomic, __builtin_return_address(0));
#endif
  T before, after;
  __builtin_memcpy(static_cast<void*>(&before), p, sizeof(T));
  after = update(before);
  const char* const from = reinterpret_cast<const char*>(&after);
  for (size_t i = 0; i < sizeof(T); ++i) reinterpret_cast<char*>(p)[i] = from[i];
  return before;
}

}  // namespace emulator

#define WARP_SYNCHRONOUS() const emulator::WarpSynchronous warp_synchronous_scope

template <typename T>
T __ldg(const T* p) {
  emulator::check_global(p, sizeof(T), "__ldg");
  return *p;
}

// The types that CUDA has it for, on sm_80.
template <typename T>
concept emulator_atomic =
    std::is_same_v<T, int> || std::is_same_v<T, unsigned> ||
    std::is_same_v<T, unsigned long long> || std::is_same_v<T, float> ||
    std::is_same_v<T, double> || std::is_same_v<T, __half> || std::is_same_v<T, __half2> ||
    std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, __nv_bfloat162>;

template <emulator_atomic T>
T atomicAdd(T* p, std::type_identity_t<T> value) {
  return emulator::atomic_update(p, [&](T before) -> T {
    if constexpr (std::is_integral_v<T>) {  // wraps
      using Wide = std::make_unsigned_t<T>;
      return static_cast<T>(static_cast<Wide>(before) + static_cast<Wide>(value));
    } else if constexpr (std::is_floating_point_v<T>) {
      return before + value;
    } else if constexpr (sizeof(T) == 4) {
      return __hadd2(before, value);
    } else {
      return __hadd(before, value);
    }
  });
}

inline void __threadfence() {}
inline void __threadfence_block() {}
