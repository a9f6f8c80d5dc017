// The execution model: a grid block by block, a CUDA thread as a fiber, in an order drawn from
// settings().seed. A thread runs until a barrier or a warp primitive. Half of the blocks, drawn
// too, go on with any thread that can, the others with the one released last, so that a warp runs
// far ahead of the others.
//
// Stricter than hardware since Volta in one point: a barrier waits for threads that have ended,
// too, so that a block in which they never come is reported. The programming guide allows
// __syncthreads() in a branch only if the whole block takes it, but counts "non-exited threads"
// alone; settings().ended_threads_pass is that rule.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <source_location>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "emulator_fiber.h"
#include "emulator_races.h"
#include "emulator_shared.h"
#include "emulator_thread.h"

namespace emulator {

struct Settings {
  uint64_t seed = 0;
  size_t shared_bytes = 96 * 1024;  // what shared_bytes_for_two() answers
  bool ended_threads_pass = false;
};

inline Settings& settings() {
  static Settings instance;
  return instance;
}

class Machine {
 public:
  dim3 grid, block;
  uint3 block_index;
  Thread* current = nullptr;
  SharedMemory memory;
  Races races;
  int met_count = 0;  // threads of the last block barrier whose predicate held

  void launch(dim3 grid_size, dim3 block_size, size_t dynamic_bytes,
              const std::function<void()>& kernel) {
    check_launch(grid_size, block_size);
    grid = grid_size;
    block = block_size;
    kernel_ = &kernel;
    random_ = settings().seed;
    count_ = static_cast<int>(block.x * block.y * block.z);
    while (static_cast<int>(stacks_.size()) < count_) stacks_.emplace_back(new char[kStackBytes]);
    std::vector<uint32_t> order(uint64_t{grid.x} * grid.y * grid.z);
    for (uint32_t i = 0; i < order.size(); ++i) order[i] = i;
    shuffle(order.data(), static_cast<uint32_t>(order.size()));
    for (const uint32_t i : order) {
      block_index = {i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y};
      run_block(dynamic_bytes);
    }
  }

  // A mistake of the kernel, told at the next switch: a hook must not throw.
  void report(const std::string& mistake) {
    if (!error_) error_ = std::make_exception_ptr(Error(in_block(mistake)));
  }

  EMULATOR_PLAIN void wait(Wait kind, unsigned mask, const std::source_location& line) {
    Thread& self = *current;
    self.wait = kind;
    self.mask = mask;
    self.file = line.file_name();
    self.line = line.line();
    self.fiber.pause();
  }

  EMULATOR_PLAIN void meet_lanes(unsigned mask, const Exchange& exchange,
                                 const std::source_location& line) {
    if ((mask >> lane() & 1) == 0) {
      throw Error(in_block(name(*current) + " calls a warp primitive whose mask " + hex(mask) +
                           " lacks its lane, at " + place(line.file_name(), line.line())));
    }
    current->exchange = exchange;
    wait(Wait::warp, mask, line);
  }

  EMULATOR_PLAIN void access(const void* p, size_t bytes, Access kind, const void* site) {
    const size_t offset = memory.offset(p);
    if (offset >= kArenaBytes || current == nullptr) return;
    Race race;
    if (races.allowed(offset, bytes, kind, current->number, current->synchronous > 0, site, race))
      return;
    report("race on shared memory: " + told(race.past) + ", " + told(race.now) +
           ", no barrier between");
  }

  EMULATOR_PLAIN int lane() const { return current->number % kWarp; }

  std::string in_block(const std::string& mistake) const {
    return mistake + ", in block " + triple(block_index);
  }

 private:
  const std::function<void()>* kernel_ = nullptr;
  Thread threads_[kMostThreads];
  int ready_[kMostThreads];
  int ready_count_ = 0, count_ = 0, at_barrier_ = 0, ended_ = 0;
  unsigned in_warp_[kMostThreads / kWarp];  // lanes that wait in a warp primitive
  std::vector<std::unique_ptr<char[]>> stacks_;
  uint64_t random_ = 0;
  std::exception_ptr error_;

