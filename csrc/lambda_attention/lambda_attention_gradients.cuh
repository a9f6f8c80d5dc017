// The backward: gradients of queries and of the bias table, then those of keys and values. Weights
// are computed again from lse. Derivation: README.md here.
#pragma once
#include "lambda_attention_forward.cuh"

namespace lambda_attention {

constexpr int kTableCopies = 16;  // of a block: four a warp, one for each pair of keys
constexpr int kDeltaLanes = 8;    // that share a row

// Scratch of the backward, float. Slots are [B, heads, kept slots, rows, D].
struct Workspace {
  float* delta;  // [B, heads, N]: <d_out, out> of a row
  float *dq, *dk, *dv;
  float* tables;  // [workers, heads, entries]
  float* copies;  // [workers, heads, kTableCopies, entries] unless shared_table
  int64_t query_slots, key_slots, key_rows;
};

// grid: eight lanes a row of [B, heads, N]
// SASS: 128-bit loads
template <typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    lambda_attention_backward_delta_kernel(const __grid_constant__ Args args, float* delta,
                                           bool aligned) {
  constexpr int kSize = Vec<scalar_t>::kSize;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t row = i / kDeltaLanes;
  const bool some = row < args.B * args.heads * args.N;
  const auto by_token = divide(some ? row : 0, args.N);
  const auto by_head = divide(by_token.quotient, args.heads);
  const auto address = [&](const Rows& rows) {
    return static_cast<const scalar_t*>(rows.data) + by_head.quotient * rows.batch +
           by_head.remainder * rows.head + by_token.remainder * rows.token;
  };
  const scalar_t* const d_out = address(args.d_out);
  const scalar_t* const out = address(args.out_rows);
  float sum = 0;
  for (int64_t column = i % kDeltaLanes * kSize; column < args.D; column += kDeltaLanes * kSize) {
    const int count = some ? kSize : 0;
    const auto a = load_vec(d_out + column, count, aligned);
    const auto b = load_vec(out + column, count, aligned);
#pragma unroll
    for (int j = 0; j < kSize; ++j) sum += a[j] * b[j];
  }
  sum = row_sum(sum);
  sum += __shfl_xor_sync(kFullWarp, sum, 4);
  if (some && i % kDeltaLanes == 0) delta[row] = sum;
}

// Adds the gradients of 16 keys' logits to the warp's four copies of the table: lanes of one pair
// of keys have rows, and with them offsets, of their own, but share a copy with the next key.
template <int kChunk>
__device__ void add_to_table(float* copies, int64_t entries, const Plan& plan,
                             const Logits<false>& logits, const float (&gradients)[2][4],
                             const Partners<kChunk>& partners, int first, const Lane& lane) {
  float* const table = copies + (lane.warp * 4 + lane.pair) * entries + plan.center;
  const int shift = lane.warp % 2 * kWarpOwn + lane.row;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int partner = first + 8 * n + 2 * lane.pair + j;
      const uint32_t visible = partners.visible[lane.warp / 2][partner] >> shift;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (visible >> 8 * i & 1)
          table[logits.offset(partners.at[partner], i)] += gradients[n][2 * i + j];
      }
      __syncwarp();
    }
  }
}

