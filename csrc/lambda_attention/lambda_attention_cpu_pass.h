// What the passes share: rows of tensors as float, a tile's own tokens turned into lanes and back,
// the biases around a tile. Formulas: README.md here.
// Internal linkage throughout: compiled once per instruction set.
#pragma once
#include <type_traits>

#include "../cpu_transpose.h"
#include "lambda_attention_cpu.h"
#include "lambda_attention_cpu_tiles.h"

namespace lambda_attention {
namespace IBN_ISA {
namespace {

constexpr int64_t kAhead = 8;   // tokens between a look and its use: no hardware looks that far
constexpr int64_t kLine = 512;  // tokens of a stretch that prefix tokens meet at once

// Others of a rectangle or stretch of tokens; token i of row y has the number y * stride + i.
struct View {
  Others others;
  int64_t stride;
};

template <typename T>
struct Base {
  const Args& a;
  const Tiling tiling;
  const float *lse2 = nullptr, *delta = nullptr;  // backward, [B, heads, N]; lse2 to the base 2

  Base(const Args& args, bool keys_own) : a(args), tiling(args, keys_own) {}

  // The tiles of the prefix, which on a grid is outside of it; 0 where it has a place as well.
  int64_t prefix_tiles() const { return (a.prefix + kTile - 1) / kTile; }

  struct Scratch {
    Tile<float> bias, far_bias, pack, far_pack, numbers, far_numbers, row, zeros;
    List lists[3], line, far;
    int64_t bias_of = -1;  // the head that `bias` is of
    explicit Scratch(const Base& p)
        : bias(p.tiling.bias_size()),
          far_bias(p.a.causal ? (larger(p.a.prefix, kLine) + 1) * kTile : 0),
          pack(p.pack_tokens() * 2 * p.a.D),
          far_pack(p.a.prefix * 2 * p.a.D),
          numbers(p.pack_tokens() * 2),
          far_numbers(p.a.prefix * 2),
          row(p.row_size() * L),
          zeros(larger(p.a.D, L)),
          lists{List(p.list_size()), List(p.list_size()), List(p.list_size())},
          line(kLine),
          far(p.a.prefix) {}
  };

  int64_t list_size() const { return tiling.halo_rows() * tiling.halo_columns(); }
  int64_t pack_tokens() const {
    const Tiling& t = tiling;
    const int64_t down = smaller(t.height, t.strip_rows + 2 * t.reach_y),
                  across = smaller(t.width, t.strip_columns + t.left + t.right);
    return larger(kLine, down * across);
  }

  const T* at(const Rows& r, int64_t bh, int64_t token) const {
    return static_cast<const T*>(r.data) + bh / a.heads * r.batch + bh % a.heads * r.head +
           token * r.token;
  }
  // In a result, dense in the order [B, tokens, heads, D].
  T* in_result(void* result, int64_t tokens, int64_t bh, int64_t token) const {
    return static_cast<T*>(result) +
           ((bh / a.heads * tokens + token) * a.heads + bh % a.heads) * a.D;
  }

  // `rows` times `count` tokens from `token` on. Those of float tensors are read where they lie,
  // unless they are far apart, each on a page of its own: then copies are read faster.
  View view(const Rows& first, const Rows& second, int64_t bh, int64_t token, int64_t rows,
            int64_t count, float* pack, float* numbers) const {
    const auto close = [&](const Rows& r) { return r.token > 0 && r.token <= 4 * a.D; };
    const int64_t row_step = tiling.width;
    if constexpr (sizeof(T) == sizeof(float)) {
      if (close(first) && close(second)) {
        const int64_t n = delta ? bh * a.N + token : 0;
        return {{at(first, bh, token), at(second, bh, token), first.token, second.token, lse2 + n,
                 delta + n},
                row_step};
      }
    }
    const int64_t tokens = rows * count;
    const auto token_at = [&](int64_t i) { return token + i / count * row_step + i % count; };
    for (int64_t i = 0; i < tokens; ++i) {
      if (i + kAhead < tokens) {
        prefetch_row(at(first, bh, token_at(i + kAhead)));
        prefetch_row(at(second, bh, token_at(i + kAhead)));
      }
      const int64_t from = token_at(i);
      copy_row(at(first, bh, from), pack + i * 2 * a.D);
      copy_row(at(second, bh, from), pack + (i * 2 + 1) * a.D);
      if (delta) numbers[i] = lse2[bh * a.N + from], numbers[tokens + i] = delta[bh * a.N + from];
    }
    return {{pack, pack + a.D, 2 * a.D, 2 * a.D, numbers, numbers + tokens}, count};
  }

