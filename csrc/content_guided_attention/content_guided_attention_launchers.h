// The raw launchers, one a pass, and their Python face for tests and benchmarks: addresses and
// sizes instead of tensors, no checks, no dispatcher. Models call torch.ops.ibnvision. No torch
// header.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "content_guided_attention.h"
#ifdef USE_CUDA
#include "content_guided_attention_cuda.h"
#else
#include "content_guided_attention_cpu.h"
#endif

namespace content_guided_attention {

// Every field of Args by name; an absent one is 0. Addresses are integers.
inline Args args_from(const pybind11::dict& fields) {
  Args args{};
  for (auto [name, value] : fields) {
    const std::string key = pybind11::str(name);
    const auto pointer = [&] { return reinterpret_cast<void*>(pybind11::cast<uintptr_t>(value)); };
#define FIELD(field, expression) \
  if (key == #field) {           \
    args.field = expression;     \
    continue;                    \
  }
#define POINTER(field) FIELD(field, pointer())
#define VALUE(field) FIELD(field, pybind11::cast<decltype(args.field)>(value))
    POINTER(x)
    POINTER(high)
    POINTER(residual)
    POINTER(dy)
    POINTER(y)
    POINTER(dx)
    POINTER(d_high)
    POINTER(ca)
    POINTER(sa)
    POINTER(weight)
    POINTER(bias)
    POINTER(d_ca)
    POINTER(d_sa)
    POINTER(d_weight)
    POINTER(d_bias)
    POINTER(workspace)
    VALUE(N)
    VALUE(C)
    VALUE(H)
    VALUE(W)
    FIELD(dtype, static_cast<Dtype>(pybind11::cast<int>(value)))
    VALUE(channels_last)
#undef FIELD
#undef POINTER
#undef VALUE
    throw std::invalid_argument("fields must be those of content_guided_attention::Args, got '" +
                                key + "'");
  }
  return args;
}

inline void register_launchers_of(pybind11::module_& m) {
#ifdef USE_CUDA
  m.def("content_guided_attention_workspace_bytes",
        [](bool backward, const pybind11::kwargs& fields) {
          return content_guided_attention_workspace_bytes(args_from(fields), backward);
        });
  m.def("content_guided_attention_forward", [](uintptr_t stream, const pybind11::kwargs& fields) {
    content_guided_attention_forward_cuda(args_from(fields),
                                          reinterpret_cast<cudaStream_t>(stream));
  });
  m.def("content_guided_attention_backward", [](uintptr_t stream, const pybind11::kwargs& fields) {
    content_guided_attention_backward_cuda(args_from(fields),
                                           reinterpret_cast<cudaStream_t>(stream));
  });
#else
  m.def("content_guided_attention_forward", [](const pybind11::kwargs& fields) {
    content_guided_attention_forward_cpu(args_from(fields));
  });
  m.def("content_guided_attention_backward", [](const pybind11::kwargs& fields) {
    content_guided_attention_backward_cpu(args_from(fields));
  });
#endif
}

}  // namespace content_guided_attention

inline void register_content_guided_attention_launchers(pybind11::module_& m) {
  content_guided_attention::register_launchers_of(m);
}
