// What the schedule knows of a CUDA thread, and its words for it.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <string>

#include "emulator_fiber.h"

namespace emulator {

#ifdef __SANITIZE_ADDRESS__
constexpr size_t kStackBytes = 256 * 1024;
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif

enum class Wait : uint8_t { none, block, warp, done };

// What a waiting thread gives to the lanes of its mask and wants of them.
struct Exchange {
  static constexpr int kAll = -1, kNobody = -2;
  const void* offer = nullptr;
  void* received = nullptr;  // `bytes`, for kAll 32 times as many
  uint32_t bytes = 0;
  int from = kNobody;  // a lane
};

struct Thread {
  Fiber fiber;
  uint3 index;
  Wait wait;
  int number;        // in its block
  int predicate;     // of __syncthreads_count and its like
  int synchronous;   // WarpSynchronous scopes
  unsigned mask;     // lanes it waits for
  const char* file;  // where it waits
  unsigned line;
  Exchange exchange;
};

inline std::string triple(uint3 v) {
  return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
}

inline std::string hex(unsigned mask) {
  char text[16];
  std::snprintf(text, sizeof text, "%#010x", mask);
  return text;
}

inline std::string place(const char* file, unsigned line) {
  const std::string path = file;
  return path.substr(path.find_last_of('/') + 1) + ":" + std::to_string(line);
}

inline std::string name(const Thread& t) { return "thread " + triple(t.index); }

inline std::string state(const Thread& t) {
  if (t.wait == Wait::done) return name(t) + " has ended";
  const std::string where = name(t) + " waits at " + place(t.file, t.line);
  return t.wait == Wait::block ? where + " for its block"
                               : where + " for lanes " + hex(t.mask) + " of its warp";
}

}  // namespace emulator
