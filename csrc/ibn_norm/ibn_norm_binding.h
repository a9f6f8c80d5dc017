// Tensors to Args and outputs, for every device. Contract: ibnvision/ops/ibn_norm.py, whose entry
// has checked its arguments; here only what would read or write out of bounds is checked again.
#pragma once
#include <tuple>
#include <utility>
#include <vector>

#include "../binding_common.h"
#include "ibn_norm.h"

namespace ibn_norm {

using ibnvision::dense;
using ibnvision::dtype_code;
using ibnvision::is_channels_last;
using ibnvision::OptionalTensor;
using ibnvision::ScalarType;
using ibnvision::statistics_dtype;
using ibnvision::Tensor;

// The address of an optional tensor of `count` values of type `dtype`.
inline void* address(const OptionalTensor& t, int64_t count, ScalarType dtype, const char* name) {
  if (!t.has_value()) return nullptr;
  STD_TORCH_CHECK(t->numel() == count && t->scalar_type() == dtype && t->is_contiguous(),
                  "ibn_norm: ", name, " must be contiguous, of the statistics' dtype, with ", count,
                  " values");
  return t->data_ptr();
}

struct Layout {
  int64_t instance_channels;
  bool instance_last, residual_first;
};

struct Tracking {  // whether and how the running statistics move
  bool moves = false;
  OptionalTensor num_batches_tracked;
  double momentum = 0;
};

inline Args make_args(const Tensor& x, const OptionalTensor& residual,
                      const OptionalTensor& in_weight, const OptionalTensor& in_bias,
                      const OptionalTensor& bn_weight, const OptionalTensor& bn_bias, Layout layout,
                      int64_t act, double slope, bool batch_stats, double eps) {
  STD_TORCH_CHECK(x.dim() >= 3 && x.dim() <= 5, "ibn_norm: x must be [N, C, *spatial]");
  STD_TORCH_CHECK(act >= 0 && act <= 3, "ibn_norm: act must be a code from 0 to 3");
  Args a{};
  a.N = x.size(0), a.C = x.size(1), a.S = 1;
  for (int64_t axis = 2; axis < x.dim(); ++axis) a.S *= x.size(axis);
  a.instance_channels = layout.instance_channels;
  STD_TORCH_CHECK(a.instance_channels >= 0 && a.instance_channels <= a.C,
                  "ibn_norm: instance_channels must lie in [0, C]");
  a.instance_last = layout.instance_last, a.residual_first = layout.residual_first;
  a.batch_group = a.N;
  a.eps = eps, a.slope = slope;
  a.dtype = dtype_code(x, "ibn_norm"), a.act = static_cast<Act>(act);
  a.batch_stats = batch_stats, a.channels_last = is_channels_last(x);
  const ScalarType dtype = statistics_dtype(x);
  const int64_t batch = a.C - a.instance_channels;
  a.x = x.data_ptr();
  a.in_weight = address(in_weight, a.instance_channels, dtype, "in_weight");
  a.in_bias = address(in_bias, a.instance_channels, dtype, "in_bias");
  a.bn_weight = address(bn_weight, batch, dtype, "bn_weight");
  a.bn_bias = address(bn_bias, batch, dtype, "bn_bias");
  if (residual.has_value()) {
    STD_TORCH_CHECK(
        residual->numel() == x.numel() && residual->scalar_type() == x.scalar_type() &&
            (residual->is_contiguous() ? !a.channels_last || x.is_contiguous()
                                       : is_channels_last(*residual) == a.channels_last),
        "ibn_norm: residual must have the shape, dtype and memory format of x");
    a.residual = residual->data_ptr();
  }
  return a;
}

inline Tensor empty_mask(const Tensor& x, const Args& a, bool kept) {
  const int64_t row = a.channels_last ? a.C : a.S;
  const int64_t rows = row ? a.N * a.C * a.S / row : 0;
  const std::vector<int64_t> shape =
      kept ? std::vector<int64_t>{rows, (row + 7) / 8} : std::vector<int64_t>{0};
  return torch::stable::new_empty(x, shape, ScalarType::Byte);
}

using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor>;  // y, mean, var, mask

template <typename Launch>  // launch(Args&, const Tensor& x)
ForwardResult forward_with(Launch launch, const Tensor& input, const OptionalTensor& in_weight,
                           const OptionalTensor& in_bias, const OptionalTensor& bn_weight,
                           const OptionalTensor& bn_bias, const OptionalTensor& running_mean,
                           const OptionalTensor& running_var, const OptionalTensor& residual,
                           Layout layout, int64_t act, double slope, bool batch_stats,
                           bool keep_mask, double eps, const Tracking& tracking = {}) {
  const Tensor x = dense(input);
  Args a = make_args(x, residual, in_weight, in_bias, bn_weight, bn_bias, layout, act, slope,
                     batch_stats, eps);
  const ScalarType dtype = statistics_dtype(x);
  const int64_t batch = a.C - a.instance_channels;
  a.running_mean = address(running_mean, batch, dtype, "running_mean");
  a.running_var = address(running_var, batch, dtype, "running_var");
  STD_TORCH_CHECK(batch_stats || batch == 0 || (a.running_mean && a.running_var),
                  "ibn_norm: running statistics are needed without batch statistics");
  a.moves = tracking.moves, a.momentum = tracking.momentum;
  if (tracking.num_batches_tracked.has_value()) {
    STD_TORCH_CHECK(tracking.num_batches_tracked->numel() == 1 &&
                        tracking.num_batches_tracked->scalar_type() == ScalarType::Long,
                    "ibn_norm: num_batches_tracked must be one int64");
    a.num_batches_tracked = static_cast<const int64_t*>(tracking.num_batches_tracked->data_ptr());
  }
  const bool has_sign = a.act == Act::relu || a.act == Act::leaky_relu;
  const bool kept = keep_mask && residual.has_value() && !layout.residual_first && has_sign;
  Tensor y = torch::stable::empty_like(x), mask = empty_mask(x, a, kept);
  Tensor mean = torch::stable::new_empty(x, {a.N, a.C}, dtype);
  Tensor var = torch::stable::new_empty(x, {a.N, a.C}, dtype);
  a.y = y.data_ptr(), a.mean = mean.data_ptr(), a.var = var.data_ptr();
  a.mask = kept ? static_cast<uint8_t*>(mask.data_ptr()) : nullptr;
  if (x.numel() > 0) {
    launch(a, x);
  } else {
    torch::stable::zero_(mean), torch::stable::zero_(var);
  }
  return {std::move(y), std::move(mean), std::move(var), std::move(mask)};
}

// dx, d_in_weight, d_in_bias, d_bn_weight, d_bn_bias, d_residual
using BackwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <typename Launch>
BackwardResult backward_with(Launch launch, const Tensor& dy, const Tensor& input,
                             const OptionalTensor& in_weight, const OptionalTensor& in_bias,
                             const OptionalTensor& bn_weight, const OptionalTensor& bn_bias,
                             const OptionalTensor& residual, const Tensor& mean, const Tensor& var,
                             const Tensor& mask, Layout layout, int64_t act, double slope,
                             bool batch_stats, bool residual_grad, double eps) {
  const Tensor x = dense(input);
  Args a = make_args(x, residual, in_weight, in_bias, bn_weight, bn_bias, layout, act, slope,
                     batch_stats, eps);
  STD_TORCH_CHECK(dy.numel() == x.numel() && dy.scalar_type() == x.scalar_type() &&
                      (x.is_contiguous() ? dy.is_contiguous() : is_channels_last(dy)),
                  "ibn_norm: dy must have the shape, dtype and memory format of x");
  const ScalarType dtype = statistics_dtype(x);
  const int64_t batch = a.C - a.instance_channels;
  Tensor dx = torch::stable::empty_like(x);
  Tensor d_in_weight = torch::stable::new_empty(x, {a.instance_channels}, dtype);
  Tensor d_in_bias = torch::stable::new_empty(x, {a.instance_channels}, dtype);
  Tensor d_bn_weight = torch::stable::new_empty(x, {batch}, dtype);
  Tensor d_bn_bias = torch::stable::new_empty(x, {batch}, dtype);
  Tensor d_residual = residual_grad ? torch::stable::empty_like(x)
                                    : torch::stable::new_empty(x, {0}, x.scalar_type());
  a.dy = dy.data_ptr(), a.dx = dx.data_ptr();
  a.d_residual = residual_grad ? d_residual.data_ptr() : nullptr;
  a.mean = address(mean, a.N * a.C, dtype, "mean");
  a.var = address(var, a.N * a.C, dtype, "var");
  const int64_t row = a.channels_last ? a.C : a.S;
  STD_TORCH_CHECK(mask.numel() == 0 || mask.numel() == x.numel() / row * ((row + 7) / 8),
                  "ibn_norm: mask must be the one that the forward returned");
  a.mask = mask.numel() ? static_cast<uint8_t*>(mask.data_ptr()) : nullptr;
  a.d_in_weight = d_in_weight.data_ptr(), a.d_in_bias = d_in_bias.data_ptr();
  a.d_bn_weight = d_bn_weight.data_ptr(), a.d_bn_bias = d_bn_bias.data_ptr();
  if (x.numel() > 0) {
    launch(a, x);
  } else {
    for (Tensor* t : {&d_in_weight, &d_in_bias, &d_bn_weight, &d_bn_bias}) torch::stable::zero_(*t);
  }
  return {std::move(dx),          std::move(d_in_weight), std::move(d_in_bias),
          std::move(d_bn_weight), std::move(d_bn_bias),   std::move(d_residual)};
}

}  // namespace ibn_norm

