// The launchers of ibn_norm for float32 alone: a planted defect is built in a fraction of the time.
#include "ibn_norm/ibn_norm_cuda.h"
#include "ibn_norm/ibn_norm_kernels.cuh"

namespace ibn_norm {

size_t ibn_norm_workspace_bytes(const Args& args, bool backward) {
  return workspace_bytes<float>(args, backward);
}

void ibn_norm_forward_cuda(const Args& args, cudaStream_t stream) {
  run<float>(args, false, stream);
}

void ibn_norm_backward_cuda(const Args& args, cudaStream_t stream) {
  run<float>(args, true, stream);
}

}  // namespace ibn_norm
