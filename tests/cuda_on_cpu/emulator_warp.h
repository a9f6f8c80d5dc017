// CUDA's barriers, shuffles and votes. Every one takes the caller's line, to name it in errors.
// A lane outside its own mask, lanes of one mask that disagree about it, and a named lane that has
// ended or waits elsewhere are errors; lanes that the block does not have are left out.
#pragma once
#include <array>

#include "emulator_machine.h"

using emulator_line = std::source_location;

namespace emulator {

// What every lane of `mask` offered, for each of them; NaN bytes for the other lanes.
template <typename T>
EMULATOR_PLAIN std::array<T, kWarp> all_lanes(unsigned mask, T value, const emulator_line& line) {
  static_assert(sizeof(T) <= 64 && std::is_trivially_copyable_v<T>);
  std::array<T, kWarp> received;
  machine.meet_lanes(mask, {&value, &received, sizeof(T), Exchange::kAll}, line);
  return received;
}

// What lane `from` offered; NaN bytes where it is none of the mask's.
template <typename T>
EMULATOR_PLAIN T exchange(unsigned mask, T value, int from, const emulator_line& line) {
  static_assert(sizeof(T) <= 64 && std::is_trivially_copyable_v<T>);
  T received;
  machine.meet_lanes(mask, {&value, &received, sizeof(T), from}, line);
  return received;
}

EMULATOR_PLAIN inline int check_width(int width) {
  if (width <= 0 || width > kWarp || (width & (width - 1)) != 0) {
    throw Error(machine.in_block("the width of a shuffle must be a power of two up to 32, got " +
                                 std::to_string(width)));
  }
  return width;
}

EMULATOR_PLAIN inline int block_vote(int predicate, const emulator_line& line) {
  machine.current->predicate = predicate != 0;
  machine.wait(Wait::block, 0, line);
  return machine.met_count;
}

}  // namespace emulator

inline void __syncthreads(emulator_line line = emulator_line::current()) {
  emulator::block_vote(0, line);
}
inline int __syncthreads_count(int predicate, emulator_line line = emulator_line::current()) {
  return emulator::block_vote(predicate, line);
}
inline int __syncthreads_or(int predicate, emulator_line line = emulator_line::current()) {
  return emulator::block_vote(predicate, line) != 0;
}
inline int __syncthreads_and(int predicate, emulator_line line = emulator_line::current()) {
  return emulator::block_vote(!predicate, line) == 0;
}

inline void __syncwarp(unsigned mask = 0xffffffffu, emulator_line line = emulator_line::current()) {
  emulator::machine.meet_lanes(mask, {}, line);
}

template <typename T>
EMULATOR_PLAIN T __shfl_sync(unsigned mask, T value, int from, int width = 32,
                             emulator_line line = emulator_line::current()) {
  const int last = emulator::check_width(width) - 1, lane = emulator::machine.lane();
  return emulator::exchange(mask, value, (lane & ~last) | (from & last), line);
}

template <typename T>
EMULATOR_PLAIN T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                                 emulator_line line = emulator_line::current()) {
  const int lane = emulator::machine.lane(), from = (lane ^ lane_mask) & 31;
  const bool reaches = from / emulator::check_width(width) <= lane / width;
  return emulator::exchange(mask, value, reaches ? from : lane, line);
}

template <typename T>
EMULATOR_PLAIN T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                  emulator_line line = emulator_line::current()) {
  const unsigned lane = emulator::machine.lane(), last = emulator::check_width(width) - 1;
  const bool reaches = delta <= last - (lane & last);
  return emulator::exchange(mask, value, static_cast<int>(reaches ? lane + delta : lane), line);
}

template <typename T>
EMULATOR_PLAIN T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                emulator_line line = emulator_line::current()) {
  const unsigned lane = emulator::machine.lane(), last = emulator::check_width(width) - 1;
  const bool reaches = delta <= (lane & last);
  return emulator::exchange(mask, value, static_cast<int>(reaches ? lane - delta : lane), line);
}

EMULATOR_PLAIN inline unsigned __ballot_sync(unsigned mask, int predicate,
                                             emulator_line line = emulator_line::current()) {
  const auto votes = emulator::all_lanes<int>(mask, predicate != 0, line);
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane)  // -1 from lanes that the block does not have
    bits |= static_cast<unsigned>((mask >> lane & 1) != 0 && votes[lane] == 1) << lane;
  return bits;
}

inline int __any_sync(unsigned mask, int predicate, emulator_line line = emulator_line::current()) {
  return __ballot_sync(mask, predicate, line) != 0;
}

inline int __all_sync(unsigned mask, int predicate, emulator_line line = emulator_line::current()) {
  return __ballot_sync(mask, !predicate, line) == 0;
}

inline unsigned __activemask() {
  throw emulator::Error(emulator::machine.in_block(
      "__activemask() tells which lanes happen to run together, not which take part: pass a mask"));
}
