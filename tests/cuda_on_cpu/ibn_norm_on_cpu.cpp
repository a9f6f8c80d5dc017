// The launchers of ibn_norm on the emulator, with C names for ctypes.
#include <cstdio>

#include "ibn_norm/ibn_norm_kernels.cuh"

using namespace ibn_norm;

#ifdef ONLY_FLOAT32
template <typename Function>
auto dispatch(Dtype, const Function& function) {
  return function(float{});
}
#else
template <typename Function>
auto dispatch(Dtype dtype, const Function& function) {
  return with_dtype(dtype, function);
}
#endif

extern "C" {

void emulator_settings(uint64_t seed, uint64_t shared_bytes) {
  emulator::settings() = {seed, shared_bytes};
}

uint64_t ibn_norm_workspace_bytes(const Args* args, bool backward) {
  return dispatch(args->dtype,
                  [&](auto one) { return workspace_bytes<decltype(one)>(*args, backward); });
}

// Returns 0, or 1 with the reason in `error`.
int ibn_norm_run(const Args* args, bool backward, char* error, uint64_t size) {
  try {
    dispatch(args->dtype, [&](auto one) { run<decltype(one)>(*args, backward, nullptr); });
    return 0;
  } catch (const std::exception& e) {
    std::snprintf(error, size, "%s", e.what());
    return 1;
  }
}
}
