// Tensors to Args and outputs, for every device. Contract:
// ibnvision/ops/content_guided_attention.py, whose entry has checked its arguments; here only what
// would read or write out of bounds is checked again.
#pragma once
#include <tuple>
#include <utility>

#include "../binding_common.h"
#include "content_guided_attention.h"

namespace content_guided_attention {

using ibnvision::dense;
using ibnvision::dtype_code;
using ibnvision::is_channels_last;
using ibnvision::OptionalTensor;
using ibnvision::ScalarType;
using ibnvision::statistics_dtype;
using ibnvision::Tensor;

// The address of `count` parameters.
inline void* parameter(const Tensor& t, int64_t count, const Tensor& x, const char* name) {
  STD_TORCH_CHECK(t.numel() == count && t.scalar_type() == statistics_dtype(x) && t.is_contiguous(),
                  "content_guided_attention: ", name,
                  " must be contiguous, float32 (float64 for float64 x), ", "with ", count,
                  " values");
  return t.data_ptr();
}

// The address of a tensor laid out like x, or null.
inline void* like(const OptionalTensor& t, const Tensor& x, const char* name) {
  if (!t.has_value()) return nullptr;
  bool same = t->dim() == 4 && t->scalar_type() == x.scalar_type();
  for (int64_t axis = 0; same && axis < 4; ++axis) same = t->size(axis) == x.size(axis);
  same = same && (x.is_contiguous() ? t->is_contiguous() : is_channels_last(*t));
  STD_TORCH_CHECK(same, "content_guided_attention: ", name,
                  " must have the shape, dtype and memory format of x");
  return t->data_ptr();
}

inline Args make_args(const Tensor& x, const Tensor& ca, const Tensor& sa, const Tensor& weight,
                      const Tensor& bias, const OptionalTensor& high) {
  STD_TORCH_CHECK(x.dim() == 4 && x.size(2) > kReach && x.size(3) > kReach,
                  "content_guided_attention: x must be [N, C, H, W] with H and W at least 4");
  Args a{};
  a.N = x.size(0), a.C = x.size(1), a.H = x.size(2), a.W = x.size(3);
  a.dtype = dtype_code(x, "content_guided_attention"), a.channels_last = is_channels_last(x);
  a.x = x.data_ptr(), a.high = like(high, x, "high");
  a.ca = parameter(ca, a.N * a.C, x, "ca");
  a.sa = parameter(sa, a.N * a.H * a.W, x, "sa");
  a.weight = parameter(weight, a.C * 2 * kTaps, x, "weight");
  a.bias = parameter(bias, a.C, x, "bias");
  return a;
}

template <typename Launch>  // launch(Args&, const Tensor& x)
Tensor forward_with(Launch launch, const Tensor& input, const Tensor& ca, const Tensor& sa,
                    const Tensor& weight, const Tensor& bias, const OptionalTensor& residual,
                    const OptionalTensor& high) {
  const Tensor x = dense(input);
  Args a = make_args(x, ca, sa, weight, bias, high);
  a.residual = like(residual, x, "residual");
  Tensor y = torch::stable::empty_like(x);
  a.y = y.data_ptr();
  if (x.numel() > 0) launch(a, x);
  return y;
}

using BackwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// dx, d_ca, d_sa, d_weight, d_bias, d_high
template <typename Launch>
BackwardResult backward_with(Launch launch, const Tensor& dy, const Tensor& input, const Tensor& ca,
                             const Tensor& sa, const Tensor& weight, const Tensor& bias,
                             const OptionalTensor& high) {
  const Tensor x = dense(input);
  Args a = make_args(x, ca, sa, weight, bias, high);
  const ScalarType dtype = statistics_dtype(x);
  Tensor dx = torch::stable::empty_like(x);
  Tensor d_ca = torch::stable::new_empty(x, {a.N, a.C, 1, 1}, dtype);
  Tensor d_sa = torch::stable::new_empty(x, {a.N, 1, a.H, a.W}, dtype);
  Tensor d_weight = torch::stable::new_empty(x, {a.C, 2, 7, 7}, dtype);
  Tensor d_bias = torch::stable::new_empty(x, {a.C}, dtype);
  Tensor d_high = high.has_value() ? torch::stable::empty_like(x)
                                   : torch::stable::new_empty(x, {0}, x.scalar_type());
  a.dy = like(dy, x, "dy");
  a.dx = dx.data_ptr(), a.d_high = high.has_value() ? d_high.data_ptr() : nullptr;
  a.d_ca = d_ca.data_ptr(), a.d_sa = d_sa.data_ptr();
  a.d_weight = d_weight.data_ptr(), a.d_bias = d_bias.data_ptr();
  if (x.numel() > 0) {
    launch(a, x);
  } else {
    for (Tensor* t : {&d_ca, &d_sa, &d_weight, &d_bias}) torch::stable::zero_(*t);
  }
  return {std::move(dx),       std::move(d_ca),   std::move(d_sa),
          std::move(d_weight), std::move(d_bias), std::move(d_high)};
}

}  // namespace content_guided_attention

// The registered functions of one device:
// CONTENT_GUIDED_ATTENTION_REGISTER(CPU, forward_launch, backward_launch)
#define CONTENT_GUIDED_ATTENTION_REGISTER(device, forward_launch, backward_launch)                 \
  namespace {                                                                                      \
  using namespace content_guided_attention;                                                        \
  Tensor content_guided_attention_forward_op(const Tensor& x, const Tensor& ca, const Tensor& sa,  \
                                             const Tensor& weight, const Tensor& bias,             \
                                             const OptionalTensor& residual,                       \
                                             const OptionalTensor& high) {                         \
    return forward_with(forward_launch, x, ca, sa, weight, bias, residual, high);                  \
  }                                                                                                \
  BackwardResult content_guided_attention_backward_op(const Tensor& dy, const Tensor& x,           \
                                                      const Tensor& ca, const Tensor& sa,          \
                                                      const Tensor& weight, const Tensor& bias,    \
                                                      const OptionalTensor& high) {                \
    return backward_with(backward_launch, dy, x, ca, sa, weight, bias, high);                      \
  }                                                                                                \
  STABLE_TORCH_LIBRARY_IMPL(ibnvision, device, m) {                                                \
    m.impl("content_guided_attention_forward", TORCH_BOX(&content_guided_attention_forward_op));   \
    m.impl("content_guided_attention_backward", TORCH_BOX(&content_guided_attention_backward_op)); \
  }                                                                                                \
  }