// The registered functions of one device: IBN_NORM_REGISTER(CPU, forward_launch, backward_launch)
#define IBN_NORM_REGISTER(device, forward_launch, backward_launch)                                 \
  namespace {                                                                                      \
  using namespace ibn_norm;                                                                        \
  ForwardResult ibn_norm_forward_op(const Tensor& x, const OptionalTensor& in_weight,              \
                                    const OptionalTensor& in_bias,                                 \
                                    const OptionalTensor& bn_weight,                               \
                                    const OptionalTensor& bn_bias,                                 \
                                    const OptionalTensor& running_mean,                            \
                                    const OptionalTensor& running_var,                             \
                                    const OptionalTensor& residual, int64_t instance_channels,     \
                                    bool instance_last, bool residual_first, int64_t act,          \
                                    double slope, bool batch_stats, bool keep_mask, double eps) {  \
    return forward_with(forward_launch, x, in_weight, in_bias, bn_weight, bn_bias, running_mean,   \
                        running_var, residual,                                                     \
                        Layout{instance_channels, instance_last, residual_first}, act, slope,      \
                        batch_stats, keep_mask, eps);                                              \
  }                                                                                                \
  ForwardResult ibn_norm_forward_tracking_op(                                                      \
      const Tensor& x, const OptionalTensor& in_weight, const OptionalTensor& in_bias,             \
      const OptionalTensor& bn_weight, const OptionalTensor& bn_bias, const Tensor& running_mean,  \
      const Tensor& running_var, const OptionalTensor& residual, int64_t instance_channels,        \
      bool instance_last, bool residual_first, int64_t act, double slope, bool batch_stats,        \
      bool keep_mask, double eps, const OptionalTensor& num_batches_tracked, double momentum) {    \
    return forward_with(                                                                           \
        forward_launch, x, in_weight, in_bias, bn_weight, bn_bias, running_mean, running_var,      \
        residual, Layout{instance_channels, instance_last, residual_first}, act, slope,            \
        batch_stats, keep_mask, eps, Tracking{true, num_batches_tracked, momentum});               \
  }                                                                                                \
  BackwardResult ibn_norm_backward_op(                                                             \
      const Tensor& dy, const Tensor& x, const OptionalTensor& in_weight,                          \
      const OptionalTensor& in_bias, const OptionalTensor& bn_weight,                              \
      const OptionalTensor& bn_bias, const OptionalTensor& residual, const Tensor& mean,           \
      const Tensor& var, const Tensor& mask, int64_t instance_channels, bool instance_last,        \
      bool residual_first, int64_t act, double slope, bool batch_stats, bool residual_grad,        \
      double eps) {                                                                                \
    return backward_with(backward_launch, dy, x, in_weight, in_bias, bn_weight, bn_bias, residual, \
                         mean, var, mask,                                                          \
                         Layout{instance_channels, instance_last, residual_first}, act, slope,     \
                         batch_stats, residual_grad, eps);                                         \
  }                                                                                                \
  STABLE_TORCH_LIBRARY_IMPL(ibnvision, device, m) {                                                \
    m.impl("ibn_norm_forward", TORCH_BOX(&ibn_norm_forward_op));                                   \
    m.impl("ibn_norm_forward_tracking", TORCH_BOX(&ibn_norm_forward_tracking_op));                 \
    m.impl("ibn_norm_backward", TORCH_BOX(&ibn_norm_backward_op));                                 \
  }                                                                                                \
  }
