// Runs CUDA kernels on the host for tests: a grid block by block, a CUDA thread as a fiber.
//
// Blocks and the threads of a block run in an order drawn from settings().seed. Shared memory is
// filled with NaN bytes before every block. A barrier that not all threads of the block reach at
// the same line, or a warp primitive that not all lanes of its mask reach, is an error that names
// the block and the threads. Fibers are Boost.Context's where its header is found (link
// boost_context), else ucontext's.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <source_location>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if __has_include(<boost/context/detail/fcontext.hpp>) && !defined(EMULATOR_UCONTEXT)
#include <boost/context/detail/fcontext.hpp>
#define EMULATOR_BOOST
#else
#include <ucontext.h>
#endif

namespace emulator {

struct Settings {
  uint64_t seed = 0;
  size_t shared_bytes = 96 * 1024;  // what shared_bytes_for_two() answers
};

inline Settings& settings() {
  static Settings instance;
  return instance;
}

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

constexpr size_t kStackBytes = 64 * 1024;
constexpr int kWarp = 32;

enum class Wait { none, block, warp, done };

struct Thread {
#ifdef EMULATOR_BOOST
  boost::context::detail::fcontext_t context;
#else
  ucontext_t context;
#endif
  uint3 index;
  Wait wait = Wait::none;
  unsigned mask = 0;          // lanes it waits for
  std::source_location line;  // where it waits
  uint64_t exchange[2];  // what it offers to the other lanes, one for even and one for odd turns
  unsigned turn = 0;
};

class Machine {
 public:
  dim3 grid, block;
  uint3 block_index;
  Thread* current = nullptr;

  static Machine& get() {
    static Machine instance;
    return instance;
  }

  void launch(dim3 grid_size, dim3 block_size, size_t dynamic_bytes,
              const std::function<void()>& kernel) {
    const uint64_t count = uint64_t{block_size.x} * block_size.y * block_size.z;
    if (count == 0 || count > 1024)
      fail("a block must have 1 to 1024 threads, got " + std::to_string(count));
    if (grid_size.x == 0 || grid_size.y == 0 || grid_size.z == 0) fail("a grid must not be empty");
    grid = grid_size;
    block = block_size;
    kernel_ = &kernel;
    dynamic_.reset(new (std::align_val_t{16}) char[dynamic_bytes]);
    dynamic_bytes_ = dynamic_bytes;
    random_.seed(settings().seed);
    while (stacks_.size() < count) stacks_.emplace_back(new char[kStackBytes]);
    std::vector<uint64_t> order(uint64_t{grid.x} * grid.y * grid.z);
    for (uint64_t i = 0; i < order.size(); ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), random_);
    for (const uint64_t i : order) {
      block_index = {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                     static_cast<unsigned>(i / grid.x / grid.y)};
      run_block(static_cast<int>(count));
    }
  }

  // The static shared array of one declaration, the same for all threads of the block.
  template <typename T>
  T* shared(const void* declaration, size_t size) {
    auto& array = static_[declaration];
    if (!array) {
      array.reset(new (std::align_val_t{16}) char[size * sizeof(T)]);
      std::memset(array.get(), 0xff, size * sizeof(T));
    }
    return reinterpret_cast<T*>(array.get());
  }

  void* dynamic() { return dynamic_.get(); }

  void wait(Wait kind, unsigned mask, const std::source_location& line) {
    current->wait = kind;
    current->mask = mask;
    current->line = line;
    switch_to_scheduler();
  }

  int lane() const { return static_cast<int>(current - threads_.data()) % kWarp; }
  Thread& warp_lane(int lane) {
    return threads_[(current - threads_.data()) / kWarp * kWarp + lane];
  }
  int threads() const { return static_cast<int>(threads_.size()); }

 private:
  struct AlignedDelete {
    void operator()(char* p) const { ::operator delete[](p, std::align_val_t{16}); }
  };
  using Memory = std::unique_ptr<char[], AlignedDelete>;

  const std::function<void()>* kernel_ = nullptr;
  std::vector<Thread> threads_;
  std::vector<std::unique_ptr<char[]>> stacks_;
  std::map<const void*, Memory> static_;
  Memory dynamic_;
  size_t dynamic_bytes_ = 0;
  std::mt19937_64 random_;
  std::exception_ptr error_;
#ifndef EMULATOR_BOOST
  ucontext_t scheduler_;
#endif

