// The CUDA launchers; content_guided_attention_cuda.cu has them. Contract:
// content_guided_attention.h. No torch header.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>

#include "content_guided_attention.h"

namespace content_guided_attention {

// Bytes of Args::workspace for one pass, of the current device.
size_t content_guided_attention_workspace_bytes(const Args& args, bool backward);

// Enqueue on `stream` of the current device.
void content_guided_attention_forward_cuda(const Args& args, cudaStream_t stream);
void content_guided_attention_backward_cuda(const Args& args, cudaStream_t stream);

}  // namespace content_guided_attention
