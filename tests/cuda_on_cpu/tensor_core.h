// Tensor cores and asynchronous copies of csrc/cuda_tensor_core.cuh on the host, by their layouts.
//
// The destination of a copy under way holds NaN bytes, whatever else is written to it, and gets
// its own only at the wait that covers its group: a read too early, a wait for too few groups and a
// copy over what is still needed all show. A copy that no wait covers never arrives. To the race
// detector a copy writes when it starts and when it arrives.
#pragma once
#include <array>
#include <bit>
#include <cstring>
#include <deque>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "emulator.h"

#define EMULATOR_INSTRUCTION EMULATOR_PLAIN __attribute__((noinline))

namespace emulator {

struct AsyncCopy {
  uint32_t* to;
  int words;
  std::array<uint32_t, 4> data;
};

// The copies of one thread. `site` is the return address of the instruction.
class AsyncCopies {
 public:
  void start(const AsyncCopy& copy, const void* site) {
    touch(copy.to, 4 * copy.words, Access::write, site);
    poison(copy);
    open_.push_back(copy);
  }
  void commit() { groups_.push_back(std::exchange(open_, {})); }
  void wait(size_t pending, const void* site) {
    if (groups_.size() <= pending) return;
    for (; groups_.size() > pending; groups_.pop_front()) {
      for (const AsyncCopy& copy : groups_.front()) arrive(copy, site);
    }
    for (const auto& group : groups_) {
      for (const AsyncCopy& copy : group) poison(copy);
    }
    for (const AsyncCopy& copy : open_) poison(copy);
  }

  static void touch(const void* p, size_t bytes, Access kind, const void* site) {
#ifdef __SANITIZE_THREAD__
    machine.access(p, bytes, kind, site);
#else
    static_cast<void>(p), static_cast<void>(bytes), static_cast<void>(kind);
    static_cast<void>(site);
#endif
  }

 private:
  std::vector<AsyncCopy> open_;                // since the last commit
  std::deque<std::vector<AsyncCopy>> groups_;  // the oldest first

  EMULATOR_PLAIN static void poison(const AsyncCopy& copy) {
    for (int i = 0; i < copy.words; ++i) copy.to[i] = 0xffffffffu;
  }
  EMULATOR_PLAIN static void arrive(const AsyncCopy& copy, const void* site) {
    touch(copy.to, 4 * copy.words, Access::write, site);
    const uint32_t* const data = copy.data.data();
    for (int i = 0; i < copy.words; ++i) copy.to[i] = data[i];
  }
};

// Those of the current thread: none when its block begins, whose shared memory has no mark yet.
EMULATOR_PLAIN inline AsyncCopies& async_copies() {
  constexpr uint32_t kMark = 0xa5c0de;
  static std::vector<AsyncCopies> of_threads;
  static const char declaration = 0;
  const auto mark = static_cast<uint32_t*>(machine.memory.array(&declaration, sizeof(uint32_t)));
  if (*mark != kMark) of_threads.assign(kMostThreads, {});
  *mark = kMark;
  return of_threads[machine.current->number];
}

[[noreturn]] inline void refuse(const std::string& mistake, const emulator_line& line) {
  throw Error(machine.in_block("thread " + std::to_string(machine.current->number) + " at line " +
                               std::to_string(line.line()) + ": " + mistake));
}

EMULATOR_PLAIN inline void check_shared(const void* p, size_t bytes, const char* what,
                                        const emulator_line& line) {
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0)
    refuse(std::string(what) + " must be a multiple of " + std::to_string(bytes) + " bytes", line);
  if (!in_shared(p, bytes)) refuse(std::string(what) + " must lie in shared memory", line);
}

EMULATOR_PLAIN inline void check_warp(const char* what, const emulator_line& line) {
  const unsigned threads = machine.block.x * machine.block.y * machine.block.z;
  if (machine.current->number / kWarp >= static_cast<int>(threads / kWarp))
    refuse(std::string(what) + " needs all 32 lanes of a warp", line);
}

template <typename operand_t>
EMULATOR_PLAIN float element_of(uint32_t word, int half) {
  return cuda_common::widen(std::bit_cast<operand_t>(static_cast<uint16_t>(word >> half * 16)));
}

