// CPU side of detail_conv: chooses the instruction set, lends torch's threads, registers the
// kernels.
#include "../cpu_dispatch.h"
#include "detail_conv_binding.h"
#include "detail_conv_cpu.h"

namespace detail_conv {

void detail_conv_forward_cpu(const Args& args) {
  IBNVISION_CPU_KERNEL(forward)(args, ibnvision::on_torch_threads);
}

void detail_conv_backward_cpu(const Args& args) {
  IBNVISION_CPU_KERNEL(backward)(args, ibnvision::on_torch_threads);
}

}  // namespace detail_conv

DETAIL_CONV_REGISTER(
    CPU, [](const Args& args, const Tensor&) { detail_conv_forward_cpu(args); },
    [](const Args& args, const Tensor&) { detail_conv_backward_cpu(args); })
