// CUDA's language on the host, for tests: what csrc/cuda_common.cuh includes with CUDA_ON_CPU.
//   emulator_machine.h  the schedule of blocks, warps and threads
//   emulator_thread.h   a thread;  emulator_fiber.h  its stack
//   emulator_warp.h     barriers, shuffles, votes
//   emulator_shared.h   shared memory;  emulator_races.h  who may touch it when
//   emulator_memory.h   atomic and vector accesses;  emulator_hooks.h  all others
#pragma once
#include <cuda_runtime.h>

#include <cmath>

#include "emulator_hooks.h"
#include "emulator_machine.h"
#include "emulator_memory.h"
#include "emulator_warp.h"

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__
#define threadIdx (emulator::machine.current->index)
#define blockIdx (emulator::machine.block_index)
#define blockDim (emulator::machine.block)
#define gridDim (emulator::machine.grid)
#define warpSize 32

#define SHARED_ARRAY(type, name, size)    \
  static const char name##_declaration{}; \
  type* const name = static_cast<type*>(  \
      emulator::machine.memory.array(&name##_declaration, (size) * sizeof(type)))
#define DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(emulator::machine.memory.dynamic())

inline float rsqrtf(float v) { return 1.0f / std::sqrt(v); }
inline double rsqrt(double v) { return 1.0 / std::sqrt(v); }
