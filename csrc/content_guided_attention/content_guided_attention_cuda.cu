// Instantiations of content_guided_attention_kernels.cuh for the four dtypes.
#include "content_guided_attention_cuda.h"
#include "content_guided_attention_kernels.cuh"

namespace content_guided_attention {

size_t content_guided_attention_workspace_bytes(const Args& args, bool backward) {
  return with_dtype(args.dtype,
                    [&](auto one) { return workspace_bytes<decltype(one)>(args, backward); });
}

void content_guided_attention_forward_cuda(const Args& args, cudaStream_t stream) {
  with_dtype(args.dtype, [&](auto one) { run<decltype(one)>(args, false, stream); });
}

void content_guided_attention_backward_cuda(const Args& args, cudaStream_t stream) {
  with_dtype(args.dtype, [&](auto one) { run<decltype(one)>(args, true, stream); });
}

}  // namespace content_guided_attention
