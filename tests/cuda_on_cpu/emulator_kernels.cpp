// Small kernels that test the emulator itself, with a C face for ctypes: what works.
#include <cstdio>
#include <cstring>
#include <map>

#include "cuda_common.cuh"

using namespace cuda_common;

namespace {

constexpr unsigned kHalfWarp = 0xffff;

__global__ void indices_kernel(int* out) {
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * (blockDim.x * blockDim.y * blockDim.z) + thread] = block * 1000 + thread;
}

// Sum, prefix sum, votes, exchanges within a half and in segments of 8, from one warp.
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
  out[128 + lane] = lane < 16 ? __shfl_xor_sync(kHalfWarp, lane, 1) : -1;
  __syncwarp();
  out[160 + lane] = __shfl_sync(kFullWarp, lane, 11, 8);
  out[192 + lane] = __shfl_down_sync(kFullWarp, lane, 3, 8);
  out[224 + lane] = __shfl_up_sync(kFullWarp, lane, 3, 8);
}

// A pair of lanes meets more often than the others: nothing may be mixed up.
__global__ void uneven_kernel(int* out) {
  const int lane = threadIdx.x;
  int value = __shfl_sync(kFullWarp, lane, 31 - lane);
  if (lane < 2) value = value * 100 + __shfl_xor_sync(3u, lane + 10, 1);
  out[lane] = __shfl_sync(kFullWarp, value, lane / 2);
}

__global__ void votes_kernel(int* out) {
  const int thread = threadIdx.x;
  const int count = __syncthreads_count(thread % 3 == 0);
  const int some = __syncthreads_or(thread == 69), none = __syncthreads_or(thread > 99);
  const int all = __syncthreads_and(thread < 70), most = __syncthreads_and(thread != 5);
  out[thread] = count * 10000 + some * 1000 + none * 100 + all * 10 + most;
}

// What a block finds in shared memory that it has not written, and what the block before left.
__global__ void poison_kernel(float* out) {
  SHARED_ARRAY(float, fixed, 8);
  DYNAMIC_SHARED(float, dynamic);
  out[blockIdx.x * 16 + threadIdx.x] = fixed[threadIdx.x];
  out[blockIdx.x * 16 + 8 + threadIdx.x] = dynamic[threadIdx.x];
  fixed[threadIdx.x] = dynamic[threadIdx.x] = 1;
}

// The order in which the threads come by.
__global__ void order_kernel(int* out) {
  out[out[0]++ + 1] = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
}

// Lane 16 is not among those that offer a value.
__global__ void unnamed_lane_kernel(float* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(kHalfWarp, 1.0f, 16);
}

// Updates of every type, on global and on shared memory, by 70 threads of 3 blocks.
__global__ void atomics_kernel(double* out) {
  struct Sums {
    int i;
    unsigned u;
    unsigned long long l;
    float f;
    double d;
    __half2 h;
    __nv_bfloat162 b;
  };
  SHARED_ARRAY(Sums, sums, 1);
  if (threadIdx.x == 0) {
    const auto zero = __float2half(0);
    const auto b_zero = __float2bfloat16(0);
    *sums = {0, 0, 0, 0, 0, __half2{zero, zero}, __nv_bfloat162{b_zero, b_zero}};
  }
  __syncthreads();
  atomicAdd(&sums->i, -1);
  atomicAdd(&sums->u, 2);
  atomicAdd(&sums->l, 1ull << 33);
  atomicAdd(&sums->f, 0.5f);
  atomicAdd(&sums->d, 0.25);
  atomicAdd(&sums->h, __half2{__float2half(1), __float2half(-1)});
  atomicAdd(&sums->b, __nv_bfloat162{__float2bfloat16(2), __float2bfloat16(0.5f)});
  __syncthreads();
  if (threadIdx.x != 0) return;
  atomicAdd(out, static_cast<double>(sums->i));
  atomicAdd(out + 1, static_cast<double>(sums->u));
  atomicAdd(out + 2, static_cast<double>(sums->l >> 33));
  atomicAdd(out + 3, static_cast<double>(sums->f));
  atomicAdd(out + 4, sums->d);
  atomicAdd(out + 5, static_cast<double>(__half2float(sums->h.x) - __half2float(sums->h.y)));
  atomicAdd(out + 6,
            static_cast<double>(__bfloat162float(sums->b.x) + __bfloat162float(sums->b.y)));
}

// Exchanges by shared memory that warp primitives order, and neighbours in one word: no race.
__global__ void ordered_kernel(int* out) {
  SHARED_ARRAY(uint16_t, halves, 64);
  SHARED_ARRAY(int, words, 64);
  const int thread = threadIdx.x, first = thread & ~31;
  halves[thread] = static_cast<uint16_t>(thread);
  words[thread] = thread;
  __syncwarp();
  out[thread] = halves[first + (thread + 1) % 32];
  __ballot_sync(kFullWarp, 1);
  words[first + (thread + 5) % 32] = thread;
  if (thread % 32 < 16) {
    __syncwarp(kHalfWarp);
    if (thread % 32 >= 5) out[thread] += 1000 * (words[thread] - first);
  }
  __syncthreads();
  words[63 - thread] = 0;
}

__global__ void declared_kernel(int* out) {
  SHARED_ARRAY(int, word, 1);
  {
    WARP_SYNCHRONOUS();
    *word = 7;
  }
  __syncwarp();
  out[threadIdx.x] = *word;
}

__global__ void early_end_kernel(int* out) {
  if (threadIdx.x >= 40) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

}  // namespace

extern "C" int run_kernel(const char* name, uint64_t seed, bool ended_threads_pass, void* out,
                          char* error, uint64_t size) {
  const auto ints = static_cast<int*>(out);
  const auto floats = static_cast<float*>(out);
  const auto start = [&](auto kernel, dim3 grid, dim3 block, size_t dynamic, auto* memory) {
    return [=] { launch(kernel, grid, block, dynamic, nullptr, memory); };
  };
  const std::map<std::string, std::function<void()>> kernels = {
      {"indices", start(indices_kernel, dim3(3, 2, 2), dim3(5, 3, 2), 0, ints)},
      {"warp", start(warp_kernel, 1, 32, 0, ints)},
      {"uneven", start(uneven_kernel, 1, 32, 0, ints)},
      {"votes", start(votes_kernel, 1, 70, 0, ints)},
      {"poison", start(poison_kernel, 4, 8, 32, floats)},
      {"order", start(order_kernel, 4, 40, 0, ints)},
      {"unnamed lane", start(unnamed_lane_kernel, 1, 32, 0, floats)},
      {"atomics", start(atomics_kernel, 3, 70, 0, static_cast<double*>(out))},
      {"ordered", start(ordered_kernel, 2, 64, 0, ints)},
      {"declared", start(declared_kernel, 1, 32, 0, ints)},
      {"early end", start(early_end_kernel, 1, 64, 0, ints)},
  };
  emulator::settings().seed = seed;
  emulator::settings().ended_threads_pass = ended_threads_pass;
  try {
    kernels.at(name)();
    return 0;
  } catch (const std::exception& e) {
    std::snprintf(error, size, "%s", e.what());
    return 1;
  }
}
