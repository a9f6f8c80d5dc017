// The forward: online softmax over the partners of a tile of queries, and what joins its slots.
#pragma once
#include "lambda_attention_walk.cuh"

namespace lambda_attention {

constexpr int kMergeThreads = 128;

// Sums over the four lanes of a row.
__device__ inline float row_sum(float v) {
  v += __shfl_xor_sync(kFullWarp, v, 1);
  return v + __shfl_xor_sync(kFullWarp, v, 2);
}
__device__ inline float row_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(kFullWarp, v, 1));
  return fmaxf(v, __shfl_xor_sync(kFullWarp, v, 2));
}

// Where slot's sums of the tokens of the prefix begin: [B, heads, kept slots, tokens, pitch].
__device__ inline float* part_of(float* parts, const Args& args, const Work& work, int64_t kept,
                                 int64_t tokens, int64_t pitch) {
  const int64_t slot = (work.batch * args.heads + work.head) * kept + work.slot;
  return parts + slot * tokens * pitch;
}

// grid: one block an item of a batch and head
// Reads its queries and the partners' k and v; writes out and lse or, of a slot, the sums of
// exp2(logit - top) v, top, and the sums without v.
// SASS: 128-bit loads, 128-bit stores, asynchronous copies, tensor cores for __half __nv_bfloat16
template <typename scalar_t, int kD>
__global__ void __launch_bounds__(kThreads)
    lambda_attention_forward_kernel(const __grid_constant__ Args args,
                                    const __grid_constant__ Plan plan, float* parts) {
  using S = Shape<scalar_t, kD>;
  constexpr int kGroups = S::kChunk / 16;
  DYNAMIC_SHARED(scalar_t, memory);
  SHARED_ARRAY(Scene<S>, scene, 1);
  const auto by_head = divide(blockIdx.x, args.heads);
  begin_work<S, false>(*scene, args, plan, by_head.remainder, by_head.quotient);
  const Work& work = scene->work;
  const Lane lane;
  Logits<false> logits(args, plan, work, lane);
  Operand<S, true> queries;
  float sums[kD / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, total[2] = {};
  const auto step = [&](const Chunk<S>& chunk) {
    const unsigned seen = seen_groups(chunk.partners);
    if (seen == 0) return;
    float weights[kGroups][2][4];
    float above[2] = {top[0], top[1]};
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int i = 0; i < 8; ++i) weights[g][i / 4][i % 4] = -INFINITY;
      if (!(seen >> g & 1)) continue;
#pragma unroll
      for (int i = 0; i < 8; ++i) weights[g][i / 4][i % 4] = 0;
      add_products<S>(weights[g], queries, chunk.first + g * 16 * S::kPitch);
      logits.finish(weights[g], chunk.partners, g * 16, lane);
#pragma unroll
      for (int i = 0; i < 8; ++i)
        above[i / 2 % 2] = fmaxf(above[i / 2 % 2], weights[g][i / 4][i % 4]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      above[i] = row_max(above[i]);
      const float base = above[i] == -INFINITY ? 0.0f : above[i];  // nothing seen so far
      const float shrink = exp2f(top[i] - base);
      top[i] = above[i];
      total[i] *= shrink;
#pragma unroll
      for (int n = 0; n < kD / 8; ++n) {
        sums[n][2 * i] *= shrink;
        sums[n][2 * i + 1] *= shrink;
      }
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
          for (int j = 2 * i; j < 2 * i + 2; ++j) {
            weights[g][n][j] = exp2f(weights[g][n][j] - base);
            total[i] += weights[g][n][j];
          }
        }
      }
    }
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      if (seen >> g & 1) add_weighted<S>(sums, weights[g], chunk.second + g * 16 * S::kPitch);
    }
  };
#pragma unroll 1
  for (int part = 0; part < 2; ++part) {
    if (work.lists[part].count == 0) continue;
    logits.biased = work.lists[part].biased;
    walk<S, false, 1>(
        *scene, memory, args, plan, nullptr, part, [&] { queries.take(memory); }, step);
  }
  total[0] = row_sum(total[0]);
  total[1] = row_sum(total[1]);
  if (work.slot < 0) {
    store_rows<S>(args.out, args.N, sums, 1 / total[0], 1 / total[1], memory, scene->own_token,
                  args, work.batch, work.head);
  }
  const int64_t pitch = args.D + 2;
  float* part = nullptr;
  if (work.slot >= 0) {
    part = part_of(parts, args, work, plan.slots, args.prefix, pitch);
    store_part<S>(part, pitch, sums, scene->own_token, args.D);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int token = scene->own_token[lane.warp * kWarpOwn + lane.row + 8 * i];
    if (token < 0 || lane.pair != 0) continue;
    if (work.slot < 0) {
      args.lse[(work.batch * args.heads + work.head) * args.N + token] =
          (top[i] + log2f(total[i])) / kLog2e;
    } else {
      part[token * pitch + args.D] = top[i];
      part[token * pitch + args.D + 1] = total[i];
    }
  }
}

// grid: a thread has one number of the prefix's rows; the slots are joined in order
// SASS: no local memory
template <typename scalar_t>
__global__ void __launch_bounds__(kMergeThreads)
    lambda_attention_forward_merge_kernel(const __grid_constant__ Args args, int64_t slots,
                                          const float* parts) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kMergeThreads + threadIdx.x;
  if (i >= args.B * args.heads * args.prefix * args.D) return;
  const auto by_column = divide(i, args.D);
  const auto by_token = divide(by_column.quotient, args.prefix);
  const auto by_head = divide(by_token.quotient, args.heads);
  const int64_t pitch = args.D + 2, column = by_column.remainder, token = by_token.remainder;
  const float* const first = parts + (by_token.quotient * slots * args.prefix + token) * pitch;
  float top = -INFINITY, total = 0, sum = 0;
  for (int64_t slot = 0; slot < slots; ++slot)
    top = fmaxf(top, first[slot * args.prefix * pitch + args.D]);
  for (int64_t slot = 0; slot < slots; ++slot) {
    const float* const part = first + slot * args.prefix * pitch;
    const float share = exp2f(part[args.D] - top);
    total += share * part[args.D + 1];
    sum += share * part[column];
  }
  const int64_t row = by_head.quotient * args.N + token;
  narrow(sum / total, static_cast<scalar_t*>(
                          args.out)[(row * args.heads + by_head.remainder) * args.D + column]);
  if (column == 0) args.lse[by_token.quotient * args.N + token] = (top + log2f(total)) / kLog2e;
}

}  // namespace lambda_attention
