// Races on shared memory: a write, and another thread's access of the same byte, that no barrier
// orders. Bytes, so that neighbours in one word are free.
//
// A block barrier orders all threads: it begins a new epoch. A warp primitive orders the lanes of
// its mask: each lane has a vector clock over its warp (Fidge and Mattern). Of the readers of a
// byte the last one is remembered, and the last one of another warp. Atomic operations do not race
// with each other, nor do lanes of one warp that both are in a WarpSynchronous scope. Races between
// blocks on global memory are not looked for.
#pragma once
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <string>

#include "emulator_shared.h"

namespace emulator {

constexpr int kWarp = 32, kMostThreads = 1024;

enum class Access : uint8_t { read, write, atomic };

// file:line of the kernel's code at a return address. Lines of the emulator itself are passed by
// for those that they are inlined into; without addr2line the place in the library is told.
inline std::string source_line(const char* return_address) {
  Dl_info library;
  if (dladdr(return_address, &library) == 0) return "an unknown line";
  char offset[32];
  std::snprintf(offset, sizeof offset, "%#zx",
                static_cast<size_t>(return_address - 1 - static_cast<char*>(library.dli_fbase)));
  const std::string command =
      "addr2line -i -s -e '" + std::string(library.dli_fname) + "' " + offset + " 2>/dev/null";
  std::string found;
  if (FILE* const lines = popen(command.c_str(), "r")) {
    char line[256];
    while (std::fgets(line, sizeof line, lines)) {
      found = line;
      found = found.substr(0, found.find_first_of(" \n"));
      if (!found.starts_with("emulator")) break;
    }
    pclose(lines);
  }
  return found.empty() || found[0] == '?' ? std::string(library.dli_fname) + "+" + offset : found;
}

struct Race {
  struct One {
    int thread;
    Access access;
    const char* site;
  } past, now;
};

class Races {
 public:
  Races() {
    for (int i = 0; i < kMostThreads; ++i) clocks_[i][i % kWarp] = 1;  // others know of 0
  }

  EMULATOR_PLAIN void next_epoch() { ++epoch_; }

  // The lanes `mask` of the warp whose first thread is `first` meet.
  EMULATOR_PLAIN void meet(int first, unsigned mask) {
    uint32_t latest[kWarp] = {};
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
      const uint32_t* const clock = clocks_[first + __builtin_ctz(rest)];
      for (int i = 0; i < kWarp; ++i) latest[i] = latest[i] > clock[i] ? latest[i] : clock[i];
    }
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
      const int lane = __builtin_ctz(rest);
      uint32_t* const clock = clocks_[first + lane];
      for (int i = 0; i < kWarp; ++i) clock[i] = latest[i];
      ++clock[lane];
    }
  }

  // False and both accesses in `found` if this one races. `site` is its return address.
  EMULATOR_PLAIN bool allowed(size_t offset, size_t bytes, Access access, int thread,
                              bool warp_synchronous, const void* site, Race& found) {
    const Past now = {epoch_,
                      clocks_[thread][thread % kWarp],
                      static_cast<int32_t>(static_cast<const char*>(site) - anchor()),
                      static_cast<uint16_t>(thread),
                      access,
                      warp_synchronous};
    const size_t end = offset + bytes < kArenaBytes ? offset + bytes : kArenaBytes;
    for (size_t i = offset; i < end; ++i) {
      Cell& cell = cells_[i];
      const Past* culprit = clash(cell.write, now) ? &cell.write : nullptr;
      if (access == Access::read) {
        if (cell.reads[0].thread / kWarp != thread / kWarp) cell.reads[1] = cell.reads[0];
        cell.reads[0] = now;
      } else {
        if (clash(cell.reads[0], now)) culprit = &cell.reads[0];
        if (clash(cell.reads[1], now)) culprit = &cell.reads[1];
      }
      if (culprit != nullptr) {
        found = {told(*culprit), told(now)};
        return false;
      }
      if (access != Access::read) cell.write = now;
    }
    return true;
  }

 private:
  struct Past {
    uint32_t epoch;  // 0: nobody
    uint32_t clock;  // the thread's own, in its warp
    int32_t site;
    uint16_t thread;
    Access access;
    bool warp_synchronous;
  };
  struct Cell {
    Past write, reads[2];
  };

  uint32_t epoch_ = 0;
  uint32_t clocks_[kMostThreads][kWarp];
  Cell cells_[kArenaBytes];

  // Code and this address lie in one library, so that their distance fits 32 bits.
  static const char* anchor() {
    static const char here = 0;
    return &here;
  }

  EMULATOR_PLAIN bool clash(const Past& past, const Past& now) const {
    if (past.epoch != now.epoch || past.thread == now.thread) return false;
    if (past.access == Access::atomic && now.access == Access::atomic) return false;
    if (past.thread / kWarp != now.thread / kWarp) return true;
    if (past.warp_synchronous && now.warp_synchronous) return false;
    return clocks_[now.thread][past.thread % kWarp] < past.clock;
  }

  static Race::One told(const Past& one) { return {one.thread, one.access, anchor() + one.site}; }
};

}  // namespace emulator
