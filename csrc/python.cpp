// The pybind11 module, compiled twice: _C (CPU) and, with USE_CUDA, _cuda.
// Importing it registers the library's kernels with torch.
#include <pybind11/pybind11.h>
#include <torch/headeronly/version.h>

#include <string>

#include "launchers.h"  // written by CMake: register_launchers() calls each op's
#ifndef USE_CUDA
#include "cpu_dispatch.h"
#endif

namespace py = pybind11;

namespace {

std::string torch_floor() {
  return std::to_string(TORCH_TARGET_VERSION >> 56) + "." +
         std::to_string((TORCH_TARGET_VERSION >> 48) & 255);
}

py::dict build_info() {
  py::dict info;
  info["version"] = IBNVISION_VERSION;
  info["torch_built"] = TORCH_VERSION;
  info["torch_min"] = torch_floor();
  info["compiler"] = IBNVISION_COMPILER;
#ifdef USE_CUDA
  info["cuda"] = IBNVISION_CUDA_VERSION;
  info["cuda_archs"] = IBNVISION_CUDA_ARCHS;
  info["cpu_variants"] = py::tuple();
  info["capability"] = IBNVISION_CUDA_ARCHS;
#else
  py::list variants;
  for (auto capability : ibnvision::compiled_capabilities())
    variants.append(ibnvision::capability_name(capability));
  info["cuda"] = py::none();
  info["cuda_archs"] = "";
  info["cpu_variants"] = py::tuple(variants);
  info["capability"] = ibnvision::cpu_capability();
#endif
  return info;
}

}  // namespace

PYBIND11_MODULE(IBNVISION_MODULE, m) {
  m.def("build_info", &build_info, "What was built, by what, and which kernel variant is active.");
#ifndef USE_CUDA
  m.def("set_cpu_capability", &ibnvision::set_cpu_capability, py::arg("name"),
        "Run another compiled variant of the CPU kernels, for the whole process; for tests.");
#endif
  register_launchers(m);
}
