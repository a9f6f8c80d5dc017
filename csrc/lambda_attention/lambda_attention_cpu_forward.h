// The forward of one tile of queries: softmax over what it sees, chunk by chunk.
// Internal linkage throughout: compiled once per instruction set.
#pragma once
#include <cmath>

#include "lambda_attention_cpu_pass.h"

namespace lambda_attention {
namespace IBN_ISA {
namespace {

template <typename T>
struct Forward : Base<T> {
  using Base<T>::a;
  using Base<T>::tiling;
  using typename Base<T>::Lanes;

  explicit Forward(const Args& args) : Base<T>(args, false) {}

  struct Scratch : Base<T>::Scratch {
    Tile<float> query, far_query, out, weights, top, total;
    explicit Scratch(const Forward& p)
        : Base<T>::Scratch(p),
          query(p.a.D * kTile),
          far_query(p.a.D * kTile),
          out(p.a.D * kTile),
          weights(kChunk * kTile),
          top(kTile),
          total(kTile) {}
  };

  int64_t tasks_of_head() const { return tiling.strips() + (a.causal ? 0 : this->prefix_tiles()); }
  int64_t tasks() const { return a.B * a.heads * tasks_of_head(); }

  // kVectors of the tile, from lane `lane` on, meet the listed keys.
  template <int kVectors>
  void meet(const float* query, const Others& keys, const List& list, const float* bias,
            int64_t lane, Scratch& b) const {
    float *const weights = b.weights.get(), *const top = b.top.get() + lane,
                 *const total = b.total.get() + lane;
    for (int64_t c = 0; c < list.size(); c += kChunk) {
      const int64_t n = smaller(kChunk, list.size() - c), *const token = list.token() + c;
      scores<kVectors>(query + lane, keys.first, keys.first_step, token, bias + lane,
                       list.add() + c, n, a.D, weights);
      Vec<float> shrink[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        const Vec<float> before = load(top + v * L);
        Vec<float> now = before, sum{};
        for (int64_t i = 0; i < n; ++i) now = larger(now, load(weights + (i * kVectors + v) * L));
        for (int64_t i = 0; i < n; ++i) {
          float* const at = weights + (i * kVectors + v) * L;
          const Vec<float> p = power_of_two(load(at) - now);
          sum += p;
          store(at, p);
        }
        shrink[v] = power_of_two(before - now);
        store(top + v * L, now);
        store(total + v * L, load(total + v * L) * shrink[v] + sum);
      }
      accumulate<kVectors>(b.out.get() + lane, shrink, weights, keys.second, keys.second_step,
                           token, n, a.D);
    }
  }
  void meet(int vectors, const float* query, const Others& keys, const List& list,
            const float* bias, Scratch& b) const {
    vectors == 2 ? meet<2>(query, keys, list, bias, 0, b) : meet<1>(query, keys, list, bias, 0, b);
  }

  // The first `count` prefix keys, with the queries that are for them.
  void meet_prefix(int64_t bh, const Lanes& lanes, int64_t count, Scratch& b) const {
    if (count <= 0) return;
    const View prefix = this->prefix_keys(bh, count, b);
    const float* query = b.query.get();
    if (a.q_prefix.data) {
      this->load_lanes(a.q_prefix, bh, lanes, a.scale * kLog2E, b.far_query.get(), b);
      query = b.far_query.get();
    }
    const float* const bias = this->list_prefix(bh, lanes, count, b);
    meet(lanes.vectors, query, prefix.others, b.far, bias, b);
  }

  void begin(int64_t bh, const Lanes& lanes, Scratch& b) const {
    this->load_lanes(a.q, bh, lanes, a.scale * kLog2E, b.query.get(), b);
    b.out.clear();
    b.total.clear();
    for (int64_t i = 0; i < kTile; ++i) b.top.get()[i] = kHidden;
  }

  void end(int64_t bh, const Lanes& lanes, Scratch& b) const {
    float *const out = b.out.get(), *const total = b.total.get();
    for (int v = 0; v < lanes.vectors; ++v) {
      const Vec<float> inverse = 1.0f / load(total + v * L);
      for (int64_t d = 0; d < a.D; ++d)
        store(out + d * kTile + v * L, load(out + d * kTile + v * L) * inverse);
    }
    for (int64_t i = 0; i < kTile; ++i)
      if (lanes.token[i] >= 0)
        a.lse[bh * a.N + lanes.token[i]] = b.top.get()[i] * kLn2 + std::log(total[i]);
    this->store_lanes(out, 1, a.out, a.N, bh, lanes, nullptr, b);
  }

  void prefix_tile(int64_t bh, int64_t tile, Scratch& b) const {
    const Lanes lanes = this->lanes_of_prefix(tile);
    begin(bh, lanes, b);
    meet_prefix(bh, lanes, a.prefix, b);
    this->for_lines(a.k, a.v, bh, a.prefix, b, [&](const View& v, int64_t, int64_t) {
      meet(lanes.vectors, b.query.get(), v.others, b.line, b.bias.get(), b);
    });
    end(bh, lanes, b);
  }

  void strip(int64_t bh, int64_t strip, Scratch& b) const {
    this->for_tiles(a.k, a.v, bh, strip, b, [&](const View& v, const Lanes& lanes, int64_t last) {
      begin(bh, lanes, b);
      meet_prefix(bh, lanes, a.causal ? smaller(a.prefix, last - a.reach_x) : a.prefix, b);
      const float *const query = b.query.get(), *const bias = b.bias.get();
      meet<2>(query, v.others, b.lists[0], bias, 0, b);
      meet<1>(query, v.others, b.lists[1], bias, 0, b);
      meet<1>(query, v.others, b.lists[2], bias, L, b);
      end(bh, lanes, b);
    });
  }

  void task(int64_t i, Scratch& b) const {
    const int64_t bh = i / tasks_of_head(), part = i % tasks_of_head();
    this->fill_bias(bh % a.heads, 1, b);
    part < tiling.strips() ? strip(bh, part, b) : prefix_tile(bh, part - tiling.strips(), b);
  }
};

}  // namespace
}  // namespace IBN_ISA
}  // namespace lambda_attention
