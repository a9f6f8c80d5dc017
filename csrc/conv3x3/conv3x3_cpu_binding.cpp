// CPU side of conv3x3: tensors to Args, chooses the instruction set, lends torch's threads,
// registers the kernel. The op's entry has checked its arguments; here only what would read or
// write out of bounds is checked again.
#include "../binding_common.h"
#include "../cpu_dispatch.h"
#include "../cpu_memory.h"
#include "conv3x3_cpu.h"

namespace conv3x3 {

using ibnvision::OptionalTensor;
using ibnvision::ScalarType;
using ibnvision::Tensor;

void conv3x3_forward_cpu(const Args& args) {
  IBNVISION_CPU_KERNEL(forward)(args, ibnvision::on_torch_threads);
}

namespace {

bool by_pixels(const Tensor& x) {  // dense, the channels innermost
  return ibnvision::is_channels_last(x) ||
         (x.is_contiguous() && (x.size(1) == 1 || (x.size(2) == 1 && x.size(3) == 1)));
}

Args make_args(const Tensor& x, const Tensor& weight) {
  STD_TORCH_CHECK(x.dim() == 4 && weight.dim() == 4 && weight.size(1) == x.size(1) &&
                      weight.size(2) == 3 && weight.size(3) == 3,
                  "conv3x3: x must be [N, I, H, W] and weight [O, I, 3, 3]");
  Args a{};
  a.N = x.size(0), a.I = x.size(1), a.H = x.size(2), a.W = x.size(3), a.O = weight.size(0);
  STD_TORCH_CHECK(a.I % kChannels == 0 && a.O % kChannels == 0,
                  "conv3x3: the kernel takes multiples of 16 channels");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float && by_pixels(x),
                  "conv3x3: the kernel takes float32 in channels_last");
  const bool planes = weight.is_contiguous();
  STD_TORCH_CHECK(
      weight.scalar_type() == ScalarType::Float && (planes || ibnvision::is_channels_last(weight)),
      "conv3x3: weight must be float32, contiguous or channels_last");
  a.of_input = planes ? 9 : 1, a.of_tap = planes ? 1 : a.I;
  return a;
}

Tensor conv3x3_forward_op(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                          const OptionalTensor& residual, bool relu) {
  Args a = make_args(x, weight);
  a.relu = relu;
  a.x = static_cast<const float*>(x.data_ptr());
  a.weight = static_cast<const float*>(weight.data_ptr());
  if (bias.has_value()) {
    STD_TORCH_CHECK(
        bias->numel() == a.O && bias->scalar_type() == ScalarType::Float && bias->is_contiguous(),
        "conv3x3: bias must be contiguous, float32, with ", a.O, " values");
    a.bias = static_cast<const float*>(bias->data_ptr());
  }
  Tensor y = torch::stable::empty({a.N, a.O, a.H, a.W}, ScalarType::Float, {}, {}, {},
                                  torch::headeronly::MemoryFormat::ChannelsLast);
  if (residual.has_value()) {
    STD_TORCH_CHECK(residual->dim() == 4 && residual->size(0) == a.N && residual->size(1) == a.O &&
                        residual->size(2) == a.H && residual->size(3) == a.W &&
                        residual->scalar_type() == ScalarType::Float && by_pixels(*residual),
                    "conv3x3: residual must have the shape, dtype and memory format of the result");
    a.residual = static_cast<const float*>(residual->data_ptr());
  }
  a.y = static_cast<float*>(y.data_ptr());
  if (y.numel() > 0) {
    ibnvision::advise_huge_pages(a.y, y.numel() * sizeof(float));
    conv3x3_forward_cpu(a);
  }
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ibnvision, CPU, m) {
  m.impl("conv3x3_forward", TORCH_BOX(&conv3x3_forward_op));
}

}  // namespace conv3x3
