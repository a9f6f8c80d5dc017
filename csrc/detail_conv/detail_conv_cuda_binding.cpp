// CUDA side of detail_conv: device guard, torch's current stream, registration.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/macros.h>

#include "detail_conv_binding.h"
#include "detail_conv_cuda.h"

namespace detail_conv {

namespace {
void on_current_stream(const Args& args, const Tensor& like, bool backward) {
  const auto device = like.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  const auto launch = backward ? detail_conv_backward_cuda : detail_conv_forward_cuda;
  launch(args, static_cast<cudaStream_t>(stream));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}
}  // namespace

}  // namespace detail_conv

DETAIL_CONV_REGISTER(
    CUDA, [](const Args& args, const Tensor& like) { on_current_stream(args, like, false); },
    [](const Args& args, const Tensor& like) { on_current_stream(args, like, true); })
