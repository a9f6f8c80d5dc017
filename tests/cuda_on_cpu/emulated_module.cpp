// The launchers of one op on the emulator, for Python: the functions that `_cuda` has, and settings
// of the emulator. The build says which op.
#include <pybind11/pybind11.h>

#include OP_LAUNCHERS

extern "C" void emulator_settings(uint64_t seed, uint64_t shared_bytes);

PYBIND11_MODULE(emulated, m) {
  m.def("emulator_settings", &emulator_settings, pybind11::arg("seed"),
        pybind11::arg("shared_bytes"),
        "The schedule's seed, and the bytes of shared memory with which two blocks fit.");
  REGISTER(m);
}
