// Tiles of rows in shared memory, and a warp's matrix products of 16 own rows with 16 partners: by
// tensor cores for 16-bit types, for float by plain multiply-adds in the same layout of scores.
#pragma once
#include "lambda_attention_geometry.cuh"

namespace lambda_attention {

// Sizes for one type and head size; smaller heads are filled up with zeros.
template <typename scalar_type, int kHead>
struct Shape {
  using scalar_t = scalar_type;
  static constexpr bool kHalf = sizeof(scalar_t) == 2;
  static constexpr int kD = kHead;
  static constexpr int kVec = 16 / sizeof(scalar_t), kPieces = kD / kVec;
  static constexpr int kPitch = kD + kVec;  // so that eight rows lie in different banks
  // Partners of a step. Tiles and tables must fit the 99 KiB that every GPU gives a block.
  static constexpr int kChunk = kHalf ? (kD <= 64 ? 64 : 32) : (kD <= 96 ? 32 : 16);
  static constexpr int kStages = kHalf ? 2 : 1;
  static constexpr int kOwnElements = kOwn * kPitch, kChunkElements = kChunk * kPitch;
  __host__ __device__ static constexpr int elements(int own) {
    return own * kOwnElements + 2 * kStages * kChunkElements;
  }
};

struct Lane {
  int warp, row, pair;  // its rows are `row` and `row` + 8 of the warp's, its keys 2 pair + {0, 1}
  __device__ Lane() : warp(threadIdx.x / 32), row(threadIdx.x % 32 / 4), pair(threadIdx.x % 4) {}
};

// Starts the copy of kRows rows of one batch and head; zeros for token -1 and behind D.
template <typename S, int kRows>
__device__ void load_rows(typename S::scalar_t* tile, const Rows& rows, const int* tokens,
                          int64_t batch, int64_t head, int D, bool aligned) {
  using scalar_t = typename S::scalar_t;
  const auto from = static_cast<const scalar_t*>(rows.data) + batch * rows.batch + head * rows.head;
#pragma unroll 4
  for (int i = threadIdx.x; i < kRows * S::kPieces; i += kThreads) {
    const int row = i / S::kPieces, column = i % S::kPieces * S::kVec;
    const int token = tokens[row];
    const bool some = token >= 0 && column < D;
    const scalar_t* const p = some ? from + token * rows.token + column : from;
    scalar_t* const to = tile + row * S::kPitch + column;
    if (aligned) {
      cp_async<16>(to, p, some ? 16 : 0);
    } else {
      *reinterpret_cast<Vec<scalar_t>*>(to) = load_vec(p, some ? S::kVec : 0, false);
    }
  }
}

// The operand of a warp's 16 own rows. kHeld: tensor cores' fragments stay in registers.
template <typename S, bool kHeld>
struct Operand {
  using scalar_t = typename S::scalar_t;
  static constexpr bool kInRegisters = kHeld && S::kHalf;
  const scalar_t* rows;
  uint32_t held[kInRegisters ? S::kD / 16 : 1][4];

  __device__ void load(uint32_t (&a)[4], int k) const {
    const Place place = quarters_down_first(threadIdx.x % 32);
    ldmatrix(a, rows + place.row * S::kPitch + k * 16 + place.column);
  }
  __device__ void take(const scalar_t* own) {
    rows = own + threadIdx.x / 32 * kWarpOwn * S::kPitch;
    if constexpr (kInRegisters) {
#pragma unroll
      for (int k = 0; k < S::kD / 16; ++k) load(held[k], k);
    }
  }
  __device__ void part(uint32_t (&a)[4], int k) const {
    if constexpr (kInRegisters) {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = held[k][i];
    } else {
      load(a, k);
    }
  }
};

__device__ inline uint32_t pack(float low, float high, __half) {
  const __half2 two = __floats2half2_rn(low, high);
  uint32_t bits;
  std::memcpy(&bits, &two, 4);
  return bits;
}
__device__ inline uint32_t pack(float low, float high, __nv_bfloat16) {
  const __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  std::memcpy(&bits, &two, 4);
  return bits;
}

// products[n][i] += <own row, partner row>: own rows row + i / 2 * 8, partners 8 n + 2 pair + i
// % 2.
template <typename S, bool kHeld>
__device__ void add_products(float (&products)[2][4], const Operand<S, kHeld>& own,
                             const typename S::scalar_t* partners) {
  if constexpr (S::kHalf) {
    const Place place = quarters_across_first(threadIdx.x % 32);
    const auto* const from = partners + place.row * S::kPitch + place.column;
#pragma unroll
    for (int k = 0; k < S::kD / 16; ++k) {
      uint32_t a[4], b[4];
      own.part(a, k);
      ldmatrix(b, from + k * 16);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const uint32_t columns[2] = {b[2 * n], b[2 * n + 1]};
        mma_m16n8k16<typename S::scalar_t>(products[n], a, columns, products[n]);
      }
    }
  } else {
    const Lane lane;
    const float* const a = own.rows + lane.row * S::kPitch;
    const float* const b = partners + 2 * lane.pair * S::kPitch;
#pragma unroll 2
    for (int d = 0; d < S::kD; d += 4) {
      float4 rows[2], columns[4];
#pragma unroll
      for (int i = 0; i < 2; ++i)
        rows[i] = *reinterpret_cast<const float4*>(a + i * 8 * S::kPitch + d);
#pragma unroll
      for (int j = 0; j < 4; ++j)
        columns[j] = *reinterpret_cast<const float4*>(b + (j / 2 * 8 + j % 2) * S::kPitch + d);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          float& sum = products[j / 2][i * 2 + j % 2];
          sum += rows[i].x * columns[j].x;
          sum += rows[i].y * columns[j].y;
          sum += rows[i].z * columns[j].z;
          sum += rows[i].w * columns[j].w;
        }
      }
    }
  }
}

