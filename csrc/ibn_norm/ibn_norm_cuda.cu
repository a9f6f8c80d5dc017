// Instantiations of ibn_norm_kernels.cuh for the four dtypes.
#include "ibn_norm_cuda.h"
#include "ibn_norm_kernels.cuh"

namespace ibn_norm {

size_t ibn_norm_workspace_bytes(const Args& args, bool backward) {
  return with_dtype(args.dtype,
                    [&](auto one) { return workspace_bytes<decltype(one)>(args, backward); });
}

void ibn_norm_forward_cuda(const Args& args, cudaStream_t stream) {
  with_dtype(args.dtype, [&](auto one) { run<decltype(one)>(args, false, stream); });
}

void ibn_norm_backward_cuda(const Args& args, cudaStream_t stream) {
  with_dtype(args.dtype, [&](auto one) { run<decltype(one)>(args, true, stream); });
}

}  // namespace ibn_norm
