// A kernel that does nothing but meet: how many fibers the emulator resumes in a second.
#include "cuda_common.cuh"

namespace {

__global__ void meet_kernel(int rounds, bool in_warps) {
  for (int i = 0; i < rounds; ++i) {
    if (in_warps) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }
}

}  // namespace

// Resumes every one of 256 threads rounds + 1 times.
extern "C" void meet(int rounds, bool in_warps) {
  cuda_common::launch(meet_kernel, dim3(1), dim3(256), 0, nullptr, rounds, in_warps);
}
