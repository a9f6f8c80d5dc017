// Tensors as every op's binding reads them, through the stable ABI of torch.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>

#include "common.h"

namespace ibnvision {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline bool is_channels_last(const Tensor& x) {  // dense, and not also contiguous
  if (x.is_contiguous()) return false;
  int64_t stride = x.size(1);
  if (x.size(1) != 1 && x.stride(1) != 1) return false;
  for (int64_t axis = x.dim() - 1; axis != 0; axis = axis == 2 ? 0 : axis - 1) {
    if (x.size(axis) != 1 && x.stride(axis) != stride) return false;
    stride *= x.size(axis);
  }
  return x.size(0) == 1 || x.stride(0) == stride;
}

inline Tensor dense(const Tensor& x) {
  return x.is_contiguous() || is_channels_last(x) ? x : torch::stable::contiguous(x);
}

inline Dtype dtype_code(const Tensor& x, const char* op) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return Dtype::float32;
    case ScalarType::Half:
      return Dtype::float16;
    case ScalarType::BFloat16:
      return Dtype::bfloat16;
    case ScalarType::Double:
      return Dtype::float64;
    default:
      STD_TORCH_CHECK(false, op, " has no kernel for this dtype");
  }
}

// Of statistics, sums and parameters that are not in the dtype of x.
inline ScalarType statistics_dtype(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void on_torch_threads(int64_t count, void* context, Body body) {
  torch::stable::parallel_for(0, count, 1,
                              [=](int64_t begin, int64_t end) { body(context, begin, end); });
}

}  // namespace ibnvision
