// Shared memory of one block, NaN bytes until somebody writes. Under AddressSanitizer every array
// is a heap block of its exact size, so that an access behind its end ends the program; else the
// arrays lie in one arena, whose addresses the race detector knows.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulator_fiber.h"

namespace emulator {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

constexpr size_t kMostShared = 227 * 1024;  // bytes that a block of sm_90 may have
constexpr size_t kArenaBytes = 256 * 1024;  // with room for the alignment of each array
constexpr size_t kArrayAlignment = 128;

class SharedMemory {
 public:
  SharedMemory() { std::memset(arena_, 0xff, sizeof arena_); }

  // Frees or poisons what the block before had. `dynamic_bytes` are those of the launch.
  void begin_block(size_t dynamic_bytes) {
    std::memset(arena_, 0xff, used_);
    used_ = total_ = 0;
    for (const Array& array : arrays_) release(array.memory);
    arrays_.clear();
    array(this, dynamic_bytes);
  }

  // The array of one declaration, the same for all threads of the block.
  EMULATOR_PLAIN void* array(const void* declaration, size_t bytes) {
    const Array* const arrays = arrays_.data();
    for (size_t i = 0, count = arrays_.size(); i < count; ++i)
      if (arrays[i].declaration == declaration) return arrays[i].memory;
    total_ += bytes;
    if (total_ > kMostShared) {
      throw Error("a block may have " + std::to_string(kMostShared) +
                  " bytes of shared memory, got " + std::to_string(total_));
    }
    arrays_.push_back({declaration, take(bytes), bytes});
    return arrays_.back().memory;
  }

  void* dynamic() { return array(this, 0); }

  // Whether the bytes from p on are shared memory of one array.
  EMULATOR_PLAIN bool contains(const void* p, size_t bytes) const {
    const auto first = static_cast<const char*>(p);
    for (const Array& array : arrays_) {
      const auto begin = static_cast<const char*>(array.memory);
      if (first >= begin && first + bytes <= begin + array.bytes) return true;
    }
    return false;
  }

  // Offset of p in the arena; not below kArenaBytes for other memory.
  EMULATOR_PLAIN size_t offset(const void* p) const {
    return static_cast<size_t>(static_cast<const char*>(p) - arena_);
  }

 private:
  struct Array {
    const void* declaration;
    void* memory;
    size_t bytes;
  };

#ifdef __SANITIZE_ADDRESS__
  static void* take(size_t bytes) {
    void* const memory = std::malloc(bytes);
    std::memset(memory, 0xff, bytes);
    return memory;
  }
  static void release(void* memory) { std::free(memory); }
  char arena_[1];
#else
  void* take(size_t bytes) {
    void* const memory = arena_ + used_;
    used_ += (bytes + kArrayAlignment - 1) / kArrayAlignment * kArrayAlignment;
    if (used_ > kArenaBytes) throw Error("more shared arrays than the arena has room for");
    return memory;
  }
  static void release(void*) {}
  alignas(kArrayAlignment) char arena_[kArenaBytes];
#endif
  size_t used_ = 0, total_ = 0;
  std::vector<Array> arrays_;
};

}  // namespace emulator
