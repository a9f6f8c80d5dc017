// The CUDA launchers; lambda_attention_cuda.cu has them. Contract: lambda_attention.h. No torch
// header.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>

#include "lambda_attention.h"

namespace lambda_attention {

// Bytes of Args::workspace for one pass, of the current device.
size_t lambda_attention_workspace_bytes(const Args& args, bool backward);

// Enqueue on `stream` of the current device. Throw std::invalid_argument for heads of more than
// 128.
void lambda_attention_forward_cuda(const Args& args, cudaStream_t stream);
void lambda_attention_backward_cuda(const Args& args, cudaStream_t stream);

}  // namespace lambda_attention