// The column of a sum's elements 0 and 2; 1 and 3 are to its right.
template <typename S>
__device__ int column_of(int n, const Lane& lane) {
  return S::kHalf ? n * 8 + lane.pair * 2 : n / 2 * 16 + lane.pair * 4 + n % 2 * 2;
}

// sums[n][i] += sum over 16 partners of weights[., partner] rows[partner, .]: own row row + i / 2
// * 8.
template <typename S>
__device__ void add_weighted(float (&sums)[S::kD / 8][4], const float (&weights)[2][4],
                             const typename S::scalar_t* partners) {
  using scalar_t = typename S::scalar_t;
  if constexpr (S::kHalf) {
    const Place place = quarters_down_first(threadIdx.x % 32);
    const auto* const from = partners + place.row * S::kPitch + place.column;
    uint32_t a[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int first = i % 2 * 2;
      a[i] = pack(weights[i / 2][first], weights[i / 2][first + 1], scalar_t{});
    }
#pragma unroll
    for (int n = 0; n < S::kD / 8; n += 2) {
      uint32_t b[4];
      ldmatrix_trans(b, from + n * 8);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t columns[2] = {b[2 * half], b[2 * half + 1]};
        mma_m16n8k16<scalar_t>(sums[n + half], a, columns, sums[n + half]);
      }
    }
  } else {
    const Lane lane;
    const float* const from = partners + 4 * lane.pair;
    const int first = threadIdx.x % 32 - lane.pair;  // lane of the row's first scores
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      float weight[2];
#pragma unroll
      for (int i = 0; i < 2; ++i)
        weight[i] = __shfl_sync(kFullWarp, weights[j / 8][i * 2 + j % 2], first + j % 8 / 2);
#pragma unroll
      for (int n = 0; n < S::kD / 8; n += 2) {
        const float4 v = *reinterpret_cast<const float4*>(from + j * S::kPitch + n * 8);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          sums[n][i * 2] += weight[i] * v.x;
          sums[n][i * 2 + 1] += weight[i] * v.y;
          sums[n + 1][i * 2] += weight[i] * v.z;
          sums[n + 1][i * 2 + 1] += weight[i] * v.w;
        }
      }
    }
  }
}

// Writes a warp's sums times the factors of the lane's two rows to a dense result [B, tokens,
// heads, D], through the warp's part of an own tile that nobody reads any more.
template <typename S>
__device__ void store_rows(void* result, int64_t tokens, const float (&sums)[S::kD / 8][4],
                           float factor0, float factor1, typename S::scalar_t* own,
                           const int* own_tokens, const Args& args, int64_t batch, int64_t head) {
  using scalar_t = typename S::scalar_t;
  const Lane lane;
  scalar_t* const staged = own + lane.warp * kWarpOwn * S::kPitch;
  scalar_t* const to =
      static_cast<scalar_t*>(result) + (batch * tokens * args.heads + head) * args.D;
  __syncwarp();
#pragma unroll
  for (int n = 0; n < S::kD / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float factor = i == 0 ? factor0 : factor1;
      scalar_t* const p = staged + (lane.row + 8 * i) * S::kPitch + column_of<S>(n, lane);
      const float low = sums[n][2 * i] * factor, high = sums[n][2 * i + 1] * factor;
      if constexpr (S::kHalf) {
        *reinterpret_cast<uint32_t*>(p) = pack(low, high, scalar_t{});
      } else {
        *reinterpret_cast<float2*>(p) = {low, high};
      }
    }
  }
  __syncwarp();
  for (int i = threadIdx.x % 32; i < kWarpOwn * S::kPieces; i += 32) {
    const int row = i / S::kPieces, column = i % S::kPieces * S::kVec;
    const int token = own_tokens[lane.warp * kWarpOwn + row];
    if (token < 0 || token >= tokens || column >= args.D) continue;
    store_16_bytes(to + token * args.heads * args.D + column,
                   *reinterpret_cast<const uint4*>(staged + row * S::kPitch + column));
  }
  __syncwarp();
}

// Writes a warp's sums to rows [., pitch] of the workspace; row -1 and columns from D on are left.
template <typename S>
__device__ void store_part(float* part, int64_t pitch, const float (&sums)[S::kD / 8][4],
                           const int* own_tokens, int D) {
  const Lane lane;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int token = own_tokens[lane.warp * kWarpOwn + lane.row + 8 * i];
    if (token < 0) continue;
    float* const row = part + token * pitch;
#pragma unroll
    for (int n = 0; n < S::kD / 8; ++n) {
      const int column = column_of<S>(n, lane);
      if (column >= D) continue;
      row[column] = sums[n][2 * i];
      row[column + 1] = sums[n][2 * i + 1];
    }
  }
}

}  // namespace lambda_attention
