// Tensors to Args and outputs, for every device. Contract: ibnvision/ops/lambda_attention.py, whose
// entry has checked its arguments; here only what would read or write out of bounds is checked
// again.
#pragma once
#include <tuple>
#include <utility>

#include "../binding_common.h"
#include "lambda_attention.h"

namespace lambda_attention {

using ibnvision::dtype_code;
using ibnvision::OptionalTensor;
using ibnvision::ScalarType;
using ibnvision::Tensor;

// [B, heads, tokens, D] of q, or nothing.
inline Rows rows(const OptionalTensor& t, const Tensor& q, int64_t tokens, const char* name) {
  if (!t.has_value()) return {};
  const bool same = t->dim() == 4 && t->scalar_type() == q.scalar_type() &&
                    t->size(0) == q.size(0) && t->size(1) == q.size(1) && t->size(2) == tokens &&
                    t->size(3) == q.size(3);
  STD_TORCH_CHECK(same && t->stride(3) == 1, "lambda_attention: ", name,
                  " must have the dtype of q and shape [B, heads, ", tokens,
                  ", D], and neighbouring numbers along its last axis");
  return {t->data_ptr(), t->stride(0), t->stride(1), t->stride(2)};
}

inline float* floats(const OptionalTensor& t, int64_t count, const char* name) {
  if (!t.has_value()) return nullptr;
  STD_TORCH_CHECK(
      t->numel() == count && t->scalar_type() == ScalarType::Float && t->is_contiguous(),
      "lambda_attention: ", name, " must be contiguous, float32, with ", count, " values");
  return static_cast<float*>(t->data_ptr());
}

struct Options {
  int64_t prefix, width, reach_y, reach_x;
  bool causal;
  double scale, limit;
};

inline Args make_args(const Tensor& q, const Tensor& k, const Tensor& v,
                      const OptionalTensor& table, const OptionalTensor& slopes,
                      const OptionalTensor& q_prefix, const OptionalTensor& k_prefix,
                      const Options& o) {
  STD_TORCH_CHECK(q.dim() == 4 && q.size(3) > 0 && q.size(3) % 8 == 0,
                  "lambda_attention: q must be [B, heads, N, D] with D a multiple of 8");
  Args a{};
  a.B = q.size(0), a.heads = q.size(1), a.N = q.size(2), a.D = q.size(3);
  a.prefix = o.prefix, a.reach_y = o.reach_y, a.reach_x = o.reach_x, a.causal = o.causal;
  STD_TORCH_CHECK(o.prefix >= 0 && o.prefix <= a.N && o.reach_y >= 0 && o.reach_x >= 0,
                  "lambda_attention: prefix must lie in [0, N], reaches be at least 0");
  if (!o.causal && a.N > o.prefix) {
    STD_TORCH_CHECK(o.width > 0 && (a.N - o.prefix) % o.width == 0,
                    "lambda_attention: width must divide N - prefix");
    a.width = o.width, a.height = (a.N - o.prefix) / o.width;
  }
  a.scale = static_cast<float>(o.scale), a.limit = static_cast<float>(o.limit);
  a.dtype = dtype_code(q, "lambda_attention");
  STD_TORCH_CHECK(a.dtype != Dtype::float64, "lambda_attention has no kernel for float64");
  a.q = rows(q, q, a.N, "q"), a.k = rows(k, q, a.N, "k"), a.v = rows(v, q, a.N, "v");
  a.q_prefix = rows(q_prefix, q, a.N, "q_prefix");
  a.k_prefix = rows(k_prefix, q, a.prefix, "k_prefix");
  a.table = floats(table, a.heads * (2 * a.reach_y + 1) * (2 * a.reach_x + 1), "table");
  a.slopes = floats(slopes, a.heads, "slopes");
  return a;
}

// Empty, dense in the order [B, tokens, heads, D], seen as [B, heads, tokens, D].
inline Tensor joined(const Tensor& q, int64_t tokens) {
  return torch::stable::transpose(
      torch::stable::new_empty(q, {q.size(0), tokens, q.size(1), q.size(3)}), 1, 2);
}

template <typename Launch>  // launch(Args&, const Tensor& q)
std::tuple<Tensor, Tensor> forward_with(Launch launch, const Tensor& q, const Tensor& k,
                                        const Tensor& v, const OptionalTensor& table,
                                        const OptionalTensor& slopes,
                                        const OptionalTensor& q_prefix,
                                        const OptionalTensor& k_prefix, const Options& options) {
  Args a = make_args(q, k, v, table, slopes, q_prefix, k_prefix, options);
  Tensor out = joined(q, a.N);
  Tensor lse = torch::stable::new_empty(q, {a.B, a.heads, a.N}, ScalarType::Float);
  a.out = out.data_ptr(), a.lse = static_cast<float*>(lse.data_ptr());
  if (q.numel() > 0) launch(a, q);
  return {std::move(out), std::move(lse)};
}

using BackwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// dq, dk, dv, d_table, d_q_prefix, d_k_prefix
template <typename Launch>
BackwardResult backward_with(Launch launch, const Tensor& d_out, const Tensor& q, const Tensor& k,
                             const Tensor& v, const OptionalTensor& table,
                             const OptionalTensor& slopes, const OptionalTensor& q_prefix,
                             const OptionalTensor& k_prefix, const Tensor& out, const Tensor& lse,
                             const Options& options) {
  Args a = make_args(q, k, v, table, slopes, q_prefix, k_prefix, options);
  a.d_out = rows(d_out, q, a.N, "d_out"), a.out_rows = rows(out, q, a.N, "out");
  a.lse = floats(lse, a.B * a.heads * a.N, "lse");
  Tensor dq = joined(q, a.N), dk = joined(q, a.N), dv = joined(q, a.N);
  const auto none = [&](ScalarType dtype) { return torch::stable::new_empty(q, {0}, dtype); };
  Tensor d_table = table.has_value()
                       ? torch::stable::new_empty(
                             q, {a.heads, 2 * a.reach_y + 1, 2 * a.reach_x + 1}, ScalarType::Float)
                       : none(ScalarType::Float);
  Tensor d_q_prefix = q_prefix.has_value() ? joined(q, a.N) : none(q.scalar_type());
  Tensor d_k_prefix = k_prefix.has_value() ? joined(q, a.prefix) : none(q.scalar_type());
  a.dq = dq.data_ptr(), a.dk = dk.data_ptr(), a.dv = dv.data_ptr();
  if (table.has_value()) a.d_table = static_cast<float*>(d_table.data_ptr());
  if (q_prefix.has_value()) a.d_q_prefix = d_q_prefix.data_ptr();
  if (k_prefix.has_value()) a.d_k_prefix = d_k_prefix.data_ptr();
  if (q.numel() > 0)
    launch(a, q);
  else if (a.d_table)
    torch::stable::zero_(d_table);
  return {std::move(dq),      std::move(dk),         std::move(dv),
          std::move(d_table), std::move(d_q_prefix), std::move(d_k_prefix)};
}

}  // namespace lambda_attention

