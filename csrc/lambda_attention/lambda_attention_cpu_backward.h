// The backward: over tiles of queries for dq and the table, over tiles of keys for dk and dv. Both
// make the probabilities again from the sums the forward kept.
// Internal linkage throughout: compiled once per instruction set.
#pragma once
#include "lambda_attention_cpu_pass.h"

namespace lambda_attention {
namespace IBN_ISA {
namespace {

template <int kVectors>
void constant(Vec<float> (&v)[kVectors], float value) {
  for (Vec<float>& x : v) x = splat<float>(value);
}

template <typename T>
struct BackwardOfQueries : Base<T> {
  using Base<T>::a;
  using Base<T>::tiling;
  using typename Base<T>::Lanes;
  float* d_tables = nullptr;  // [strips of all heads, numbers of a table]

  explicit BackwardOfQueries(const Args& args) : Base<T>(args, false) {}

  struct Scratch : Base<T>::Scratch {
    Tile<float> query, far_query, d_out, dq, d_far, weights, d_weights, lse, less_delta, d_bias;
    explicit Scratch(const BackwardOfQueries& p)
        : Base<T>::Scratch(p),
          query(p.a.D * kTile),
          far_query(p.a.D * kTile),
          d_out(p.a.D * kTile),
          dq(p.a.D * kTile),
          d_far(p.a.D * kTile),
          weights(kChunk * kTile),
          d_weights(kChunk * kTile),
          lse(kTile),
          less_delta(kTile),
          d_bias(p.a.d_table ? p.tiling.bias_size() : 0) {}
  };

  int64_t tasks_of_head() const { return tiling.strips() + (a.causal ? 0 : this->prefix_tiles()); }
  int64_t tasks() const { return a.B * a.heads * tasks_of_head(); }
  int64_t table_size() const { return (2 * a.reach_y + 1) * (2 * a.reach_x + 1); }

  template <int kVectors>
  void meet(const float* query, float* dq, const Others& keys, const List& list, const float* bias,
            float* d_bias, int64_t lane, Scratch& b) const {
    float *const weights = b.weights.get(), *const d_weights = b.d_weights.get();
    Vec<float> lse[kVectors], one[kVectors];
    constant(one, 1);
    for (int v = 0; v < kVectors; ++v) lse[v] = load(b.lse.get() + lane + v * L);
    for (int64_t c = 0; c < list.size(); c += kChunk) {
      const int64_t n = smaller(kChunk, list.size() - c), *const token = list.token() + c,
                    *const add = list.add() + c;
      scores<kVectors>(query + lane, keys.first, keys.first_step, token, bias + lane, add, n, a.D,
                       weights);
      scores<kVectors>(b.d_out.get() + lane, keys.second, keys.second_step, token,
                       b.less_delta.get() + lane, nullptr, n, a.D, d_weights);
      for (int64_t i = 0; i < n; ++i)
        for (int v = 0; v < kVectors; ++v) {
          const int64_t at = (i * kVectors + v) * L;
          const Vec<float> ds = power_of_two(load(weights + at) - lse[v]) * load(d_weights + at);
          store(weights + at, ds);
          if (d_bias) {
            float* const to = d_bias + add[i] + lane + v * L;
            store(to, load(to) + ds);
          }
        }
      accumulate<kVectors>(dq + lane, one, weights, keys.first, keys.first_step, token, n, a.D);
    }
  }
  void meet(int vectors, const float* query, float* dq, const Others& keys, const List& list,
            const float* bias, Scratch& b) const {
    vectors == 2 ? meet<2>(query, dq, keys, list, bias, nullptr, 0, b)
                 : meet<1>(query, dq, keys, list, bias, nullptr, 0, b);
  }

  void meet_prefix(int64_t bh, const Lanes& lanes, int64_t count, Scratch& b) const {
    if (count <= 0) return;
    const View prefix = this->prefix_keys(bh, count, b);
    const float* query = b.query.get();
    float* dq = b.dq.get();
    if (a.q_prefix.data) {
      this->load_lanes(a.q_prefix, bh, lanes, a.scale * kLog2E, b.far_query.get(), b);
      query = b.far_query.get(), dq = b.d_far.get();
    }
    const float* const bias = this->list_prefix(bh, lanes, count, b);
    meet(lanes.vectors, query, dq, prefix.others, b.far, bias, b);
  }

  void begin(int64_t bh, const Lanes& lanes, Scratch& b) const {
    this->load_lanes(a.q, bh, lanes, a.scale * kLog2E, b.query.get(), b);
    this->load_lanes(a.d_out, bh, lanes, 1, b.d_out.get(), b);
    this->load_numbers(this->lse2 + bh * a.N, lanes, 1, b.lse.get());
    this->load_numbers(this->delta + bh * a.N, lanes, -1, b.less_delta.get());
    b.dq.clear();
    if (a.d_q_prefix) b.d_far.clear();
  }