  [[noreturn]] void fail(const std::string& what) const { throw Error(what); }

  static std::string place(const Thread& t) {
    const std::string thread = "thread (" + std::to_string(t.index.x) + ", " +
                               std::to_string(t.index.y) + ", " + std::to_string(t.index.z) + ")";
    if (t.wait == Wait::done) return thread + " has ended";
    return thread + " waits at line " + std::to_string(t.line.line()) +
           (t.wait == Wait::block ? " for its block" : " for its warp");
  }

  [[noreturn]] void divergent(const Thread& a, const Thread& b) const {
    fail("divergent barrier in block (" + std::to_string(block_index.x) + ", " +
         std::to_string(block_index.y) + ", " + std::to_string(block_index.z) + "): " + place(a) +
         ", " + place(b));
  }

#ifdef EMULATOR_BOOST
  boost::context::detail::fcontext_t scheduler_ = nullptr;
  static void entry(boost::context::detail::transfer_t from) {
    Machine& m = get();
    m.scheduler_ = from.fctx;
    m.body();
  }
  void make(Thread& t, char* stack) {
    t.context = boost::context::detail::make_fcontext(stack + kStackBytes, kStackBytes, &entry);
  }
  void resume(Thread& t) {
    current = &t;
    t.context = boost::context::detail::jump_fcontext(t.context, nullptr).fctx;
  }
  void switch_to_scheduler() {
    scheduler_ = boost::context::detail::jump_fcontext(scheduler_, nullptr).fctx;
  }
#else
  static void entry() { get().body(); }
  void make(Thread& t, char* stack) {
    getcontext(&t.context);
    t.context.uc_stack.ss_sp = stack;
    t.context.uc_stack.ss_size = kStackBytes;
    t.context.uc_link = nullptr;
    makecontext(&t.context, &entry, 0);
  }
  void resume(Thread& t) {
    current = &t;
    swapcontext(&scheduler_, &t.context);
  }
  void switch_to_scheduler() { swapcontext(&current->context, &scheduler_); }
#endif

  void body() {
    try {
      (*kernel_)();
    } catch (...) {
      error_ = std::current_exception();
    }
    current->wait = Wait::done;
    switch_to_scheduler();
  }

  void run_block(int count) {
    static_.clear();
    if (dynamic_bytes_ > 0) std::memset(dynamic_.get(), 0xff, dynamic_bytes_);
    threads_.assign(count, Thread{});
    std::vector<int> ready(count);
    for (int i = 0; i < count; ++i) {
      ready[i] = i;
      threads_[i].index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
      make(threads_[i], stacks_[i].get());
    }
    while (!ready.empty()) {
      std::shuffle(ready.begin(), ready.end(), random_);
      for (const int i : ready) {
        resume(threads_[i]);
        if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
      }
      ready.clear();
      release_warps(ready);
      if (ready.empty()) release_block(ready);
    }
  }

  void release_warps(std::vector<int>& ready) {
    for (int first = 0; first < threads(); first += kWarp) {
      const int last = std::min(first + kWarp, threads());
      for (int i = first; i < last; ++i) {
        const Thread& t = threads_[i];
        if (t.wait != Wait::warp) continue;
        bool all = true;
        for (int j = first; j < last; ++j) {
          if ((t.mask >> (j - first) & 1) == 0) continue;
          const Thread& other = threads_[j];
          all = all && other.wait == Wait::warp && other.mask == t.mask &&
                other.line.line() == t.line.line();
        }
        if (!all) continue;
        for (int j = first; j < last; ++j) {
          if ((t.mask >> (j - first) & 1) == 0) continue;
          threads_[j].wait = Wait::none;
          ready.push_back(j);
        }
      }
    }
  }

  void release_block(std::vector<int>& ready) {
    const Thread* waiting = nullptr;
    for (const Thread& t : threads_) {
      if (t.wait == Wait::warp) {
        for (const Thread& other : threads_) {
          const bool peer = (&other - threads_.data()) / kWarp == (&t - threads_.data()) / kWarp;
          if (peer && (other.wait != Wait::warp || other.line.line() != t.line.line()))
            divergent(t, other);
        }
        fail("a warp primitive at line " + std::to_string(t.line.line()) +
             " waits for lanes that do not name it");
      }
      if (t.wait == Wait::block && waiting == nullptr) waiting = &t;
    }
    if (waiting == nullptr) return;
    for (int i = 0; i < threads(); ++i) {
      if (threads_[i].wait != Wait::block || threads_[i].line.line() != waiting->line.line()) {
        divergent(*waiting, threads_[i]);
      }
      threads_[i].wait = Wait::none;
      ready.push_back(i);
    }
  }
};

