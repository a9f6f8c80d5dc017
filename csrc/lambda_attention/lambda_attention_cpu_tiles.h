// Which tokens lie in the lanes of a tile, and which others each of its vectors sees.
// Internal linkage throughout: compiled once per instruction set.
#pragma once
#include "../cpu_scratch.h"
#include "lambda_attention.h"
#include "lambda_attention_cpu_products.h"

namespace lambda_attention {
namespace IBN_ISA {
namespace {

// Not std::min and std::max, whose copies the linker would share among instruction sets.
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

struct Range {
  int64_t begin, end;  // end is behind the last
  int64_t size() const { return larger(0, end - begin); }
};

// The others that are listed for a tile, by token of an Others and row of the biases.
class List {
 public:
  explicit List(int64_t capacity) : tokens_(capacity + kBlock), adds_(capacity + kBlock) {}
  void clear() { size_ = 0; }
  void append(int64_t first_token, int64_t first_add, int64_t add_step, int64_t count) {
    int64_t *const token = tokens_.get() + size_, *const add = adds_.get() + size_;
    for (int64_t i = 0; i < count; ++i)
      token[i] = first_token + i, add[i] = first_add + i * add_step;
    size_ += larger(0, count);
  }
  void fill_up(int64_t hidden) {  // to whole blocks
    while (size_ % kBlock) append(token()[size_ - 1], hidden, 0, 1);
  }
  int64_t size() const { return size_; }
  const int64_t* token() const { return tokens_.get(); }
  const int64_t* add() const { return adds_.get(); }

 private:
  Tile<int64_t> tokens_, adds_;
  int64_t size_ = 0;
};

// The tokens with a place: patches on a grid, or a sequence as a grid of one row. A tile is
// rows x columns of them, each of its vectors half the columns. Seen from a token the others lie
// up to `reach_y` rows away, `left` columns before and `right` behind.
struct Tiling {
  int64_t height, width, first;  // first: token of the first place
  int64_t reach_y, left, right;
  int64_t rows, columns;  // of a tile
  int64_t strip_rows, strip_columns;

  // keys_own: tiles of keys, whose others are queries
  Tiling(const Args& a, bool keys_own) {
    height = a.causal ? 1 : a.height, width = a.causal ? a.N : a.width;
    first = a.causal ? 0 : a.prefix;
    reach_y = larger(0, smaller(a.reach_y, height - 1));
    left = right = larger(0, smaller(a.reach_x, width - 1));
    if (a.causal) (keys_own ? left : right) = 0;
    int64_t least = -1;
    for (int64_t r = 1; r <= L; r *= 2) {  // the shape that lists the fewest
      const int64_t half = L / r,
                    tiles = ((height + r - 1) / r) * ((width + 2 * half - 1) / (2 * half));
      const int64_t cost =
          tiles * smaller(height, r + 2 * reach_y) * smaller(width, half + left + right);
      if (least < 0 || cost < least) least = cost, rows = r, columns = 2 * half;
    }
    constexpr int64_t kStrip = 32;
    strip_rows = height == 1 ? 1 : larger(kStrip, rows);
    strip_columns = height == 1 ? larger(1024, columns) : larger(1, width);
  }

  int64_t strips_down() const { return (height + strip_rows - 1) / strip_rows; }
  int64_t strips_across() const { return (width + strip_columns - 1) / strip_columns; }
  int64_t strips() const { return height * width == 0 ? 0 : strips_down() * strips_across(); }
  Range strip_y(int64_t strip) const {
    const int64_t y = strip / strips_across() * strip_rows;
    return {y, smaller(height, y + strip_rows)};
  }
  Range strip_x(int64_t strip) const {
    const int64_t x = strip % strips_across() * strip_columns;
    return {x, smaller(width, x + strip_columns)};
  }
  Range seen_y(Range y) const {
    return {larger(0, y.begin - reach_y), smaller(height, y.end + reach_y)};
  }
  Range seen_x(Range x) const { return {larger(0, x.begin - left), smaller(width, x.end + right)}; }

  int64_t lane_y(int64_t lane) const { return lane % L / (columns / 2); }
  int64_t lane_x(int64_t lane) const { return lane / L * (columns / 2) + lane % L % (columns / 2); }

  // Rows of biases: one of kTile lanes for every place an other may have around a tile, then one
  // of zeros and one that hides.
  int64_t halo_rows() const { return rows + 2 * reach_y; }
  int64_t halo_columns() const { return columns + left + right; }
  int64_t zero_row() const { return halo_rows() * halo_columns() * kTile; }
  int64_t hidden_row() const { return zero_row() + kTile; }
  int64_t bias_size() const { return hidden_row() + kTile; }

  template <typename F>  // f(place in the rows of biases, offset from own to other), if visible
  void for_pairs(F f) const {
    for (int64_t y = 0; y < halo_rows(); ++y)
      for (int64_t x = 0; x < halo_columns(); ++x)
        for (int64_t lane = 0; lane < kTile; ++lane) {
          const int64_t dy = y - reach_y - lane_y(lane), dx = x - left - lane_x(lane);
          if (dy >= -reach_y && dy <= reach_y && dx >= -left && dx <= right)
            f((y * halo_columns() + x) * kTile + lane, dy, dx);
        }
  }

  // Lists what the tile at (y, x) sees: by both vectors, by the first alone, by the second alone.
  // Tokens count from (origin_y, origin_x) by rows of `stride`.
  void list(int64_t y, int64_t x, int64_t origin_y, int64_t origin_x, int64_t stride,
            List (&lists)[3]) const {
    const int64_t half = columns / 2;
    const Range down = seen_y({y, y + rows}), one = seen_x({x, x + half});
    Range two = seen_x({x + half, x + columns});
    if (x + half >= width) two = {one.end, one.end};  // nothing there
    const Range parts[3] = {{two.begin, one.end},
                            {one.begin, smaller(one.end, two.begin)},
                            {larger(one.end, two.begin), two.end}};
    for (int part = 0; part < 3; ++part) {
      lists[part].clear();
      for (int64_t row = down.begin; row < down.end; ++row)
        lists[part].append(
            (row - origin_y) * stride + parts[part].begin - origin_x,
            ((row - y + reach_y) * halo_columns() + parts[part].begin - x + left) * kTile, kTile,
            parts[part].size());
      lists[part].fill_up(hidden_row());
    }
  }
};

}  // namespace
}  // namespace IBN_ISA
}  // namespace lambda_attention
