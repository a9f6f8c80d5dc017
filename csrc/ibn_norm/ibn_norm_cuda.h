// The CUDA launchers; ibn_norm_cuda.cu has them. Contract: ibn_norm.h. No torch header.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>

#include "ibn_norm.h"

namespace ibn_norm {

// Bytes of Args::workspace for one pass, of the current device.
size_t ibn_norm_workspace_bytes(const Args& args, bool backward);

// Enqueue on `stream` of the current device.
void ibn_norm_forward_cuda(const Args& args, cudaStream_t stream);
void ibn_norm_backward_cuda(const Args& args, cudaStream_t stream);

}  // namespace ibn_norm