  void prefetch_row(const T* row) const {
    for (int64_t d = 0; d < a.D; d += 64 / sizeof(T)) __builtin_prefetch(row + d);
  }
  void copy_row(const T* from, float* to) const {
    const float* values = fetch(from, a.D, to);
    if (values != to) std::memcpy(to, values, a.D * sizeof(float));
  }

  // The own tokens of a tile; -1 where a lane has none.
  struct Lanes {
    int64_t token[kTile];
    int vectors;  // with tokens
  };
  Lanes lanes_at(int64_t y, int64_t x) const {
    Lanes lanes;
    lanes.vectors = 2;
    for (int64_t i = 0; i < kTile; ++i) {
      const int64_t row = y + tiling.lane_y(i), column = x + tiling.lane_x(i);
      const bool inside = row < tiling.height && column < tiling.width;
      lanes.token[i] = inside ? tiling.first + row * tiling.width + column : -1;
    }
    return lanes;
  }
  Lanes lanes_of_prefix(int64_t tile) const {
    Lanes lanes;
    for (int64_t i = 0; i < kTile; ++i)
      lanes.token[i] = tile * kTile + i < a.prefix ? tile * kTile + i : -1;
    lanes.vectors = lanes.token[L] < 0 ? 1 : 2;
    return lanes;
  }

  // to = rows * factor, a token a lane; zeros where a lane has none.
  void load_lanes(const Rows& r, int64_t bh, const Lanes& lanes, float factor, float* to,
                  Scratch& b) const {
    for (int64_t v = 0; v < kTile; v += L) {
      const float* row[L];
      for (int64_t i = 0; i < L; ++i) {
        const int64_t token = lanes.token[v + i];
        row[i] = token < 0 ? b.zeros.get() : fetch(at(r, bh, token), a.D, b.row.get() + i * a.D);
      }
      transpose(row, a.D, to + v, kTile, factor);
    }
  }
  void load_numbers(const float* of_head, const Lanes& lanes, float factor, float* to) const {
    for (int64_t i = 0; i < kTile; ++i)
      to[i] = lanes.token[i] < 0 ? 0 : of_head[lanes.token[i]] * factor;
  }

  // result = from * factor, plus `more` [prefix, D] where given.
  void store_lanes(const float* from, float factor, void* result, int64_t tokens, int64_t bh,
                   const Lanes& lanes, const float* more, Scratch& b) const {
    for (int64_t v = 0; v < kTile; v += L) {
      for (int64_t d0 = 0; d0 < a.D; d0 += L) {  // [D][tokens] to [tokens][D], by squares
        const float* column[L];
        const int64_t count = smaller(L, a.D - d0);
        for (int64_t d = 0; d < L; ++d)
          column[d] = d < count ? from + (d0 + d) * kTile + v : b.zeros.get();
        transpose(column, L, b.row.get() + d0, row_size(), factor);
      }
      for (int64_t i = 0; i < L; ++i) {
        const int64_t token = lanes.token[v + i];
        if (token < 0) continue;
        float* const row = b.row.get() + i * row_size();
        if (more && token < a.prefix)
          for (int64_t d = 0; d < a.D; ++d) row[d] += more[token * a.D + d];
        T* const to = in_result(result, tokens, bh, token);
        if constexpr (std::is_same_v<T, float>)
          std::memcpy(to, row, a.D * sizeof(float));
        else
          put(to, row, a.D);
      }
    }
  }
  int64_t row_size() const { return (a.D + L - 1) / L * L; }  // of a row that is turned

  // <x, y> of one token; buffer has room for both.
  float product(const Rows& x, const Rows& y, int64_t bh, int64_t token, float* buffer) const {
    const float* const p = fetch(at(x, bh, token), a.D, buffer);
    const float* const q = fetch(at(y, bh, token), a.D, buffer + a.D);
    float sum = 0;
    for (int64_t d = 0; d < a.D; ++d) sum += p[d] * q[d];
    return sum;
  }

  float slope_bias(int64_t head, int64_t distance) const {
    if (!a.slopes) return 0;
    const float d = float(distance);
    return -a.slopes[head] * kLog2E * (d < a.limit ? d : a.limit);
  }

