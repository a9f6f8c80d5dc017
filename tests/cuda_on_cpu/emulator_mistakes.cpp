// Small kernels with one mistake each, which the emulator must report. With a C face for ctypes.
#include <cstdio>
#include <cstring>
#include <map>

#include "cuda_common.cuh"

using namespace cuda_common;

namespace {

constexpr unsigned kHalfWarp = 0xffff;

__global__ void divergent_kernel(int*) {
  if (threadIdx.x < 5) __syncthreads();
}

__global__ void two_barriers_kernel(int*) {
  if (threadIdx.x < 5) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void block_and_warp_kernel(int*) {
  if (threadIdx.x < 5) {
    __syncthreads();
  } else {
    __syncwarp();
  }
}

__global__ void ended_lane_kernel(int* out) {
  if (threadIdx.x != 3) out[0] = __shfl_sync(kFullWarp, 1, 0);
}

__global__ void foreign_mask_kernel(int* out) { out[0] = __shfl_sync(kHalfWarp, 1, 0); }

__global__ void unequal_masks_kernel(int* out) {
  out[0] = __shfl_sync(threadIdx.x < 16 ? kFullWarp : 0xffff0000u, 1, 16);
}

__global__ void unequal_lines_kernel(int* out) {
  if (threadIdx.x == 9) {
    out[0] = __shfl_sync(kFullWarp, 1, 16);
  } else {
    out[0] = __shfl_sync(kFullWarp, 2, 16);
  }
}

__global__ void active_mask_kernel(int* out) { out[0] = __shfl_sync(__activemask(), 1, 0); }

__global__ void width_kernel(int* out) { out[0] = __shfl_sync(kFullWarp, 1, 0, 12); }

__global__ void misaligned_load_kernel(int* out) {
  out[0] = __ldg(reinterpret_cast<const int2*>(out + 1)).x;
}

__global__ void load_of_shared_kernel(int* out) {
  SHARED_ARRAY(int, word, 1);
  out[0] = __ldg(word);
}

__global__ void shared_kernel(int* out) {
  DYNAMIC_SHARED(int, words);
  out[0] = words[0];
}

__global__ void write_read_kernel(int* out) {
  SHARED_ARRAY(int, words, 64);
  words[threadIdx.x] = 1;
  out[threadIdx.x] = words[threadIdx.x ^ 32];
}

__global__ void write_write_kernel(int*) {
  SHARED_ARRAY(int, word, 1);
  *word = static_cast<int>(threadIdx.x);
}

__global__ void read_write_kernel(int* out) {
  SHARED_ARRAY(int, words, 64);
  words[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = words[0];
  if (threadIdx.x == 40) words[0] = 2;
}

// The warp's lanes are not ordered by running side by side.
__global__ void lanes_kernel(int* out) {
  SHARED_ARRAY(int, words, 32);
  words[threadIdx.x] = 1;
  out[threadIdx.x] = words[threadIdx.x ^ 1];
}

// The barrier of half a warp orders nothing for the other half.
__global__ void half_barrier_kernel(int* out) {
  SHARED_ARRAY(int, words, 32);
  words[threadIdx.x] = 1;
  if (threadIdx.x < 16) __syncwarp(kHalfWarp);
  if (threadIdx.x == 3) out[threadIdx.x] = words[20];
}

// A warp's barrier orders nothing between warps.
__global__ void warp_barrier_kernel(int* out) {
  SHARED_ARRAY(int, words, 64);
  words[threadIdx.x] = 1;
  __syncwarp();
  if (threadIdx.x == 3) out[threadIdx.x] = words[40];
}

__global__ void one_byte_kernel(int*) {
  SHARED_ARRAY(unsigned char, bytes, 8);
  bytes[threadIdx.x % 5] = 1;
}

__global__ void vector_kernel(int* out) {
  SHARED_ARRAY(uint4, vectors, 1);
  const auto words = reinterpret_cast<unsigned*>(vectors);
  if (threadIdx.x == 40) *vectors = uint4{1, 2, 3, 4};
  if (threadIdx.x == 3) out[0] = static_cast<int>(words[2]);
}

__global__ void copy_kernel(int* out) {
  SHARED_ARRAY(int, words, 16);
  if (threadIdx.x == 40) std::memcpy(words, out, 12);
  if (threadIdx.x == 3) out[0] = words[2];
}

__global__ void set_kernel(int* out) {
  SHARED_ARRAY(int, words, 16);
  if (threadIdx.x == 40) std::memset(words, 0, 12);
  if (threadIdx.x == 3) out[0] = words[2];
}

__global__ void atomic_kernel(int* out) {
  SHARED_ARRAY(int, word, 1);
  if (threadIdx.x == 0) *word = 0;
  __syncthreads();
  atomicAdd(word, 1);
  out[threadIdx.x] = *word;
}

// The exchange is declared among the lanes of a warp, not among warps.
__global__ void declared_kernel(int*) {
  SHARED_ARRAY(int, word, 1);
  WARP_SYNCHRONOUS();
  *word = 7;
}

}  // namespace

extern "C" int run_kernel(const char* name, uint64_t seed, void* out, char* error, uint64_t size) {
  const auto start = [&](void (*kernel)(int*), dim3 grid, dim3 block, size_t dynamic) {
    return [=] { launch(kernel, grid, block, dynamic, nullptr, static_cast<int*>(out)); };
  };
  const auto block = [&](void (*kernel)(int*), int threads) {
    return start(kernel, 1, threads, 0);
  };
  const std::map<std::string, std::function<void()>> kernels = {
      {"divergent", block(divergent_kernel, 8)},
      {"two barriers", block(two_barriers_kernel, 8)},
      {"block and warp", block(block_and_warp_kernel, 32)},
      {"ended lane", block(ended_lane_kernel, 32)},
      {"foreign mask", block(foreign_mask_kernel, 32)},
      {"unequal masks", block(unequal_masks_kernel, 32)},
      {"unequal lines", block(unequal_lines_kernel, 32)},
      {"active mask", block(active_mask_kernel, 32)},
      {"width", block(width_kernel, 32)},
      {"misaligned load", block(misaligned_load_kernel, 1)},
      {"load of shared", block(load_of_shared_kernel, 1)},
      {"too much shared", start(shared_kernel, 1, 1, 300 * 1024)},
      {"too many threads", block(divergent_kernel, 1025)},
      {"no block", start(divergent_kernel, 0, 32, 0)},
      {"write, read", block(write_read_kernel, 64)},
      {"write, write", block(write_write_kernel, 2)},
      {"read, write", block(read_write_kernel, 64)},
      {"lanes", block(lanes_kernel, 32)},
      {"half barrier", block(half_barrier_kernel, 32)},
      {"warp barrier", block(warp_barrier_kernel, 64)},
      {"one byte", block(one_byte_kernel, 8)},
      {"vector", block(vector_kernel, 64)},
      {"copy", block(copy_kernel, 64)},
      {"set", block(set_kernel, 64)},
      {"atomic", block(atomic_kernel, 40)},
      {"declared", block(declared_kernel, 40)},
  };
  emulator::settings().seed = seed;
  try {
    kernels.at(name)();
    return 0;
  } catch (const std::exception& e) {
    std::snprintf(error, size, "%s", e.what());
    return 1;
  }
}
