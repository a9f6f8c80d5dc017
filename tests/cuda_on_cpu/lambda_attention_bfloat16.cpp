// The launchers of lambda_attention for bfloat16 and small heads alone: a planted defect is built in
// a fraction of the time.
#include "lambda_attention/lambda_attention_cuda.h"
#include "lambda_attention/lambda_attention_kernels.cuh"

namespace lambda_attention {

size_t lambda_attention_workspace_bytes(const Args& args, bool backward) {
  return workspace_bytes<__nv_bfloat16, 32>(args, backward);
}

void lambda_attention_forward_cuda(const Args& args, cudaStream_t stream) {
  run<__nv_bfloat16, 32>(args, false, stream);
}

void lambda_attention_backward_cuda(const Args& args, cudaStream_t stream) {
  run<__nv_bfloat16, 32>(args, true, stream);
}

}  // namespace lambda_attention
