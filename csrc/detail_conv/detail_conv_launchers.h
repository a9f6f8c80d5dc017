// The raw launchers, one a pass, and their Python face for tests and benchmarks: addresses and
// sizes instead of tensors, no checks, no dispatcher. Models call torch.ops.ibnvision. No torch
// header.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "detail_conv.h"
#ifdef USE_CUDA
#include "detail_conv_cuda.h"
#else
#include "detail_conv_cpu.h"
#endif

namespace detail_conv {

// Every field of Args by name; an absent one is 0. Addresses are integers.
inline Args args_from(const pybind11::dict& fields) {
  Args args{};
  for (auto [name, value] : fields) {
    const std::string key = pybind11::str(name);
#define DETAIL_CONV_FIELD(field, expression) \
  if (key == #field) {                       \
    args.field = expression;                 \
    continue;                                \
  }
#define DETAIL_CONV_POINTER(field) \
  DETAIL_CONV_FIELD(field, reinterpret_cast<void*>(pybind11::cast<uintptr_t>(value)))
#define DETAIL_CONV_VALUE(field) \
  DETAIL_CONV_FIELD(field, pybind11::cast<decltype(args.field)>(value))
    DETAIL_CONV_POINTER(central)
    DETAIL_CONV_POINTER(horizontal)
    DETAIL_CONV_POINTER(vertical)
    DETAIL_CONV_POINTER(angular)
    DETAIL_CONV_POINTER(vanilla)
    DETAIL_CONV_POINTER(central_bias)
    DETAIL_CONV_POINTER(horizontal_bias)
    DETAIL_CONV_POINTER(vertical_bias)
    DETAIL_CONV_POINTER(angular_bias)
    DETAIL_CONV_POINTER(vanilla_bias)
    DETAIL_CONV_POINTER(weight)
    DETAIL_CONV_POINTER(bias)
    DETAIL_CONV_POINTER(d_weight)
    DETAIL_CONV_POINTER(d_central)
    DETAIL_CONV_POINTER(d_horizontal)
    DETAIL_CONV_POINTER(d_vertical)
    DETAIL_CONV_POINTER(d_angular)
    DETAIL_CONV_VALUE(O)
    DETAIL_CONV_VALUE(I)
    DETAIL_CONV_VALUE(central_theta)
    DETAIL_CONV_VALUE(angular_theta)
    DETAIL_CONV_FIELD(dtype, static_cast<Dtype>(pybind11::cast<int>(value)))
    DETAIL_CONV_VALUE(channels_last)
#undef DETAIL_CONV_FIELD
#undef DETAIL_CONV_POINTER
#undef DETAIL_CONV_VALUE
    throw std::invalid_argument("fields must be those of detail_conv::Args, got '" + key + "'");
  }
  return args;
}

inline void register_launchers_of(pybind11::module_& m) {
#ifdef USE_CUDA
  m.def("detail_conv_forward", [](uintptr_t stream, const pybind11::kwargs& fields) {
    detail_conv_forward_cuda(args_from(fields), reinterpret_cast<cudaStream_t>(stream));
  });
  m.def("detail_conv_backward", [](uintptr_t stream, const pybind11::kwargs& fields) {
    detail_conv_backward_cuda(args_from(fields), reinterpret_cast<cudaStream_t>(stream));
  });
#else
  m.def("detail_conv_forward",
        [](const pybind11::kwargs& fields) { detail_conv_forward_cpu(args_from(fields)); });
  m.def("detail_conv_backward",
        [](const pybind11::kwargs& fields) { detail_conv_backward_cpu(args_from(fields)); });
#endif
}

}  // namespace detail_conv

inline void register_detail_conv_launchers(pybind11::module_& m) {
  detail_conv::register_launchers_of(m);
}
