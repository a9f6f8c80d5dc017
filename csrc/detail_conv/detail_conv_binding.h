// Tensors to Args and outputs, for every device. Contract: ibnvision/ops/detail_conv.py, whose
// entry has checked its arguments; here only what would read or write out of bounds is checked
// again.
#pragma once
#include <tuple>
#include <utility>

#include "../binding_common.h"
#include "detail_conv.h"

namespace detail_conv {

using ibnvision::dtype_code;
using ibnvision::is_channels_last;
using ibnvision::OptionalTensor;
using ibnvision::Tensor;

inline Args make_args(const Tensor& like, double central_theta, double angular_theta) {
  STD_TORCH_CHECK(like.dim() == 4 && like.size(2) == 3 && like.size(3) == 3,
                  "detail_conv: weights must be [O, I, 3, 3]");
  Args a{};
  a.channels_last = is_channels_last(like);
  STD_TORCH_CHECK(a.channels_last || like.is_contiguous(),
                  "detail_conv: weights must be contiguous or channels_last");
  a.O = like.size(0), a.I = like.size(1);
  a.central_theta = central_theta, a.angular_theta = angular_theta;
  a.dtype = dtype_code(like, "detail_conv");
  return a;
}

inline void* address(const OptionalTensor& t, int64_t count, const Tensor& like, const char* name) {
  if (!t.has_value()) return nullptr;
  STD_TORCH_CHECK(
      t->numel() == count && t->scalar_type() == like.scalar_type() && t->is_contiguous(),
      "detail_conv: ", name, " must be contiguous, of the weights' dtype, with ", count, " values");
  return t->data_ptr();
}

inline void* square_address(const Tensor& t, const Tensor& like, const char* name) {
  STD_TORCH_CHECK(t.dim() == 4 && t.numel() == like.numel() &&
                      t.scalar_type() == like.scalar_type() &&
                      (like.is_contiguous() ? t.is_contiguous() : is_channels_last(t)),
                  "detail_conv: ", name, " must have the shape, dtype and memory format of the ",
                  "other weights");
  return t.data_ptr();
}

struct Biases {
  const OptionalTensor &central, &horizontal, &vertical, &angular, &vanilla;
  bool any() const {
    return central.has_value() || horizontal.has_value() || vertical.has_value() ||
           angular.has_value() || vanilla.has_value();
  }
};

using ForwardResult = std::tuple<Tensor, Tensor>;  // weight, bias

template <typename Launch>  // launch(const Args&, const Tensor& on_device)
ForwardResult forward_with(Launch launch, const Tensor& central, const Tensor& horizontal,
                           const Tensor& vertical, const Tensor& angular,
                           const OptionalTensor& vanilla, const Biases& biases,
                           double central_theta, double angular_theta) {
  const Tensor& like = vanilla.has_value() ? *vanilla : central;
  Args a = make_args(like, central_theta, angular_theta);
  Tensor weight = torch::stable::empty_like(like);
  Tensor bias = torch::stable::new_empty(like, {biases.any() ? a.O : 0});
  a.central = square_address(central, like, "central");
  a.angular = square_address(angular, like, "angular");
  a.vanilla = vanilla.has_value() ? vanilla->data_ptr() : nullptr;
  a.horizontal = address(horizontal, a.O * a.I * 3, like, "horizontal");
  a.vertical = address(vertical, a.O * a.I * 3, like, "vertical");
  a.central_bias = address(biases.central, a.O, like, "central_bias");
  a.horizontal_bias = address(biases.horizontal, a.O, like, "horizontal_bias");
  a.vertical_bias = address(biases.vertical, a.O, like, "vertical_bias");
  a.angular_bias = address(biases.angular, a.O, like, "angular_bias");
  a.vanilla_bias = address(biases.vanilla, a.O, like, "vanilla_bias");
  a.weight = weight.data_ptr();
  a.bias = biases.any() ? bias.data_ptr() : nullptr;
  if (a.O > 0) launch(a, like);
  return {std::move(weight), std::move(bias)};
}

// d_central, d_horizontal, d_vertical, d_angular
using BackwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor>;

template <typename Launch>
BackwardResult backward_with(Launch launch, const Tensor& d_weight, double central_theta,
                             double angular_theta) {
  Args a = make_args(d_weight, central_theta, angular_theta);
  Tensor d_central = torch::stable::empty_like(d_weight);
  Tensor d_angular = torch::stable::empty_like(d_weight);
  Tensor d_horizontal = torch::stable::new_empty(d_weight, {a.O, a.I, 3});
  Tensor d_vertical = torch::stable::new_empty(d_weight, {a.O, a.I, 3});
  a.d_weight = d_weight.data_ptr();
  a.d_central = d_central.data_ptr(), a.d_angular = d_angular.data_ptr();
  a.d_horizontal = d_horizontal.data_ptr(), a.d_vertical = d_vertical.data_ptr();
  if (d_weight.numel() > 0) launch(a, d_weight);
  return {std::move(d_central), std::move(d_horizontal), std::move(d_vertical),
          std::move(d_angular)};
}

}  // namespace detail_conv

// The registered functions of one device; launches are called with (const Args&, const Tensor&).
#define DETAIL_CONV_REGISTER(device, forward_launch, backward_launch)                              \
  namespace {                                                                                      \
  using namespace detail_conv;                                                                     \
  ForwardResult detail_conv_forward_op(                                                            \
      const Tensor& central, const Tensor& horizontal, const Tensor& vertical,                     \
      const Tensor& angular, const OptionalTensor& vanilla, const OptionalTensor& central_bias,    \
      const OptionalTensor& horizontal_bias, const OptionalTensor& vertical_bias,                  \
      const OptionalTensor& angular_bias, const OptionalTensor& vanilla_bias,                      \
      double central_theta, double angular_theta) {                                                \
    const Biases biases{central_bias, horizontal_bias, vertical_bias, angular_bias, vanilla_bias}; \
    return forward_with(forward_launch, central, horizontal, vertical, angular, vanilla, biases,   \
                        central_theta, angular_theta);                                             \
  }                                                                                                \
  BackwardResult detail_conv_backward_op(const Tensor& d_weight, double central_theta,             \
                                         double angular_theta) {                                   \
    return backward_with(backward_launch, d_weight, central_theta, angular_theta);                 \
  }                                                                                                \
  STABLE_TORCH_LIBRARY_IMPL(ibnvision, device, m) {                                                \
    m.impl("detail_conv_forward", TORCH_BOX(&detail_conv_forward_op));                             \
    m.impl("detail_conv_backward", TORCH_BOX(&detail_conv_backward_op));                           \
  }                                                                                                \
  }
