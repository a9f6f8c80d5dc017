// The launchers of content_guided_attention for float32 alone: a planted defect is built in a
// fraction of the time.
#include "content_guided_attention/content_guided_attention_cuda.h"
#include "content_guided_attention/content_guided_attention_kernels.cuh"

namespace content_guided_attention {

size_t content_guided_attention_workspace_bytes(const Args& args, bool backward) {
  return workspace_bytes<float>(args, backward);
}

void content_guided_attention_forward_cuda(const Args& args, cudaStream_t stream) {
  run<float>(args, false, stream);
}

void content_guided_attention_backward_cuda(const Args& args, cudaStream_t stream) {
  run<float>(args, true, stream);
}

}  // namespace content_guided_attention
