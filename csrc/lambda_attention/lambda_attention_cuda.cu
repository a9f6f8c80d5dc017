// Instantiations of lambda_attention_kernels.cuh for the dtypes and head sizes.
#include "lambda_attention_cuda.h"
#include "lambda_attention_kernels.cuh"

namespace lambda_attention {

// Calls function(a value of the type, the head size as a type); float64 does not come here.
template <typename Function>
auto with_kernel(const Args& args, const Function& function) {
  return with_head_size(args.D, [&](auto size) {
    if (args.dtype == Dtype::float16) return function(__half{}, size);
    if (args.dtype == Dtype::bfloat16) return function(__nv_bfloat16{}, size);
    return function(float{}, size);
  });
}

size_t lambda_attention_workspace_bytes(const Args& args, bool backward) {
  return with_kernel(args, [&](auto one, auto size) {
    return workspace_bytes<decltype(one), size()>(args, backward);
  });
}

void lambda_attention_forward_cuda(const Args& args, cudaStream_t stream) {
  with_kernel(args, [&](auto one, auto size) { run<decltype(one), size()>(args, false, stream); });
}

void lambda_attention_backward_cuda(const Args& args, cudaStream_t stream) {
  with_kernel(args, [&](auto one, auto size) { run<decltype(one), size()>(args, true, stream); });
}

}  // namespace lambda_attention