  static void check_launch(dim3 grid, dim3 block) {
    const auto text = [](dim3 size) { return triple({size.x, size.y, size.z}); };
    const uint64_t threads = uint64_t{block.x} * block.y * block.z;
    if (threads == 0 || threads > kMostThreads || block.z > 64)
      throw Error("a block must have 1 to 1024 threads and z <= 64, got " + text(block));
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffff || grid.y > 65535 ||
        grid.z > 65535)
      throw Error("a grid must have 1 to 2^31 - 1 blocks in x, 65535 in y and z, got " +
                  text(grid));
  }

  // splitmix64, scaled to [0, limit)
  EMULATOR_PLAIN uint32_t below(uint32_t limit) {
    uint64_t z = random_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return static_cast<uint32_t>((z >> 32) * limit >> 32);
  }

  template <typename T>
  EMULATOR_PLAIN void shuffle(T* values, uint32_t count) {
    for (uint32_t i = count; i > 1; --i) {
      const uint32_t j = below(i);
      const T kept = values[i - 1];
      values[i - 1] = values[j];
      values[j] = kept;
    }
  }

  static void body() {
    Machine& m = get();
    try {
      (*m.kernel_)();
    } catch (...) {
      if (!m.error_) m.error_ = std::current_exception();
    }
    m.current->wait = Wait::done;
    m.current->fiber.leave();
  }

  EMULATOR_PLAIN void run_block(size_t dynamic_bytes) {
    memory.begin_block(dynamic_bytes);
    races.next_epoch();
    begin_threads();
    const bool latest_first = below(2) == 0;
    while (ready_count_ > 0) {
      const uint32_t pick = latest_first ? ready_count_ - 1 : below(ready_count_);
      Thread& thread = threads_[ready_[pick]];
      ready_[pick] = ready_[--ready_count_];
      current = &thread;
      thread.fiber.resume();
      current = nullptr;
      if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
      if (thread.wait == Wait::warp) {
        arrive_in_warp(thread);
      } else {
        ++(thread.wait == Wait::block ? at_barrier_ : ended_);
        release_block();
      }
    }
    if (ended_ < count_) stalled();
  }

  EMULATOR_PLAIN void begin_threads() {
    ready_count_ = count_;
    at_barrier_ = ended_ = 0;
    for (int i = 0; i < count_; ++i) {
      Thread& thread = threads_[i];
      const unsigned number = i;
      thread.index = {number % block.x, number / block.x % block.y, number / block.x / block.y};
      thread.number = i;
      thread.synchronous = 0;
      thread.wait = Wait::none;
      thread.fiber.start(stacks_[i].get(), kStackBytes, &body);
      in_warp_[i / kWarp] = 0;
      ready_[i] = i;
    }
    shuffle(ready_, count_);
  }

  EMULATOR_PLAIN void release(int thread) {
    threads_[thread].wait = Wait::none;
    ready_[ready_count_++] = thread;
  }

  // Lanes of a mask that the block has: its last warp may be short.
  EMULATOR_PLAIN unsigned existing(int warp, unsigned mask) const {
    const int lanes = count_ - warp * kWarp;
    return lanes >= kWarp ? mask : mask & ((1u << lanes) - 1);
  }

  EMULATOR_PLAIN static bool together(const Thread& a, const Thread& b) {
    return a.wait == b.wait && a.line == b.line && a.mask == b.mask &&
           (a.file == b.file || std::strcmp(a.file, b.file) == 0);
  }