  void end(int64_t bh, const Lanes& lanes, Scratch& b) const {
    this->store_lanes(b.dq.get(), a.scale, a.dq, a.N, bh, lanes, nullptr, b);
    if (a.d_q_prefix)
      this->store_lanes(b.d_far.get(), a.scale, a.d_q_prefix, a.N, bh, lanes, nullptr, b);
  }

  void prefix_tile(int64_t bh, int64_t tile, Scratch& b) const {
    const Lanes lanes = this->lanes_of_prefix(tile);
    begin(bh, lanes, b);
    meet_prefix(bh, lanes, a.prefix, b);
    this->for_lines(a.k, a.v, bh, a.prefix, b, [&](const View& v, int64_t, int64_t) {
      meet(lanes.vectors, b.query.get(), b.dq.get(), v.others, b.line, b.bias.get(), b);
    });
    end(bh, lanes, b);
  }

  void strip(int64_t bh, int64_t strip, Scratch& b) const {
    float* const d_bias = a.d_table ? b.d_bias.get() : nullptr;
    if (d_bias) b.d_bias.clear();
    this->for_tiles(a.k, a.v, bh, strip, b, [&](const View& v, const Lanes& lanes, int64_t last) {
      begin(bh, lanes, b);
      meet_prefix(bh, lanes, a.causal ? smaller(a.prefix, last - a.reach_x) : a.prefix, b);
      const float *const query = b.query.get(), *const bias = b.bias.get();
      float* const dq = b.dq.get();
      meet<2>(query, dq, v.others, b.lists[0], bias, d_bias, 0, b);
      meet<1>(query, dq, v.others, b.lists[1], bias, d_bias, 0, b);
      meet<1>(query, dq, v.others, b.lists[2], bias, d_bias, L, b);
      end(bh, lanes, b);
    });
    if (!d_bias) return;
    float* const table = d_tables + (bh * tiling.strips() + strip) * table_size();
    std::memset(table, 0, table_size() * sizeof(float));
    tiling.for_pairs([&](int64_t place, int64_t dy, int64_t dx) {
      table[(dy + a.reach_y) * (2 * a.reach_x + 1) + dx + a.reach_x] += d_bias[place];
    });
  }

  void task(int64_t i, Scratch& b) const {
    const int64_t bh = i / tasks_of_head(), part = i % tasks_of_head();
    this->fill_bias(bh % a.heads, 1, b);
    part < tiling.strips() ? strip(bh, part, b) : prefix_tile(bh, part - tiling.strips(), b);
  }

  void sum_tables(int64_t head) const {
    const int64_t size = table_size();
    for (int64_t i = 0; i < size; ++i) {
      double sum = 0;
      for (int64_t n = 0; n < a.B; ++n)
        for (int64_t s = 0; s < tiling.strips(); ++s)
          sum += d_tables[((n * a.heads + head) * tiling.strips() + s) * size + i];
      a.d_table[head * size + i] = float(sum);
    }
  }
};

template <typename T>
struct BackwardOfKeys : Base<T> {
  using Base<T>::a;
  using Base<T>::tiling;
  using typename Base<T>::Lanes;
  float *far_dk = nullptr, *far_dv = nullptr;  // causal, [B, heads, prefix, D]

  explicit BackwardOfKeys(const Args& args) : Base<T>(args, true) {}

  struct Scratch : Base<T>::Scratch {
    Tile<float> key, value, dk, dv, weights, d_weights;
    explicit Scratch(const BackwardOfKeys& p)
        : Base<T>::Scratch(p),
          key(p.a.D * kTile),
          value(p.a.D * kTile),
          dk(p.a.D * kTile),
          dv(p.a.D * kTile),
          weights(kChunk * kTile),
          d_weights(kChunk * kTile) {}
  };

  template <int kVectors>
  void meet(const Others& queries, const List& list, const float* bias, int64_t lane,
            Scratch& b) const {
    float *const weights = b.weights.get(), *const d_weights = b.d_weights.get();
    Vec<float> one[kVectors];
    constant(one, 1);
    const float* const zero = b.bias.get() + tiling.zero_row();
    for (int64_t c = 0; c < list.size(); c += kChunk) {
      const int64_t n = smaller(kChunk, list.size() - c), *const token = list.token() + c;
      scores<kVectors>(b.key.get() + lane, queries.first, queries.first_step, token, bias + lane,
                       list.add() + c, n, a.D, weights);
      scores<kVectors>(b.value.get() + lane, queries.second, queries.second_step, token, zero,
                       nullptr, n, a.D, d_weights);
      for (int64_t i = 0; i < n; ++i) {
        const float lse = queries.lse[token[i]], delta = queries.delta[token[i]];
        for (int v = 0; v < kVectors; ++v) {
          const int64_t at = (i * kVectors + v) * L;
          const Vec<float> p = power_of_two(load(weights + at) - lse);
          store(weights + at, p);
          store(d_weights + at, p * (load(d_weights + at) - delta));
        }
      }
      accumulate<kVectors>(b.dv.get() + lane, one, weights, queries.second, queries.second_step,
                           token, n, a.D);
      accumulate<kVectors>(b.dk.get() + lane, one, d_weights, queries.first, queries.first_step,
                           token, n, a.D);
    }
  }