// grid: one block a worker of a head
// Reads its queries with d_out, lse and delta, the partners' k and v; writes dq and d_q_prefix or a
// slot's part of them, and the worker's table.
// SASS: 128-bit loads, 128-bit stores, asynchronous copies, tensor cores for __half __nv_bfloat16
template <typename scalar_t, int kD>
__global__ void __launch_bounds__(kThreads, 3)
    lambda_attention_backward_query_kernel(const __grid_constant__ Args args,
                                           const __grid_constant__ Plan plan,
                                           const __grid_constant__ Workspace workspace) {
  using S = Shape<scalar_t, kD>;
  constexpr bool kHeld = kD <= 64;
  DYNAMIC_SHARED(scalar_t, memory);
  SHARED_ARRAY(Scene<S>, scene, 1);
  const auto by_head = divide(blockIdx.x, args.heads);
  const int64_t head = by_head.remainder, worker = by_head.quotient;
  const Lane lane;
  float* const copies = plan.shared_table
                            ? reinterpret_cast<float*>(memory + S::elements(2))
                            : workspace.copies + blockIdx.x * kTableCopies * plan.entries;
  for (int64_t i = threadIdx.x; i < kTableCopies * plan.entries; i += kThreads) copies[i] = 0;
  const Work& work = scene->work;
#pragma unroll 1
  for (int64_t job = worker; job < args.B * plan.items; job += plan.workers) {
    begin_work<S, false>(*scene, args, plan, head, job);
    Logits<false> logits(args, plan, work, lane);
    Operand<S, kHeld> queries, d_outs;
    float sums[kD / 8][4] = {}, lse[2], delta[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = scene->own_token[lane.warp * kWarpOwn + lane.row + 8 * i];
      const int64_t row = (work.batch * args.heads + head) * args.N + token;
      lse[i] = token < 0 ? 0 : args.lse[row] * kLog2e;
      delta[i] = token < 0 ? 0 : workspace.delta[row];
    }
    const auto ready = [&] {
      queries.take(memory);
      d_outs.take(memory + S::kOwnElements);
    };
    const auto step = [&](const Chunk<S>& chunk) {
      const unsigned seen = seen_groups(chunk.partners);
#pragma unroll 1
      for (int g = 0; g < S::kChunk / 16; ++g) {
        if (!(seen >> g & 1)) continue;
        const auto* const keys = chunk.first + g * 16 * S::kPitch;
        float weights[2][4] = {}, gradients[2][4] = {};
        add_products<S>(weights, queries, keys);
        add_products<S>(gradients, d_outs, chunk.second + g * 16 * S::kPitch);
        logits.finish(weights, chunk.partners, g * 16, lane);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const float weight = exp2f(weights[i / 4][i % 4] - lse[i / 2 % 2]);
          gradients[i / 4][i % 4] = weight * (gradients[i / 4][i % 4] - delta[i / 2 % 2]);
        }
        if (plan.entries > 0 && logits.biased) {
          add_to_table(copies, plan.entries, plan, logits, gradients, chunk.partners, g * 16, lane);
        }
        add_weighted<S>(sums, gradients, keys);
      }
    };
    const auto store = [&](void* to) {
      store_rows<S>(to, args.N, sums, args.scale, args.scale, memory, scene->own_token, args,
                    work.batch, head);
    };
#pragma unroll 1
    for (int part = 0; part < 2; ++part) {
      if (part == 1 && args.d_q_prefix != nullptr && work.slot < 0) {
        store(args.d_q_prefix);
#pragma unroll
        for (int i = 0; i < kD / 2; ++i) sums[i / 4][i % 4] = 0;
      }
      if (work.lists[part].count == 0) continue;
      logits.biased = work.lists[part].biased;
      walk<S, false, 2>(*scene, memory, args, plan, nullptr, part, ready, step);
    }
    if (work.slot < 0) {
      store(args.dq);
    } else {
      float* const to =
          part_of(workspace.dq, args, work, workspace.query_slots, args.prefix, args.D);
      store_part<S>(to, args.D, sums, scene->own_token, args.D);
    }
  }
  __syncthreads();  // all warps have added to their copies
  for (int64_t i = threadIdx.x; i < plan.entries; i += kThreads) {
    float sum = 0;
    for (int copy = 0; copy < kTableCopies; ++copy) sum += copies[copy * plan.entries + i];
    workspace.tables[(worker * args.heads + head) * plan.entries + i] = sum;
  }
}

// grid: one block an item of a batch and head
// Reads its keys and values, the partners' q, d_out, lse and delta; writes dk and dv or a slot's
// part of them.
// SASS: 128-bit loads, 128-bit stores, asynchronous copies, tensor cores for __half __nv_bfloat16
template <typename scalar_t, int kD>
__global__ void __launch_bounds__(kThreads)
    lambda_attention_backward_key_kernel(const __grid_constant__ Args args,
                                         const __grid_constant__ Plan plan,
                                         const __grid_constant__ Workspace workspace) {
  using S = Shape<scalar_t, kD>;
  constexpr bool kHeld = kD <= 64;
  DYNAMIC_SHARED(scalar_t, memory);
  SHARED_ARRAY(Scene<S>, scene, 1);
  const auto by_head = divide(blockIdx.x, args.heads);
  begin_work<S, true>(*scene, args, plan, by_head.remainder, by_head.quotient);
  const Work& work = scene->work;
  const Lane lane;
  Logits<true> logits(args, plan, work, lane);
  Operand<S, kHeld> keys, values;
  float key_sums[kD / 8][4] = {}, value_sums[kD / 8][4] = {};
  const auto ready = [&] {
    keys.take(memory);
    values.take(memory + S::kOwnElements);
  };
  const auto step = [&](const Chunk<S>& chunk) {
    const unsigned seen = seen_groups(chunk.partners);
#pragma unroll 1
    for (int g = 0; g < S::kChunk / 16; ++g) {
      if (!(seen >> g & 1)) continue;
      const auto* const queries = chunk.first + g * 16 * S::kPitch;
      const auto* const d_outs = chunk.second + g * 16 * S::kPitch;
      float weights[2][4] = {}, gradients[2][4] = {};
      add_products<S>(weights, keys, queries);
      add_products<S>(gradients, values, d_outs);
      logits.finish(weights, chunk.partners, g * 16, lane);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int partner = g * 16 + i / 4 * 8 + 2 * lane.pair + i % 2;
        float& weight = weights[i / 4][i % 4];
        weight = exp2f(weight - chunk.lse[partner] * kLog2e);
        gradients[i / 4][i % 4] = weight * (gradients[i / 4][i % 4] - chunk.delta[partner]);
      }
      add_weighted<S>(value_sums, weights, d_outs);
      add_weighted<S>(key_sums, gradients, queries);
    }
  };
