// CPU side of content_guided_attention: chooses the instruction set, lends torch's threads,
// registers the kernels.
#include "../cpu_dispatch.h"
#include "../cpu_memory.h"
#include "content_guided_attention_binding.h"
#include "content_guided_attention_cpu.h"

namespace content_guided_attention {

void content_guided_attention_forward_cpu(const Args& args) {
  IBNVISION_CPU_KERNEL(forward)(args, ibnvision::on_torch_threads);
}

void content_guided_attention_backward_cpu(const Args& args) {
  IBNVISION_CPU_KERNEL(backward)(args, ibnvision::on_torch_threads);
}

}  // namespace content_guided_attention

namespace {
using content_guided_attention::Args;
using torch::stable::Tensor;

void launch_forward(const Args& args, const Tensor& x) {
  ibnvision::advise_huge_pages(args.y, x.numel() * x.element_size());
  content_guided_attention::content_guided_attention_forward_cpu(args);
}

void launch_backward(const Args& args, const Tensor& x) {
  for (void* result : {args.dx, args.d_high})
    if (result) ibnvision::advise_huge_pages(result, x.numel() * x.element_size());
  content_guided_attention::content_guided_attention_backward_cpu(args);
}
}  // namespace

CONTENT_GUIDED_ATTENTION_REGISTER(CPU, launch_forward, launch_backward)