  void begin(const Rows& keys, int64_t bh, const Lanes& lanes, Scratch& b) const {
    this->load_lanes(keys, bh, lanes, a.scale * kLog2E, b.key.get(), b);
    this->load_lanes(a.v, bh, lanes, 1, b.value.get(), b);
    b.dk.clear();
    b.dv.clear();
  }

  // Prefix keys and the queries that do not have them in their windows: on a grid all.
  void prefix_tile(int64_t i, Scratch& b) const {
    const int64_t bh = i / this->prefix_tiles();
    const Lanes lanes = this->lanes_of_prefix(i % this->prefix_tiles());
    this->fill_bias(bh % a.heads, -1, b);
    begin(a.k_prefix.data ? a.k_prefix : a.k, bh, lanes, b);
    const int64_t first = a.causal ? smaller(a.N, lanes.token[0] + a.reach_x + 1) : 0;
    const Rows& queries = a.q_prefix.data ? a.q_prefix : a.q;
    this->for_lines(
        queries, a.d_out, bh, first, b, [&](const View& v, int64_t from, int64_t count) {
          const float* bias = b.bias.get();
          if (a.causal) {
            float* const to = b.far_bias.get();
            for (int64_t n = 0; n < count; ++n)
              for (int64_t lane = 0; lane < kTile; ++lane)
                to[n * kTile + lane] = this->far_bias(bh % a.heads, from + n, lanes.token[lane]);
            for (int64_t lane = 0; lane < kTile; ++lane) to[count * kTile + lane] = kHidden;
            b.line.clear();
            b.line.append(0, 0, kTile, count);
            b.line.fill_up(count * kTile);
            bias = to;
          }
          lanes.vectors == 2 ? meet<2>(v.others, b.line, bias, 0, b)
                             : meet<1>(v.others, b.line, bias, 0, b);
        });
    if (a.k_prefix.data)
      this->store_lanes(b.dk.get(), a.scale, a.d_k_prefix, a.prefix, bh, lanes, nullptr, b);
    if (a.causal) {  // the strips add what these keys are to the queries near them
      if (!a.k_prefix.data) keep_lanes(b.dk.get(), a.scale, far_dk + bh * a.prefix * a.D, lanes);
      keep_lanes(b.dv.get(), 1, far_dv + bh * a.prefix * a.D, lanes);
    } else {
      const float used = a.k_prefix.data ? 0 : a.scale;
      this->store_lanes(b.dk.get(), used, a.dk, a.N, bh, lanes, nullptr, b);
      this->store_lanes(b.dv.get(), 1, a.dv, a.N, bh, lanes, nullptr, b);
    }
  }

  void keep_lanes(const float* from, float factor, float* to, const Lanes& lanes) const {
    for (int64_t i = 0; i < kTile; ++i)
      for (int64_t d = 0; lanes.token[i] >= 0 && d < a.D; ++d)
        to[lanes.token[i] * a.D + d] = from[d * kTile + i] * factor;
  }

  void strip(int64_t i, Scratch& b) const {
    const int64_t bh = i / tiling.strips();
    this->fill_bias(bh % a.heads, -1, b);
    const float* const bias = b.bias.get();
    const float* const more_dk =
        a.causal && !a.k_prefix.data ? far_dk + bh * a.prefix * a.D : nullptr;
    const float* const more_dv = a.causal ? far_dv + bh * a.prefix * a.D : nullptr;
    View prefix{};
    if (!a.causal && a.prefix > 0) {
      prefix = this->view(a.q, a.d_out, bh, 0, 1, a.prefix, b.far_pack.get(), b.far_numbers.get());
      b.far.clear();
      b.far.append(0, tiling.zero_row(), 0, a.prefix);
      b.far.fill_up(tiling.hidden_row());
    }
    this->for_tiles(a.q, a.d_out, bh, i % tiling.strips(), b,
                    [&](const View& v, const Lanes& lanes, int64_t) {
                      begin(a.k, bh, lanes, b);
                      if (prefix.others.first) meet<2>(prefix.others, b.far, bias, 0, b);
                      meet<2>(v.others, b.lists[0], bias, 0, b);
                      meet<1>(v.others, b.lists[1], bias, 0, b);
                      meet<1>(v.others, b.lists[2], bias, L, b);
                      this->store_lanes(b.dk.get(), a.scale, a.dk, a.N, bh, lanes, more_dk, b);
                      this->store_lanes(b.dv.get(), 1, a.dv, a.N, bh, lanes, more_dv, b);
                    });
  }
};

}  // namespace
}  // namespace IBN_ISA
}  // namespace lambda_attention
