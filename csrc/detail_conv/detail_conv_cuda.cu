// Instantiations of detail_conv_kernels.cuh for the four dtypes.
#include "detail_conv_cuda.h"
#include "detail_conv_kernels.cuh"

namespace detail_conv {

void detail_conv_forward_cuda(const Args& args, cudaStream_t stream) {
  with_dtype(args.dtype, [&](auto one) { run<decltype(one)>(args, false, stream); });
}

void detail_conv_backward_cuda(const Args& args, cudaStream_t stream) {
  with_dtype(args.dtype, [&](auto one) { run<decltype(one)>(args, true, stream); });
}

}  // namespace detail_conv
