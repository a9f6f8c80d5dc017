// The raw launchers, one a pass, and their Python face for tests and benchmarks: addresses and
// sizes instead of tensors, no checks, no dispatcher. Models call torch.ops.ibnvision. No torch
// header.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "ibn_norm.h"
#ifdef USE_CUDA
#include "ibn_norm_cuda.h"
#else
#include "ibn_norm_cpu.h"
#endif

namespace ibn_norm {

// Every field of Args by name; an absent one is 0. Addresses are integers.
inline Args args_from(const pybind11::dict& fields) {
  Args args{};
  for (auto [name, value] : fields) {
    const std::string key = pybind11::str(name);
    const auto pointer = [&] { return reinterpret_cast<void*>(pybind11::cast<uintptr_t>(value)); };
#define IBN_NORM_FIELD(field, expression) \
  if (key == #field) {                    \
    args.field = expression;              \
    continue;                             \
  }
#define IBN_NORM_POINTER(field) IBN_NORM_FIELD(field, pointer())
#define IBN_NORM_VALUE(field) IBN_NORM_FIELD(field, pybind11::cast<decltype(args.field)>(value))
#define IBN_NORM_CODE(field) \
  IBN_NORM_FIELD(field, static_cast<decltype(args.field)>(pybind11::cast<int>(value)))
    IBN_NORM_POINTER(x)
    IBN_NORM_POINTER(residual)
    IBN_NORM_POINTER(dy)
    IBN_NORM_POINTER(y)
    IBN_NORM_POINTER(dx)
    IBN_NORM_POINTER(d_residual)
    IBN_NORM_FIELD(mask, static_cast<uint8_t*>(pointer()))
    IBN_NORM_POINTER(in_weight)
    IBN_NORM_POINTER(in_bias)
    IBN_NORM_POINTER(bn_weight)
    IBN_NORM_POINTER(bn_bias)
    IBN_NORM_POINTER(running_mean)
    IBN_NORM_POINTER(running_var)
    IBN_NORM_FIELD(num_batches_tracked, static_cast<int64_t*>(pointer()))
    IBN_NORM_POINTER(mean)
    IBN_NORM_POINTER(var)
    IBN_NORM_POINTER(d_in_weight)
    IBN_NORM_POINTER(d_in_bias)
    IBN_NORM_POINTER(d_bn_weight)
    IBN_NORM_POINTER(d_bn_bias)
    IBN_NORM_POINTER(workspace)
    IBN_NORM_VALUE(N)
    IBN_NORM_VALUE(C)
    IBN_NORM_VALUE(S)
    IBN_NORM_VALUE(instance_channels)
    IBN_NORM_VALUE(batch_group)
    IBN_NORM_VALUE(eps)
    IBN_NORM_VALUE(slope)
    IBN_NORM_VALUE(momentum)
    IBN_NORM_CODE(dtype)
    IBN_NORM_CODE(act)
    IBN_NORM_VALUE(instance_last)
    IBN_NORM_VALUE(residual_first)
    IBN_NORM_VALUE(batch_stats)
    IBN_NORM_VALUE(channels_last)
    IBN_NORM_VALUE(moves)
#undef IBN_NORM_FIELD
#undef IBN_NORM_POINTER
#undef IBN_NORM_VALUE
#undef IBN_NORM_CODE
    throw std::invalid_argument("fields must be those of ibn_norm::Args, got '" + key + "'");
  }
  return args;
}

inline void register_launchers_of(pybind11::module_& m) {
#ifdef USE_CUDA
  m.def("ibn_norm_workspace_bytes", [](bool backward, const pybind11::kwargs& fields) {
    return ibn_norm_workspace_bytes(args_from(fields), backward);
  });
  m.def("ibn_norm_forward", [](uintptr_t stream, const pybind11::kwargs& fields) {
    ibn_norm_forward_cuda(args_from(fields), reinterpret_cast<cudaStream_t>(stream));
  });
  m.def("ibn_norm_backward", [](uintptr_t stream, const pybind11::kwargs& fields) {
    ibn_norm_backward_cuda(args_from(fields), reinterpret_cast<cudaStream_t>(stream));
  });
#else
  m.def("ibn_norm_forward",
        [](const pybind11::kwargs& fields) { ibn_norm_forward_cpu(args_from(fields)); });
  m.def("ibn_norm_backward",
        [](const pybind11::kwargs& fields) { ibn_norm_backward_cpu(args_from(fields)); });
#endif
}

}  // namespace ibn_norm

inline void register_ibn_norm_launchers(pybind11::module_& m) {
  ibn_norm::register_launchers_of(m);
}
