// Memory of one thread. Internal linkage: compiled once per instruction set. No torch header.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

template <typename A>
class Tile {  // zeroed and 64-byte aligned
 public:
  explicit Tile(int64_t count) : bytes_((count * sizeof(A) / 64 + 1) * 64) {
    p_ = static_cast<A*>(std::aligned_alloc(64, bytes_));
    if (!p_) throw std::bad_alloc();
    clear();
  }
  ~Tile() { std::free(p_); }
  Tile(const Tile&) = delete;
  Tile& operator=(const Tile&) = delete;
  void clear() { std::memset(p_, 0, bytes_); }
  A* get() const { return p_; }

 private:
  size_t bytes_;
  A* p_;
};

}  // namespace