// The registered functions of one device:
// LAMBDA_ATTENTION_REGISTER(CPU, forward_launch, backward_launch)
#define LAMBDA_ATTENTION_REGISTER(device, forward_launch, backward_launch)                        \
  namespace {                                                                                     \
  using namespace lambda_attention;                                                               \
  std::tuple<Tensor, Tensor> lambda_attention_forward_op(                                         \
      const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& table,             \
      const OptionalTensor& slopes, const OptionalTensor& q_prefix,                               \
      const OptionalTensor& k_prefix, int64_t prefix, int64_t width, int64_t reach_y,             \
      int64_t reach_x, bool causal, double scale, double limit) {                                 \
    return forward_with(forward_launch, q, k, v, table, slopes, q_prefix, k_prefix,               \
                        {prefix, width, reach_y, reach_x, causal, scale, limit});                 \
  }                                                                                               \
  BackwardResult lambda_attention_backward_op(                                                    \
      const Tensor& d_out, const Tensor& q, const Tensor& k, const Tensor& v,                     \
      const OptionalTensor& table, const OptionalTensor& slopes, const OptionalTensor& q_prefix,  \
      const OptionalTensor& k_prefix, const Tensor& out, const Tensor& lse, int64_t prefix,       \
      int64_t width, int64_t reach_y, int64_t reach_x, bool causal, double scale, double limit) { \
    return backward_with(backward_launch, d_out, q, k, v, table, slopes, q_prefix, k_prefix, out, \
                         lse, {prefix, width, reach_y, reach_x, causal, scale, limit});           \
  }                                                                                               \
  STABLE_TORCH_LIBRARY_IMPL(ibnvision, device, m) {                                               \
    m.impl("lambda_attention_forward", TORCH_BOX(&lambda_attention_forward_op));                  \
    m.impl("lambda_attention_backward", TORCH_BOX(&lambda_attention_backward_op));                \
  }                                                                                               \
  }
