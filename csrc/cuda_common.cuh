// What every CUDA kernel shares: launches, shared memory, 128-bit vectors, conversions, divisions.
// Plain CUDA under nvcc; with CUDA_ON_CPU the host compiler reads it over tests/cuda_on_cpu, which
// knows CUDA's own barriers, shuffles, votes, atomicAdd and __ldg by their names. Tensor cores and
// asynchronous copies are in cuda_tensor_core.cuh.
#pragma once
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

#include "common.h"

#ifdef CUDA_ON_CPU
#include "emulator.h"
#else
#include <cuda_runtime.h>
// Shared arrays begin at a multiple of 16 bytes.
#define SHARED_ARRAY(type, name, size) __shared__ __align__(16) type name[size]
#define DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char name##_storage[]; \
  type* const name = reinterpret_cast<type*>(name##_storage)
// Till the end of its scope lanes of one warp mean to touch the same shared memory without a
// barrier: for the emulator's race detector.
#define WARP_SYNCHRONOUS() static_cast<void>(0)
#endif
#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace cuda_common {

constexpr unsigned kFullWarp = 0xffffffffu;

#ifndef CUDA_ON_CPU
inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // else the next check of anybody would report it again
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}
#endif

// Throws std::runtime_error if the kernel cannot be launched.
template <typename... Parameters, typename... Given>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_shared_bytes,
            cudaStream_t stream, const Given&... given) {
#ifdef CUDA_ON_CPU
  emulator::launch(grid, block, dynamic_shared_bytes, [=] { kernel(given...); });
#else
  if (dynamic_shared_bytes > 48 * 1024) {  // more has to be asked for
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(dynamic_shared_bytes)),
          "dynamic shared memory of a kernel");
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = dynamic_shared_bytes;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, given...), "launch of a kernel");
#endif
}

// Dynamic shared memory a block may take so that two fit a multiprocessor: one loads while the
// other stores.
inline size_t shared_bytes_for_two() {
#ifdef CUDA_ON_CPU
  return emulator::settings().shared_bytes;
#else
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device), "current device");
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device),
        "shared memory of the device");
  constexpr int kReserved = 2048;  // what the system and static arrays take of each block
  return bytes > 2 * kReserved ? static_cast<size_t>(bytes / 2 - kReserved) : 0;
#endif
}

inline void fill_zero(void* memory, size_t bytes, cudaStream_t stream) {
  if (memory == nullptr || bytes == 0) return;
#ifdef CUDA_ON_CPU
  std::memset(memory, 0, bytes);
#else
  check(cudaMemsetAsync(memory, 0, bytes, stream), "fill with zeros");
#endif
}

// Calls function(a value of the type).
template <typename Function>
auto with_dtype(ibnvision::Dtype dtype, const Function& function) {
  switch (dtype) {
    case ibnvision::Dtype::float16:
      return function(__half{});
    case ibnvision::Dtype::bfloat16:
      return function(__nv_bfloat16{});
    case ibnvision::Dtype::float64:
      return function(double{});
    default:
      return function(float{});
  }
}

// Sums and statistics of scalar_t are float, for double double.
template <typename scalar_t>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <typename scalar_t>
using acc_of = typename Accumulator<scalar_t>::type;

// Functions, not casts: torch's build switches the implicit conversions off.
__device__ inline float widen(float v) { return v; }
__device__ inline double widen(double v) { return v; }
__device__ inline float widen(__half v) { return __half2float(v); }
__device__ inline float widen(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ inline void narrow(float from, float& to) { to = from; }
__device__ inline void narrow(double from, double& to) { to = from; }
__device__ inline void narrow(float from, __half& to) { to = __float2half_rn(from); }
__device__ inline void narrow(float from, __nv_bfloat16& to) { to = __float2bfloat16_rn(from); }

__device__ inline float inverse_sqrt(float v) { return rsqrtf(v); }
__device__ inline double inverse_sqrt(double v) { return rsqrt(v); }
__device__ inline float exponential(float v) { return expf(v); }
__device__ inline double exponential(double v) { return exp(v); }

// The 16 bytes that one thread moves at once, packed until they are used.
template <typename scalar_t>
struct alignas(16) Vec {
  static constexpr int kSize = 16 / sizeof(scalar_t);
  uint32_t words[4];

  __device__ acc_of<scalar_t> operator[](int i) const {
    scalar_t value;
    std::memcpy(&value, reinterpret_cast<const char*>(words) + i * sizeof(scalar_t),
                sizeof(scalar_t));
    return widen(value);
  }
};

// The first `count` elements at p, zeros behind them. `aligned` promises that p is a multiple of 16
// bytes and count either 0 or all.
template <typename scalar_t>
__device__ Vec<scalar_t> load_vec(const scalar_t* p, int count, bool aligned) {
  Vec<scalar_t> v = {{0, 0, 0, 0}};
  if (aligned) {
    if (count > 0) {
      const uint4 bits = __ldg(reinterpret_cast<const uint4*>(p));
      v = {{bits.x, bits.y, bits.z, bits.w}};
    }
  } else if constexpr (sizeof(scalar_t) == 2) {
    const auto bits = reinterpret_cast<const uint16_t*>(p);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i < count) v.words[i / 2] |= static_cast<uint32_t>(bits[i]) << (i % 2 * 16);
    }
  } else {
    constexpr int kWords = sizeof(scalar_t) / 4;
    const auto bits = reinterpret_cast<const uint32_t*>(p);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i / kWords < count) v.words[i] = bits[i];
    }
  }
  return v;
}

// In PTX, since nvcc splits an assignment into four stores where it loses sight of the alignment.
__device__ inline void store_16_bytes(void* p, uint4 bits) {
#ifdef CUDA_ON_CPU
  emulator::store(static_cast<uint4*>(p), bits);
#else
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)),
               "r"(bits.x), "r"(bits.y), "r"(bits.z), "r"(bits.w));
#endif
}

// Writes the first `count` values to p; `aligned` as in load_vec.
template <typename scalar_t>
__device__ void store_vec(scalar_t* p, const acc_of<scalar_t> (&values)[Vec<scalar_t>::kSize],
                          int count, bool aligned) {
  alignas(16) scalar_t narrowed[Vec<scalar_t>::kSize];
#pragma unroll
  for (int i = 0; i < Vec<scalar_t>::kSize; ++i) narrow(values[i], narrowed[i]);
  if (aligned) {
    uint4 bits;
    std::memcpy(&bits, narrowed, 16);
    if (count > 0) store_16_bytes(p, bits);
  } else {
#pragma unroll
    for (int i = 0; i < Vec<scalar_t>::kSize; ++i) {
      if (i < count) p[i] = narrowed[i];
    }
  }
}

struct Divided {
  int64_t quotient, remainder;
};

// a / b for a >= 0, b > 0; a 64-bit division costs some hundred instructions, so it is avoided.
__device__ inline Divided divide(int64_t a, int64_t b) {
  if (a < b) return {0, a};
  if (((a | b) >> 32) == 0) {
    const uint32_t quotient = static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
    return {quotient, static_cast<uint32_t>(a) - quotient * static_cast<uint32_t>(b)};
  }
  return {a / b, a % b};
}

__host__ __device__ inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

}  // namespace cuda_common
