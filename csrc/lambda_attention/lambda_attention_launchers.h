// The raw launchers, one a pass, and their Python face for tests and benchmarks: addresses and
// sizes instead of tensors, no checks, no dispatcher. Models call torch.ops.ibnvision. No torch
// header.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "lambda_attention.h"
#ifdef USE_CUDA
#include "lambda_attention_cuda.h"
#else
#include "lambda_attention_cpu.h"
#endif

namespace lambda_attention {

// Every field of Args by name; an absent one is 0. Addresses are integers, Rows are tuples
// (address, batch, head, token) of strides.
inline Args args_from(const pybind11::dict& fields) {
  Args args{};
  const auto pointer = [](pybind11::handle value) {
    return reinterpret_cast<void*>(pybind11::cast<uintptr_t>(value));
  };
  for (auto [name, value] : fields) {
    const std::string key = pybind11::str(name);
#define FIELD(field, expression) \
  if (key == #field) {           \
    args.field = expression;     \
    continue;                    \
  }
#define ROWS(field)                                                                            \
  if (key == #field) {                                                                         \
    const auto t = pybind11::cast<pybind11::tuple>(value);                                     \
    args.field = {pointer(t[0]), pybind11::cast<int64_t>(t[1]), pybind11::cast<int64_t>(t[2]), \
                  pybind11::cast<int64_t>(t[3])};                                              \
    continue;                                                                                  \
  }
#define POINTER(field) FIELD(field, static_cast<decltype(args.field)>(pointer(value)))
#define VALUE(field) FIELD(field, pybind11::cast<decltype(args.field)>(value))
    ROWS(q)
    ROWS(k)
    ROWS(v)
    ROWS(q_prefix)
    ROWS(k_prefix)
    ROWS(d_out)
    ROWS(out_rows)
    POINTER(table)
    POINTER(slopes)
    POINTER(lse)
    POINTER(out)
    POINTER(dq)
    POINTER(dk)
    POINTER(dv)
    POINTER(d_q_prefix)
    POINTER(d_k_prefix)
    POINTER(d_table)
    POINTER(workspace)
    VALUE(B)
    VALUE(heads)
    VALUE(N)
    VALUE(D)
    VALUE(prefix)
    VALUE(height)
    VALUE(width)
    VALUE(reach_y)
    VALUE(reach_x)
    VALUE(scale)
    VALUE(limit)
    VALUE(causal)
    FIELD(dtype, static_cast<Dtype>(pybind11::cast<int>(value)))
#undef FIELD
#undef ROWS
#undef POINTER
#undef VALUE
    throw std::invalid_argument("fields must be those of lambda_attention::Args, got '" + key +
                                "'");
  }
  return args;
}

inline void register_launchers_of(pybind11::module_& m) {
#ifdef USE_CUDA
  m.def("lambda_attention_workspace_bytes", [](bool backward, const pybind11::kwargs& fields) {
    return lambda_attention_workspace_bytes(args_from(fields), backward);
  });
  m.def("lambda_attention_forward", [](uintptr_t stream, const pybind11::kwargs& fields) {
    lambda_attention_forward_cuda(args_from(fields), reinterpret_cast<cudaStream_t>(stream));
  });
  m.def("lambda_attention_backward", [](uintptr_t stream, const pybind11::kwargs& fields) {
    lambda_attention_backward_cuda(args_from(fields), reinterpret_cast<cudaStream_t>(stream));
  });
#else
  m.def("lambda_attention_forward",
        [](const pybind11::kwargs& fields) { lambda_attention_forward_cpu(args_from(fields)); });
  m.def("lambda_attention_backward",
        [](const pybind11::kwargs& fields) { lambda_attention_backward_cpu(args_from(fields)); });
#endif
}

}  // namespace lambda_attention

inline void register_lambda_attention_launchers(pybind11::module_& m) {
  lambda_attention::register_launchers_of(m);
}
