// CUDA side of lambda_attention: device guard, torch's current stream and allocator, registration.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/macros.h>

#include "lambda_attention_binding.h"
#include "lambda_attention_cuda.h"

namespace lambda_attention {

namespace {
void on_current_stream(Args& args, const Tensor& q, bool backward) {
  STD_TORCH_CHECK(args.D <= 128, "lambda_attention has no CUDA kernel for heads of more than 128");
  const auto device = q.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const auto bytes = static_cast<int64_t>(lambda_attention_workspace_bytes(args, backward));
  const Tensor workspace = torch::stable::new_empty(q, {bytes}, ScalarType::Byte);
  args.workspace = workspace.data_ptr();
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  const auto launch = backward ? lambda_attention_backward_cuda : lambda_attention_forward_cuda;
  launch(args, static_cast<cudaStream_t>(stream));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}
}  // namespace

}  // namespace lambda_attention

LAMBDA_ATTENTION_REGISTER(
    CUDA,
    [](lambda_attention::Args& args, const torch::stable::Tensor& q) {
      lambda_attention::on_current_stream(args, q, false);
    },
    [](lambda_attention::Args& args, const torch::stable::Tensor& q) {
      lambda_attention::on_current_stream(args, q, true);
    })
