// Small kernels that test the emulator itself, with C names for ctypes.
#include <cstdio>

#include "cuda_common.cuh"

using namespace cuda_common;

namespace {

constexpr unsigned kHalfWarp = 0xffff;

__global__ void indices_kernel(int* out) {
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * (blockDim.x * blockDim.y * blockDim.z) + thread] = block * 1000 + thread;
}

// Sum, prefix sum, votes and a broadcast of the lanes' numbers, from one warp.
__global__ void warp_kernel(int* out) {
  const int lane = threadIdx.x;
  int sum = lane, prefix = lane;
  for (int delta = 16; delta > 0; delta /= 2) sum += __shfl_down_sync(kFullWarp, sum, delta);
  for (unsigned delta = 1; delta < 32; delta *= 2) {
    const int before = __shfl_up_sync(kFullWarp, prefix, delta);
    if (lane >= delta) prefix += before;
  }
  out[lane] = __shfl_sync(kFullWarp, sum, 0);
  out[32 + lane] = prefix;
  out[64 + lane] = static_cast<int>(__ballot_sync(kFullWarp, lane % 3 == 0));
  out[96 + lane] = __any_sync(kFullWarp, lane == 7) * 2 + __all_sync(kFullWarp, lane < 31);
  if (lane < 16) out[128 + lane] = __shfl_xor_sync(kHalfWarp, lane, 1);
  __syncwarp();
}

// What a block finds in shared memory that it has not written, and what the block before left.
__global__ void poison_kernel(float* out) {
  SHARED_ARRAY(float, fixed, 2);
  DYNAMIC_SHARED(float, dynamic);
  if (threadIdx.x == 0) {
    out[blockIdx.x * 2] = fixed[1];
    out[blockIdx.x * 2 + 1] = dynamic[3];
  }
  __syncthreads();
  fixed[1] = dynamic[3] = 1;
}

// The order in which the threads come by.
__global__ void order_kernel(int* out) {
  out[out[0]++ + 1] = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
}

__global__ void divergent_kernel(int* out) {
  if (threadIdx.x < 5) __syncthreads();
  out[0] = 1;
}

__global__ void two_barriers_kernel(int* out) {
  if (threadIdx.x < 5) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[0] = 1;
}

__global__ void missing_lane_kernel(int* out) {
  if (threadIdx.x != 3) out[0] = __shfl_sync(kFullWarp, 1, 0);
}

__global__ void foreign_mask_kernel(int* out) { out[0] = __shfl_sync(kHalfWarp, 1, 0); }

// Lane 16 is not among those that offer a value.
__global__ void unnamed_lane_kernel(float* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(kHalfWarp, 1.0f, 16);
}

}  // namespace

extern "C" int run_kernel(const char* name, uint64_t seed, void* out, char* error, uint64_t size) {
  const std::string kernel = name;
  const auto ints = static_cast<int*>(out);
  const auto floats = static_cast<float*>(out);
  emulator::settings().seed = seed;
  try {
    if (kernel == "indices") launch(indices_kernel, dim3(3, 2, 2), dim3(5, 3, 2), 0, nullptr, ints);
    if (kernel == "warp") launch(warp_kernel, dim3(1), dim3(32), 0, nullptr, ints);
    if (kernel == "poison") launch(poison_kernel, dim3(4), dim3(8), 16, nullptr, floats);
    if (kernel == "order") launch(order_kernel, dim3(4), dim3(40), 0, nullptr, ints);
    if (kernel == "divergent") launch(divergent_kernel, dim3(1), dim3(8), 0, nullptr, ints);
    if (kernel == "two barriers") launch(two_barriers_kernel, dim3(1), dim3(8), 0, nullptr, ints);
    if (kernel == "missing lane") launch(missing_lane_kernel, dim3(1), dim3(32), 0, nullptr, ints);
    if (kernel == "foreign mask") launch(foreign_mask_kernel, dim3(1), dim3(32), 0, nullptr, ints);
    if (kernel == "unnamed lane")
      launch(unnamed_lane_kernel, dim3(1), dim3(32), 0, nullptr, floats);
    return 0;
  } catch (const std::exception& e) {
    std::snprintf(error, size, "%s", e.what());
    return 1;
  }
}
