// What the kernels of lambda_attention work on. Contract and formula:
// ibnvision/ops/lambda_attention.py; derivation of the backward: README.md here. No torch header.
#pragma once
#include <cstdint>

#include "../common.h"

namespace lambda_attention {

using ibnvision::Dtype;

// A tensor [B, heads, tokens, D] whose last axis is dense; strides count elements.
struct Rows {
  const void* data;  // null: not given
  int64_t batch, head, token;
};
// Results are dense [B, tokens, heads, D].

struct Args {
  Rows q, k, v;
  Rows q_prefix;         // of q's shape; with k_prefix it serves prefix keys beyond the window
  Rows k_prefix;         // [B, heads, prefix, D]
  const float* table;    // [heads, 2 * reach_y + 1, 2 * reach_x + 1] or null, of a grid
  const float* slopes;   // [heads] or null, of a causal sequence
  Rows d_out, out_rows;  // backward; out_rows is the forward's out
  float* lse;            // [B, heads, N], natural logarithm: the forward writes, the backward reads

  void* out;           // [B, N, heads, D]
  void *dq, *dk, *dv;  // the same
  void *d_q_prefix,
      *d_k_prefix;  // null without q_prefix, k_prefix; [B, prefix, heads, D] the latter
  float* d_table;   // null without table
  void* workspace;  // CUDA: as many bytes as asked for

  int64_t B, heads, N, D;
  int64_t prefix;
  int64_t height, width;     // of the grid behind the prefix; 0 when causal
  int64_t reach_y, reach_x;  // rows and columns seen to either side; causal: window - 1 tokens back
  float scale;
  float limit;  // of distances times slopes, perhaps infinite
  bool causal;
  Dtype dtype;  // not float64
};

}  // namespace lambda_attention