  // The rows of biases, to the base 2. `sign` is -1 where the tile's own tokens are keys.
  void fill_bias(int64_t head, int sign, Scratch& b) const {
    if (b.bias_of == head || (b.bias_of >= 0 && !a.table && !a.slopes)) return;
    b.bias_of = head;
    float* const to = b.bias.get();
    const int64_t columns = 2 * a.reach_x + 1;
    const float* const table = a.table ? a.table + head * (2 * a.reach_y + 1) * columns : nullptr;
    for (int64_t i = 0; i < tiling.bias_size(); ++i) to[i] = kHidden;
    for (int64_t i = 0; i < kTile; ++i) to[tiling.zero_row() + i] = 0;
    tiling.for_pairs([&](int64_t place, int64_t dy, int64_t dx) {
      to[place] = slope_bias(head, dx < 0 ? -dx : dx);
      if (table)
        to[place] = kLog2E * table[(sign * dy + a.reach_y) * columns + sign * dx + a.reach_x];
    });
  }

  // f(view, first token, count) of stretches of the tokens from `token` on; b.line lists each.
  template <typename F>
  void for_lines(const Rows& first, const Rows& second, int64_t bh, int64_t token, Scratch& b,
                 F f) const {
    for (; token < a.N; token += kLine) {
      const int64_t count = smaller(kLine, a.N - token);
      const View v = view(first, second, bh, token, 1, count, b.pack.get(), b.numbers.get());
      b.line.clear();
      b.line.append(0, tiling.zero_row(), 0, count);
      b.line.fill_up(tiling.hidden_row());
      f(v, token, count);
    }
  }

  // f(view, lanes, last token of the row) of the tiles of a strip; b.lists lists what each sees.
  template <typename F>
  void for_tiles(const Rows& first, const Rows& second, int64_t bh, int64_t strip, Scratch& b,
                 F f) const {
    const Range ys = tiling.strip_y(strip), xs = tiling.strip_x(strip), seen_y = tiling.seen_y(ys),
                seen_x = tiling.seen_x(xs);
    const View v =
        view(first, second, bh, tiling.first + seen_y.begin * tiling.width + seen_x.begin,
             seen_y.size(), seen_x.size(), b.pack.get(), b.numbers.get());
    for (int64_t y = ys.begin; y < ys.end; y += tiling.rows)
      for (int64_t x = xs.begin; x < xs.end; x += tiling.columns) {
        tiling.list(y, x, seen_y.begin, seen_x.begin, v.stride, b.lists);
        f(v, lanes_at(y, x), x + tiling.columns - 1);
      }
  }

  View prefix_keys(int64_t bh, int64_t count, Scratch& b) const {
    return view(a.k_prefix.data ? a.k_prefix : a.k, a.v, bh, 0, 1, count, b.far_pack.get(),
                b.far_numbers.get());
  }

  // Lists the first `count` prefix keys in b.far; returns the biases of a tile of queries.
  const float* list_prefix(int64_t bh, const Lanes& queries, int64_t count, Scratch& b) const {
    b.far.clear();
    if (!a.causal) {
      b.far.append(0, tiling.zero_row(), 0, count);
      b.far.fill_up(tiling.hidden_row());
      return b.bias.get();
    }
    float* const bias = b.far_bias.get();
    for (int64_t j = 0; j < count; ++j)
      for (int64_t i = 0; i < kTile; ++i)
        bias[j * kTile + i] = far_bias(bh % a.heads, queries.token[i], j);
    for (int64_t i = 0; i < kTile; ++i) bias[count * kTile + i] = kHidden;
    b.far.append(0, 0, kTile, count);
    b.far.fill_up(count * kTile);
    return bias;
  }

  // Causal: the prefix key `key` and a query that does not have it in its window.
  float far_bias(int64_t head, int64_t query, int64_t key) const {
    return query - key > a.reach_x ? slope_bias(head, query - key) : kHidden;
  }
};

template <typename F>  // f(storage type)
void with_types(Dtype dtype, F f) {
  switch (dtype) {
    case Dtype::float16:
      return f(Half{});
    case Dtype::bfloat16:
      return f(BFloat16{});
    default:
      return f(float{});
  }
}

}  // namespace
}  // namespace IBN_ISA
}  // namespace lambda_attention