  EMULATOR_PLAIN void arrive_in_warp(const Thread& thread) {
    const int warp = thread.number / kWarp, first = warp * kWarp;
    in_warp_[warp] |= 1u << thread.number % kWarp;
    const unsigned mask = existing(warp, thread.mask);
    if ((mask & ~in_warp_[warp]) != 0) return;
    for (unsigned rest = mask; rest != 0; rest &= rest - 1)
      if (!together(thread, threads_[first + __builtin_ctz(rest)])) return;
    for (unsigned rest = mask; rest != 0; rest &= rest - 1)
      deliver(threads_[first + __builtin_ctz(rest)].exchange, first, mask);
    in_warp_[warp] &= ~mask;
#ifdef __SANITIZE_THREAD__
    races.meet(first, mask);
#endif
    const int before = ready_count_;
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) release(first + __builtin_ctz(rest));
    shuffle(ready_ + before, ready_count_ - before);
  }

  EMULATOR_PLAIN void deliver(const Exchange& to, int first, unsigned mask) const {
    if (to.from >= 0) {
      copy_offer(to.received, to.bytes, first, mask, to.from);
    } else if (to.from == Exchange::kAll) {
      for (int lane = 0; lane < kWarp; ++lane)
        copy_offer(static_cast<char*>(to.received) + lane * to.bytes, to.bytes, first, mask, lane);
    }
  }

  // What a lane outside the mask holds is undefined in CUDA; here it is NaN in every type.
  EMULATOR_PLAIN void copy_offer(void* to, size_t bytes, int first, unsigned mask, int lane) const {
    if (mask >> lane & 1) {
      std::memcpy(to, threads_[first + lane].exchange.offer, bytes);
    } else {
      std::memset(to, 0xff, bytes);
    }
  }

  EMULATOR_PLAIN void release_block() {
    const int expected = settings().ended_threads_pass ? count_ - ended_ : count_;
    if (at_barrier_ != expected || at_barrier_ == 0) return;
    const Thread* one = nullptr;
    met_count = 0;
    for (int i = 0; i < count_; ++i) {
      const Thread& thread = threads_[i];
      if (thread.wait == Wait::done) continue;
      if (one == nullptr) one = &thread;
      if (!together(*one, thread)) divergent(*one, thread);
      met_count += thread.predicate != 0;
    }
    at_barrier_ = 0;
    for (int i = 0; i < count_; ++i)
      if (threads_[i].wait == Wait::block) release(i);
    shuffle(ready_, ready_count_);
    races.next_epoch();
  }

  // Nobody can go on: names a thread that waits and one that it waits for in vain.
  [[noreturn]] void stalled() const {
    for (int i = 0; i < count_; ++i) {
      const Thread& one = threads_[i];
      if (one.wait != Wait::warp) continue;
      const int first = i / kWarp * kWarp;
      for (unsigned rest = existing(i / kWarp, one.mask); rest != 0; rest &= rest - 1) {
        const Thread& other = threads_[first + __builtin_ctz(rest)];
        if (!together(one, other)) divergent(one, other);
      }
    }
    for (int i = 0; i < count_; ++i) {
      if (threads_[i].wait != Wait::block) continue;
      for (int j = 0; j < count_; ++j)
        if (!together(threads_[i], threads_[j])) divergent(threads_[i], threads_[j]);
    }
    throw Error(in_block("threads wait for each other"));
  }

  [[noreturn]] void divergent(const Thread& a, const Thread& b) const {
    throw Error(in_block("divergent barrier: " + state(a) + ", but " + state(b)));
  }

  std::string told(const Race::One& one) const {
    const char* const does[] = {" reads at ", " writes at ", " atomically updates at "};
    return name(threads_[one.thread]) + does[static_cast<int>(one.access)] + source_line(one.site);
  }

  static Machine& get();
};

inline Machine machine;

inline Machine& Machine::get() { return machine; }

inline void launch(dim3 grid, dim3 block, size_t dynamic_bytes,
                   const std::function<void()>& kernel) {
  machine.launch(grid, block, dynamic_bytes, kernel);
}

}  // namespace emulator

// For what loads the kernels.
extern "C" __attribute__((used)) inline void emulator_settings(uint64_t seed,
                                                               uint64_t shared_bytes) {
  emulator::settings().seed = seed;
  emulator::settings().shared_bytes = shared_bytes;
}
