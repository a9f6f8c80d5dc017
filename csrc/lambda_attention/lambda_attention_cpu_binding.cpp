// CPU side of lambda_attention: chooses the instruction set, lends torch's threads, registers the
// kernels.
#include "../cpu_dispatch.h"
#include "lambda_attention_binding.h"
#include "lambda_attention_cpu.h"

namespace lambda_attention {

void lambda_attention_forward_cpu(const Args& args) {
  IBNVISION_CPU_KERNEL(forward)(args, ibnvision::on_torch_threads);
}

void lambda_attention_backward_cpu(const Args& args) {
  IBNVISION_CPU_KERNEL(backward)(args, ibnvision::on_torch_threads);
}

}  // namespace lambda_attention

LAMBDA_ATTENTION_REGISTER(
    CPU,
    [](lambda_attention::Args& args, const torch::stable::Tensor&) {
      lambda_attention::lambda_attention_forward_cpu(args);
    },
    [](lambda_attention::Args& args, const torch::stable::Tensor&) {
      lambda_attention::lambda_attention_backward_cpu(args);
    })
