// What -fsanitize=thread compiles into the kernels, without its run-time library: every access of
// memory comes by here. Builtins that copy are compiled as calls (-fno-builtin-...) and wrapped by
// the linker (--wrap=...).
#pragma once
#ifdef __SANITIZE_THREAD__
#include "emulator_machine.h"

#define EMULATOR_HOOK extern "C" __attribute__((no_sanitize("thread"), used, noinline)) inline

#define EMULATOR_ACCESS(name, bytes, kind)                                                   \
  EMULATOR_HOOK void __tsan_##name(void* p) {                                                \
    emulator::machine.access(p, bytes, emulator::Access::kind, __builtin_return_address(0)); \
  }
#define EMULATOR_ACCESSES(bytes)                        \
  EMULATOR_ACCESS(read##bytes, bytes, read)             \
  EMULATOR_ACCESS(write##bytes, bytes, write)           \
  EMULATOR_ACCESS(unaligned_read##bytes, bytes, read)   \
  EMULATOR_ACCESS(unaligned_write##bytes, bytes, write) \
  EMULATOR_ACCESS(volatile_read##bytes, bytes, read)    \
  EMULATOR_ACCESS(volatile_write##bytes, bytes, write)

EMULATOR_ACCESSES(1)
EMULATOR_ACCESSES(2)
EMULATOR_ACCESSES(4)
EMULATOR_ACCESSES(8)
EMULATOR_ACCESSES(16)
#undef EMULATOR_ACCESSES
#undef EMULATOR_ACCESS

EMULATOR_HOOK void __tsan_read_range(void* p, size_t bytes) {
  emulator::machine.access(p, bytes, emulator::Access::read, __builtin_return_address(0));
}
EMULATOR_HOOK void __tsan_write_range(void* p, size_t bytes) {
  emulator::machine.access(p, bytes, emulator::Access::write, __builtin_return_address(0));
}
EMULATOR_HOOK void __tsan_init() {}
EMULATOR_HOOK void __tsan_func_entry(void*) {}
EMULATOR_HOOK void __tsan_func_exit() {}
EMULATOR_HOOK void __tsan_vptr_update(void**, void*) {}
EMULATOR_HOOK void __tsan_vptr_read(void**) {}

// Guards of function-local statics; the emulator has one thread of the operating system.
EMULATOR_HOOK uint8_t __tsan_atomic8_load(const volatile void* p, int) {
  return *static_cast<const volatile uint8_t*>(p);
}

extern "C" {
void* __real_memcpy(void* to, const void* from, size_t bytes);
void* __real_memmove(void* to, const void* from, size_t bytes);
void* __real_memset(void* to, int value, size_t bytes);
}

EMULATOR_HOOK void* __wrap_memcpy(void* to, const void* from, size_t bytes) {
  emulator::machine.access(from, bytes, emulator::Access::read, __builtin_return_address(0));
  emulator::machine.access(to, bytes, emulator::Access::write, __builtin_return_address(0));
  return __real_memcpy(to, from, bytes);
}
EMULATOR_HOOK void* __wrap_memmove(void* to, const void* from, size_t bytes) {
  emulator::machine.access(from, bytes, emulator::Access::read, __builtin_return_address(0));
  emulator::machine.access(to, bytes, emulator::Access::write, __builtin_return_address(0));
  return __real_memmove(to, from, bytes);
}
EMULATOR_HOOK void* __wrap_memset(void* to, int value, size_t bytes) {
  emulator::machine.access(to, bytes, emulator::Access::write, __builtin_return_address(0));
  return __real_memset(to, value, bytes);
}

#undef EMULATOR_HOOK
#endif