#pragma unroll 1
  for (int part = 0; part < 2; ++part) {
    if (work.lists[part].count == 0) continue;
    logits.biased = work.lists[part].biased;
    walk<S, true, 2>(*scene, memory, args, plan, workspace.delta, part, ready, step);
  }
  const int* const tokens = scene->own_token;
  if (work.slot < 0) {
    const auto store = [&](void* to, const auto& sums, float factor) {
      store_rows<S>(to, args.N, sums, factor, factor, memory, tokens, args, work.batch, work.head);
    };
    store(args.dk, key_sums, args.scale);
    store(args.dv, value_sums, 1.0f);
  } else {
    const auto store = [&](float* parts, const auto& sums) {
      float* const to = part_of(parts, args, work, workspace.key_slots, workspace.key_rows, args.D);
      store_part<S>(to, args.D, sums, tokens, args.D);
    };
    store(workspace.dk, key_sums);
    store(workspace.dv, value_sums);
  }
}

// Slots [0, far) are sums of far pairs, those behind of near ones.
struct Merge {
  const float* parts;  // [B, heads, slots, rows, D]
  int64_t slots, far, rows;
  void* to;      // [B, N, heads, D]
  void* to_far;  // [B, far_tokens, heads, D], or null: the far sums go into `to` too
  int64_t far_tokens;
  float factor;
};

// grid: a thread has one number of the rows; the slots are added in order
// SASS: no local memory
template <typename scalar_t>
__global__ void __launch_bounds__(kMergeThreads)
    lambda_attention_backward_merge_kernel(const __grid_constant__ Args args,
                                           const __grid_constant__ Merge merge) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kMergeThreads + threadIdx.x;
  if (i >= args.B * args.heads * merge.rows * args.D) return;
  const auto by_column = divide(i, args.D);
  const auto by_token = divide(by_column.quotient, merge.rows);
  const auto by_head = divide(by_token.quotient, args.heads);
  const int64_t token = by_token.remainder, step = merge.rows * args.D;
  const float* const first =
      merge.parts + by_token.quotient * merge.slots * step + token * args.D + by_column.remainder;
  float far = 0, near = 0;
  if (token < args.prefix) {
    for (int64_t slot = 0; slot < merge.far; ++slot) far += first[slot * step];
  }
  for (int64_t slot = merge.far; slot < merge.slots; ++slot) near += first[slot * step];
  const auto store = [&](void* to, int64_t tokens, float value) {
    const int64_t row = (by_head.quotient * tokens + token) * args.heads + by_head.remainder;
    narrow(value * merge.factor, static_cast<scalar_t*>(to)[row * args.D + by_column.remainder]);
  };
  if (merge.to_far == nullptr) near += far;
  store(merge.to, args.N, near);
  if (merge.to_far != nullptr && token < args.prefix) store(merge.to_far, merge.far_tokens, far);
}

// grid: a thread has one number of the table; the workers are added in order
// SASS: no local memory
__global__ void __launch_bounds__(kMergeThreads)
    lambda_attention_backward_table_kernel(const __grid_constant__ Args args, int64_t entries,
                                           int64_t workers, const float* tables) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kMergeThreads + threadIdx.x;
  if (i >= args.heads * entries) return;
  float sum = 0;
  for (int64_t worker = 0; worker < workers; ++worker)
    sum += tables[worker * args.heads * entries + i];
  args.d_table[i] = sum;
}

}  // namespace lambda_attention
