// A block's walk over the partners of its tile, chunk by chunk, and the logits of a chunk.
#pragma once
#include "lambda_attention_tile.cuh"

namespace lambda_attention {

// A block's shared memory besides the tiles.
template <typename S>
struct Scene {
  Work work;
  int own_token[kOwn];
  Partners<S::kChunk> partners[S::kStages + 1];
  float lse[S::kStages][S::kChunk], delta[S::kStages][S::kChunk];  // of partners that are queries
};

template <typename S>
struct Chunk {
  const typename S::scalar_t *first, *second;  // rows of k and v, or of q and d_out
  const Partners<S::kChunk>& partners;
  const float *lse, *delta;
};

// Finds out what to do and which are the own tokens; ends with a barrier.
template <typename S, bool kOwnKeys>
__device__ void begin_work(Scene<S>& scene, const Args& args, const Plan& plan, int64_t head,
                           int64_t job) {
  __syncthreads();  // the work before is done
  if (threadIdx.x == 0) scene.work = find_work<kOwnKeys>(args, plan, head, job);
  __syncthreads();
  if (threadIdx.x < kOwn) scene.own_token[threadIdx.x] = own_token(scene.work, threadIdx.x);
  __syncthreads();
}

// Calls ready() when the own tiles have come, and step(chunk) for each chunk of list `part`, by all
// threads. `memory` holds kOwnTiles own tiles and the stages of two chunks.
template <typename S, bool kOwnKeys, int kOwnTiles, typename Ready, typename Step>
__device__ void walk(Scene<S>& scene, typename S::scalar_t* memory, const Args& args,
                     const Plan& plan, const float* delta, int part, const Ready& ready,
                     const Step& step) {
  constexpr int kChunk = S::kChunk, kStages = S::kStages, kAhead = kStages - 1;
  const Work& work = scene.work;
  const List& list = work.lists[part];
  const int count = list.count, chunks = (count + kChunk - 1) / kChunk;
  const int D = static_cast<int>(args.D);
  const int64_t batch = work.batch, head = work.head;
  const Rows q = list.far ? args.q_prefix : args.q, k = list.far ? args.k_prefix : args.k;
  const int64_t row0 = (batch * args.heads + head) * args.N;
  const auto tile = [&](int stage, int which) {
    return memory + kOwnTiles * S::kOwnElements + (2 * stage + which) * S::kChunkElements;
  };
  const auto look = [&](int chunk) {
    if (chunk >= chunks || threadIdx.x >= kChunk) return;
    const int i = threadIdx.x;
    describe(scene.partners[chunk % (kStages + 1)], i, plan, work, list, chunk * kChunk + i);
  };
  const auto load = [&](int chunk) {
    if (chunk < chunks) {
      const int* const tokens = scene.partners[chunk % (kStages + 1)].token;
      const int stage = chunk % kStages;
      load_rows<S, kChunk>(tile(stage, 0), kOwnKeys ? q : k, tokens, batch, head, D, plan.aligned);
      load_rows<S, kChunk>(tile(stage, 1), kOwnKeys ? args.d_out : args.v, tokens, batch, head, D,
                           plan.aligned);
      if (kOwnKeys && threadIdx.x < kChunk) {
        const int token = tokens[threadIdx.x], bytes = token < 0 ? 0 : 4;
        const int64_t at = row0 + (token < 0 ? 0 : token);
        cp_async<4>(&scene.lse[stage][threadIdx.x], args.lse + at, bytes);
        cp_async<4>(&scene.delta[stage][threadIdx.x], delta + at, bytes);
      }
    }
    cp_async_commit_group();
  };
  for (int chunk = 0; chunk <= kAhead; ++chunk) look(chunk);
  __syncthreads();  // and nobody reads the own tiles any more
  load_rows<S, kOwn>(memory, kOwnKeys ? k : q, scene.own_token, batch, head, D, plan.aligned);
  if constexpr (kOwnTiles == 2) {
    load_rows<S, kOwn>(memory + S::kOwnElements, kOwnKeys ? args.v : args.d_out, scene.own_token,
                       batch, head, D, plan.aligned);
  }
  for (int chunk = 0; chunk < kAhead; ++chunk) load(chunk);
#pragma unroll 1
  for (int chunk = 0; chunk < chunks; ++chunk) {
    load(chunk + kAhead);
    look(chunk + kStages);
    cp_async_wait_group<kAhead>();
    __syncthreads();  // all threads' copies of this chunk are there
    if (chunk == 0) ready();
    const int stage = chunk % kStages;
    step(Chunk<S>{tile(stage, 0), tile(stage, 1), scene.partners[chunk % (kStages + 1)],
                  scene.lse[stage], scene.delta[stage]});
    __syncthreads();  // nobody reads what the next copies overwrite
  }
}

// Bit g: whether one of the warp's own rows sees one of the partners 16 g to 16 g + 15.
template <int kChunk>
__device__ unsigned seen_groups(const Partners<kChunk>& partners) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t mine = 0xffffu << warp % 2 * kWarpOwn;
  unsigned groups = 0;
#pragma unroll
  for (int first = 0; first < kChunk; first += 32) {
    const int i = first + lane;
    const bool seen = i < kChunk && (partners.visible[warp / 2][i] & mine) != 0;
    const unsigned lanes = __ballot_sync(kFullWarp, seen);
    groups |= static_cast<unsigned>((lanes & 0xffffu) != 0) << first / 16;
    groups |= static_cast<unsigned>((lanes >> 16) != 0) << (first / 16 + 1);
  }
  return groups;
}

// What the logits of a lane's two own rows need.
template <bool kOwnKeys>
struct Logits {
  const float* table;  // of the head, at the offset (0, 0)
  float slope, limit, scale;
  int at[2];  // of the own rows
  bool biased;

  __device__ Logits(const Args& args, const Plan& plan, const Work& work, const Lane& lane)
      : table(args.table), slope(0), limit(args.limit), scale(args.scale * kLog2e), biased(false) {
    const int64_t entries = (2 * args.reach_y + 1) * (2 * args.reach_x + 1);
    if (table != nullptr) table += work.head * entries + plan.center;
    if (args.slopes != nullptr) slope = args.slopes[work.head];
#pragma unroll
    for (int i = 0; i < 2; ++i)
      at[i] = own_at(plan, work.space, lane.warp * kWarpOwn + lane.row + 8 * i);
  }
  // key - query, counted as in Partners::at
  __device__ int offset(int partner_at, int i) const {
    return kOwnKeys ? at[i] - partner_at : partner_at - at[i];
  }
  // Products with the partners from `first` on to logits of base 2; -infinity where invisible.
  template <int kChunk>
  __device__ void finish(float (&products)[2][4], const Partners<kChunk>& partners, int first,
                         const Lane& lane) const {
    const int shift = lane.warp % 2 * kWarpOwn + lane.row;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int partner = first + 8 * n + 2 * lane.pair + j;
        const uint32_t visible = partners.visible[lane.warp / 2][partner] >> shift;
        const int partner_at = partners.at[partner];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& value = products[n][2 * i + j];
          const bool sees = (visible >> 8 * i & 1) != 0;
          value *= scale;
          if (biased && sees) {
            const int along = offset(partner_at, i);
            value +=
                kLog2e * (table != nullptr ? __ldg(table + along)
                                           : -slope * fminf(static_cast<float>(-along), limit));
          }
          if (!sees) value = -INFINITY;
        }
      }
    }
  }
};

}  // namespace lambda_attention
