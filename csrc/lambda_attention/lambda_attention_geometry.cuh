// Who sees whom: tiles of 64 tokens, and the tokens that a tile meets.
//
// A pass gives each block a tile of its own tokens, queries or (kOwnKeys) keys, and walks over
// their partners on the other side, in two lists:
//   queries  far: prefix keys, by q_prefix and k_prefix      near: keys of the window
//   keys     far: prefix queries of a grid, by q and k       near: queries of the window
// Tokens of the prefix meet nearly all others. On a grid their queries, and everywhere their far
// pairs as keys, are cut into slots, of which each block has one and leaves partial sums:
//   queries  slot 0: prefix keys (far)                       slot s: patches (near)
//   keys     slot s: 512 queries by q_prefix and k_prefix (far)
// A causal sequence is a grid of one row without anything in front of it; the tiles of its first
// `prefix` tokens, as keys, leave their window's sums in one slot more.
#pragma once
#include "../cuda_tensor_core.cuh"
#include "lambda_attention.h"

namespace lambda_attention {

using namespace cuda_common;

constexpr int kThreads = 128;       // four warps; each has 16 own tokens
constexpr int kOwn = 64;            // own tokens of a tile
constexpr int kSlotTokens = 512;    // partners of a slot
constexpr int kAnywhere = 1 << 30;  // beyond every distance
constexpr int kWarpOwn = 16;
constexpr float kLog2e = 1.44269504f;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
__device__ inline int least(int a, int b) { return a < b ? a : b; }
__device__ inline int most(int a, int b) { return a > b ? a : b; }

// Tokens first + y * width + x, cut into tiles of 2^log_columns columns and kOwn >> log_columns
// rows.
struct Space {
  int first, height, width, log_columns, across, tiles;
};

// What a pass is cut into; the host makes it from the shape alone.
struct Plan {
  Space tokens;             // patches, or the causal sequence
  Space prefix;             // the prefix as own tokens; without tiles where it has no slots
  int slots;                // of one tile of the prefix
  int reach_y;              // at most the height
  int before_x, behind_x;   // the window's columns to the left and right of a query
  int64_t items;            // tiles and slots of one batch and head
  int64_t workers;          // blocks of a head; each takes every workers-th item of the batch
  int table_width, center;  // of the bias table, and the place of offset (0, 0)
  int64_t entries;          // of one head's table, 0 without a gradient for it
  bool shared_table;        // whether the sums of its gradient fit shared memory
  bool aligned;             // whether all rows begin at multiples of 16 bytes
};

// Tokens first + y * pitch + x of a rectangle, row by row; partner - own lies in the bounds.
struct List {
  int first, pitch;
  int y, x, width, count;
  int low_y, high_y, low_x, high_x;
  bool far;  // products of q_prefix and k_prefix
  bool biased;
};

struct Work {
  int64_t batch, head;
  int y0, x0;
  int slot;  // -1: results are final
  Space space;
  List lists[2];
};

__device__ inline List line(int first, int begin, int end) {
  const int count = end > begin ? end - begin : 0;
  return {first,      0,         0,          begin,     count, count,
          -kAnywhere, kAnywhere, -kAnywhere, kAnywhere, false, false};
}

// The part of the window, or of all windows of the tile, that lies in its space.
template <bool kOwnKeys>
__device__ List window(const Args& args, const Plan& plan, const Work& work) {
  const Space& space = work.space;
  const int low = kOwnKeys ? -plan.behind_x : -plan.before_x;
  const int high = kOwnKeys ? plan.before_x : plan.behind_x;
  const int y1 = least(work.y0 + (kOwn >> space.log_columns), space.height) - 1 + plan.reach_y;
  const int x1 = least(work.x0 + (1 << space.log_columns), space.width) - 1 + high;
  const int y = most(work.y0 - plan.reach_y, 0), x = most(work.x0 + low, 0);
  const int rows = least(y1, space.height - 1) - y + 1,
            columns = least(x1, space.width - 1) - x + 1;
  return {space.first,
          space.width,
          y,
          x,
          columns,
          rows * columns,
          -plan.reach_y,
          plan.reach_y,
          low,
          high,
          false,
          args.table != nullptr || args.slopes != nullptr};
}

// What the item of the plan has to do, `job` counting the items of all batches.
template <bool kOwnKeys>
__device__ Work find_work(const Args& args, const Plan& plan, int64_t head, int64_t job) {
  Work work{};
  const auto by_item = divide(job, plan.items);
  work.batch = by_item.quotient;
  work.head = head;
  const int item = static_cast<int>(by_item.remainder), of_prefix = plan.prefix.tiles * plan.slots;
  const bool split = item < of_prefix;
  const int tile = split ? item / plan.slots : item - of_prefix;
  work.space = split ? plan.prefix : plan.tokens;
  work.y0 = tile / work.space.across * (kOwn >> work.space.log_columns);
  work.x0 = tile % work.space.across << work.space.log_columns;
  work.slot = split ? item % plan.slots : -1;
  const int prefix = static_cast<int>(args.prefix), tokens = static_cast<int>(args.N);
  const int patches = tokens - prefix, distance = plan.before_x + 1;
  List& far = work.lists[0];
  List& near = work.lists[1];
  far = near = line(0, 0, 0);
  if (!split) near = window<kOwnKeys>(args, plan, work);
  if (kOwnKeys && split) {
    const int begin = work.slot * kSlotTokens;
    const int first = args.causal ? most(begin, work.x0 + distance) : begin;
    far = line(0, first, least(begin + kSlotTokens, tokens));
    if (args.causal) far.low_x = distance;
    far.far = true;
  } else if (kOwnKeys) {
    if (!args.causal) far = line(0, 0, prefix);
    if (args.causal && tile < plan.prefix.tiles) work.slot = plan.slots;
  } else {
    const int last = work.x0 + kOwn - 1;  // of the tile; the prefix may end before its window
    if (work.slot <= 0) far = line(0, 0, args.causal ? least(prefix, last - distance + 1) : prefix);
    if (args.causal) far.high_x = -distance;
    far.far = true;
    const int begin = (work.slot - 1) * kSlotTokens;
    if (work.slot > 0) near = line(prefix, begin, least(begin + kSlotTokens, patches));
  }
  far.biased = args.causal && args.slopes != nullptr;
  return work;
}

// The token of own row `row` of the tile; -1 outside of the space.
__device__ inline int own_token(const Work& work, int row) {
  const int y = work.y0 + (row >> work.space.log_columns);
  const int x = work.x0 + (row & ((1 << work.space.log_columns) - 1));
  const bool inside = y < work.space.height && x < work.space.width;
  return inside ? work.space.first + y * work.space.width + x : -1;
}

// Its place, counted as in Partners::at.
__device__ inline int own_at(const Plan& plan, const Space& space, int row) {
  return (row >> space.log_columns) * plan.table_width + (row & ((1 << space.log_columns) - 1));
}

// One chunk of a list, in shared memory.
template <int kChunk>
struct Partners {
  uint32_t visible[2][kChunk];  // to which own rows, 0 to 31 and 32 to 63
  int token[kChunk];            // -1: none, or nobody sees it
  int at[kChunk];               // from the tile's corner, table_width a row
};

__device__ inline uint64_t bits(int first, int last) {  // both of them in [0, 63]
  return ((uint64_t{2} << last) - 1) & ~((uint64_t{1} << first) - 1);
}

// Partner i of the list.
template <int kChunk>
__device__ void describe(Partners<kChunk>& partners, int to, const Plan& plan, const Work& work,
                         const List& list, int i) {
  uint64_t visible = 0;
  int token = -1, at = 0;
  if (i < list.count) {
    const int log = work.space.log_columns;
    const int row = static_cast<int>(static_cast<unsigned>(i) / static_cast<unsigned>(list.width));
    const int y = list.y + row, x = list.x + i - row * list.width;
    const int first_y = most(y - list.high_y - work.y0, 0),
              first_x = most(x - list.high_x - work.x0, 0);
    const int end_y = least(kOwn >> log, work.space.height - work.y0);
    const int end_x = least(1 << log, work.space.width - work.x0);
    const int last_y = least(y - list.low_y - work.y0, end_y - 1);
    const int last_x = least(x - list.low_x - work.x0, end_x - 1);
    if (first_y <= last_y && first_x <= last_x) {
      const uint64_t every_row = log == 6 ? 1 : ~uint64_t{0} / ((uint64_t{1} << (1 << log)) - 1);
      visible = bits(first_y << log, ((last_y + 1) << log) - 1) & bits(first_x, last_x) * every_row;
      token = list.first + y * list.pitch + x;
      if (list.biased) at = (y - work.y0) * plan.table_width + x - work.x0;
    }
  }
  partners.visible[0][to] = static_cast<uint32_t>(visible);
  partners.visible[1][to] = static_cast<uint32_t>(visible >> 32);
  partners.token[to] = token;
  partners.at[to] = at;
}

}  // namespace lambda_attention