// Register m of a lane for matrix m, whose rows the lanes 8 m to 8 m + 7 hand in.
template <bool kTransposed, int kMatrices>
EMULATOR_PLAIN void load_matrices(uint32_t (&r)[kMatrices], const void* row,
                                  const emulator_line& line, const void* site) {
  static_assert(kMatrices == 1 || kMatrices == 2 || kMatrices == 4);
  struct Row {
    uint32_t words[4];
  };
  check_warp("ldmatrix", line);
  const int lane = machine.lane();
  Row own{};
  if (lane < 8 * kMatrices) {
    check_shared(row, 16, "a row of ldmatrix", line);
    AsyncCopies::touch(row, 16, Access::read, site);
    for (int i = 0; i < 4; ++i) own.words[i] = static_cast<const uint32_t*>(row)[i];
  }
  const auto received = all_lanes(cuda_common::kFullWarp, own, line);
  const Row* const rows = received.data();
  for (int m = 0; m < kMatrices; ++m) {
    uint32_t halves[2];
    for (int i = 0; i < 2; ++i) {
      const int matrix_row = kTransposed ? lane % 4 * 2 + i : lane / 4;
      const int column = kTransposed ? lane / 4 : lane % 4 * 2 + i;
      halves[i] = rows[m * 8 + matrix_row].words[column / 2] >> column % 2 * 16 & 0xffff;
    }
    r[m] = halves[1] << 16 | halves[0];
  }
}

}  // namespace emulator

namespace cuda_common {

template <typename operand_t>
EMULATOR_INSTRUCTION void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4],
                                       const uint32_t (&b)[2], const float (&c)[4],
                                       emulator_line line = emulator_line::current()) {
  static_assert(std::is_same_v<operand_t, __half> || std::is_same_v<operand_t, __nv_bfloat16>);
  struct Values {
    float a[8], b[4];
  };
  emulator::check_warp("mma", line);
  Values own;
  for (int i = 0; i < 8; ++i) own.a[i] = emulator::element_of<operand_t>(a[i / 2], i % 2);
  for (int i = 0; i < 4; ++i) own.b[i] = emulator::element_of<operand_t>(b[i / 2], i % 2);
  const auto received = emulator::all_lanes(kFullWarp, own, line);
  const Values* const lanes = received.data();
  const int lane = emulator::machine.lane();
  for (int i = 0; i < 4; ++i) {
    const Place place = place_in_c(lane, i);
    float sum = c[i];
    for (int k = 0; k < 16; ++k) {
      const int pair = k % 8 / 2;  // the lane, of the four that share a row or a column
      sum += lanes[place.row % 8 * 4 + pair].a[k / 8 * 4 + place.row / 8 * 2 + k % 2] *
             lanes[place.column * 4 + pair].b[k / 8 * 2 + k % 2];
    }
    d[i] = sum;
  }
}

template <int kMatrices>
EMULATOR_INSTRUCTION void ldmatrix(uint32_t (&r)[kMatrices], const void* row,
                                   emulator_line line = emulator_line::current()) {
  emulator::load_matrices<false>(r, row, line, __builtin_return_address(0));
}

template <int kMatrices>
EMULATOR_INSTRUCTION void ldmatrix_trans(uint32_t (&r)[kMatrices], const void* row,
                                         emulator_line line = emulator_line::current()) {
  emulator::load_matrices<true>(r, row, line, __builtin_return_address(0));
}

template <int kBytes>
EMULATOR_INSTRUCTION void cp_async(void* to, const void* from, int source_bytes = kBytes,
                                   emulator_line line = emulator_line::current()) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  emulator::check_shared(to, kBytes, "the destination of cp.async", line);
  if (reinterpret_cast<uintptr_t>(from) % kBytes != 0)
    emulator::refuse("the source of cp.async must be a multiple of its size", line);
  if (source_bytes < 0 || source_bytes > kBytes)
    emulator::refuse("cp.async cannot read " + std::to_string(source_bytes) + " bytes", line);
  if (source_bytes > 0 && emulator::in_shared(from, 1))
    emulator::refuse("the source of cp.async must lie in global memory", line);
  emulator::AsyncCopy copy = {static_cast<uint32_t*>(to), kBytes / 4, {}};
  std::memcpy(copy.data.data(), from, source_bytes);
  emulator::async_copies().start(copy, __builtin_return_address(0));
}

inline void cp_async_commit_group() { emulator::async_copies().commit(); }

template <int kPending>
EMULATOR_INSTRUCTION void cp_async_wait_group() {
  emulator::async_copies().wait(kPending, __builtin_return_address(0));
}

EMULATOR_INSTRUCTION inline void cp_async_wait_all() {
  emulator::async_copies().commit();
  emulator::async_copies().wait(0, __builtin_return_address(0));
}

}  // namespace cuda_common

#undef EMULATOR_INSTRUCTION
