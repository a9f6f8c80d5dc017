// CPU side of ibn_norm: chooses the instruction set, lends torch's threads, registers the kernels.
#include "../cpu_dispatch.h"
#include "../cpu_memory.h"
#include "ibn_norm_binding.h"
#include "ibn_norm_cpu.h"

namespace ibn_norm {

void ibn_norm_forward_cpu(const Args& args) {
  IBNVISION_CPU_KERNEL(forward)(args, ibnvision::on_torch_threads);
}

void ibn_norm_backward_cpu(const Args& args) {
  IBNVISION_CPU_KERNEL(backward)(args, ibnvision::on_torch_threads);
}

}  // namespace ibn_norm

namespace {
using ibn_norm::Args;
using torch::stable::Tensor;

void launch_forward(const Args& args, const Tensor& x) {
  ibnvision::advise_huge_pages(args.y, x.numel() * x.element_size());
  ibn_norm::ibn_norm_forward_cpu(args);
}

void launch_backward(const Args& args, const Tensor& x) {
  const int64_t bytes = x.numel() * x.element_size();
  ibnvision::advise_huge_pages(args.dx, bytes);
  if (args.d_residual) ibnvision::advise_huge_pages(args.d_residual, bytes);
  ibn_norm::ibn_norm_backward_cpu(args);
}
}  // namespace

IBN_NORM_REGISTER(CPU, launch_forward, launch_backward)