inline void launch(dim3 grid, dim3 block, size_t dynamic_bytes,
                   const std::function<void()>& kernel) {
  Machine::get().launch(grid, block, dynamic_bytes, kernel);
}

// Offers `value` to the lanes of `mask` and returns what lane `from` offered.
template <typename T>
T exchange(unsigned mask, T value, int from, const std::source_location& line) {
  static_assert(sizeof(T) <= 8);
  Machine& m = Machine::get();
  Thread& self = *m.current;
  if ((mask >> m.lane() & 1) == 0) throw Error("a lane calls a warp primitive whose mask lacks it");
  const unsigned turn = self.turn++ % 2;  // no lane is more than one exchange ahead of another
  std::memcpy(&self.exchange[turn], &value, sizeof(T));
  m.wait(Wait::warp, mask, line);
  if (from < 0 || from >= kWarp || (mask >> from & 1) == 0) {
    std::memset(&value, 0xff, sizeof(T));  // undefined in CUDA
  } else {
    std::memcpy(&value, &m.warp_lane(from).exchange[turn], sizeof(T));
  }
  return value;
}

template <typename T>
void check_alignment(const T* p, const char* access) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T) != 0) {
    throw Error("misaligned " + std::string(access) + " of " + std::to_string(sizeof(T)) +
                " bytes");
  }
}

template <typename T>
void store(T* p, T value) {
  check_alignment(p, "store");
  *p = value;
}

}  // namespace emulator

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__
#define threadIdx (emulator::Machine::get().current->index)
#define blockIdx (emulator::Machine::get().block_index)
#define blockDim (emulator::Machine::get().block)
#define gridDim (emulator::Machine::get().grid)

#define SHARED_ARRAY(type, name, size)    \
  static const char name##_declaration{}; \
  type* const name = emulator::Machine::get().shared<type>(&name##_declaration, size)
#define DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(emulator::Machine::get().dynamic())

using emulator_line = std::source_location;

inline void __syncthreads(emulator_line line = emulator_line::current()) {
  emulator::Machine::get().wait(emulator::Wait::block, 0, line);
}

inline void __syncwarp(unsigned mask = 0xffffffffu, emulator_line line = emulator_line::current()) {
  emulator::Machine::get().wait(emulator::Wait::warp, mask, line);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32,
              emulator_line line = emulator_line::current()) {
  const int lane = emulator::Machine::get().lane();
  return emulator::exchange(mask, value, lane / width * width + from % width, line);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  emulator_line line = emulator_line::current()) {
  const int lane = emulator::Machine::get().lane(), from = lane ^ lane_mask;
  return emulator::exchange(mask, value, from / width <= lane / width ? from : lane, line);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   emulator_line line = emulator_line::current()) {
  const int lane = emulator::Machine::get().lane(), from = lane + static_cast<int>(delta);
  return emulator::exchange(mask, value, from / width == lane / width ? from : lane, line);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 emulator_line line = emulator_line::current()) {
  const int lane = emulator::Machine::get().lane(), from = lane - static_cast<int>(delta);
  return emulator::exchange(mask, value, from >= lane / width * width ? from : lane, line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              emulator_line line = emulator_line::current()) {
  emulator::Machine& m = emulator::Machine::get();
  const unsigned turn = m.current->turn % 2;
  emulator::exchange<uint64_t>(mask, predicate != 0, m.lane(), line);
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1)
      bits |= static_cast<unsigned>(m.warp_lane(lane).exchange[turn] != 0) << lane;
  }
  return bits;
}

inline int __any_sync(unsigned mask, int predicate, emulator_line line = emulator_line::current()) {
  return __ballot_sync(mask, predicate, line) != 0;
}

inline int __all_sync(unsigned mask, int predicate, emulator_line line = emulator_line::current()) {
  return __ballot_sync(mask, predicate, line) == mask;
}

template <typename T>
T __ldg(const T* p) {
  emulator::check_alignment(p, "load");
  return *p;
}

inline float rsqrtf(float v) { return 1.0f / std::sqrt(v); }
inline double rsqrt(double v) { return 1.0 / std::sqrt(v); }
