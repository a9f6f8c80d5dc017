// CUDA side of content_guided_attention: device guard, torch's current stream and allocator,
// registration.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/macros.h>

#include "content_guided_attention_binding.h"
#include "content_guided_attention_cuda.h"

namespace content_guided_attention {

namespace {
void on_current_stream(Args& args, const Tensor& x, bool backward) {
  const auto device = x.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const auto bytes = static_cast<int64_t>(content_guided_attention_workspace_bytes(args, backward));
  const Tensor workspace = torch::stable::new_empty(x, {bytes}, ScalarType::Byte);
  args.workspace = workspace.data_ptr();
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  const auto launch =
      backward ? content_guided_attention_backward_cuda : content_guided_attention_forward_cuda;
  launch(args, static_cast<cudaStream_t>(stream));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}
}  // namespace

}  // namespace content_guided_attention

CONTENT_GUIDED_ATTENTION_REGISTER(
    CUDA, [](Args& args, const Tensor& x) { on_current_stream(args, x, false); },
    [](Args& args, const Tensor& x) { on_current_stream(args, x, true); })
