// The CUDA launchers; detail_conv_cuda.cu has them. Contract: detail_conv.h. No torch header.
#pragma once
#include <cuda_runtime_api.h>

#include "detail_conv.h"

namespace detail_conv {

// Enqueue on `stream` of the current device; one launch each.
void detail_conv_forward_cuda(const Args& args, cudaStream_t stream);
void detail_conv_backward_cuda(const Args& args, cudaStream_t stream);

}  // namespace detail_conv
