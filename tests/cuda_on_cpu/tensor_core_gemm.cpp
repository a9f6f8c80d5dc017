// A small tiled product: the pipeline of cp.async, ldmatrix and mma in the form that kernels use.
// Reads with the host compiler over the emulator, and with nvcc -x cu.
#include <cstdio>
#include <exception>
#include <stdexcept>

#include "cuda_tensor_core.cuh"

using namespace cuda_common;

struct Product {
  const void *a, *b;  // [m, k] of pitch a_pitch, [k, n] of pitch b_pitch
  float* c;           // [m, n], dense
  int m, n, k, a_pitch, b_pitch;
};

namespace {

constexpr int kTile = 32;          // rows and columns of all tiles
constexpr int kPitch = kTile + 8;  // elements a row, so that eight rows lie in different banks
constexpr int kThreads = 128;      // four warps, each 16 by 16 of the result

// Starts the copies of one tile; what lies beyond the matrix becomes zero.
template <typename operand_t, int kBytes>
__device__ void load_tile(operand_t* tile, const operand_t* matrix, int pitch, int rows,
                          int columns, int first_row, int first_column) {
  constexpr int kElements = kBytes / 2, kPieces = kTile / kElements;
  for (int i = threadIdx.x; i < kTile * kPieces; i += kThreads) {
    const int row = i / kPieces, column = i % kPieces * kElements;
    const int left = columns - first_column - column;
    const int count = first_row + row >= rows || left < 0 ? 0 : left < kElements ? left : kElements;
    const int64_t offset = int64_t{first_row + row} * pitch + first_column + column;
    cp_async<kBytes>(tile + row * kPitch + column, matrix + (count > 0 ? offset : 0), count * 2);
  }
}

// grid:  one block per tile of c
// block: 128 threads; the tiles of a and b of one stage are copied while those before are used
template <typename operand_t, int kBytes>
__global__ void __launch_bounds__(kThreads) gemm_kernel(Product p) {
  DYNAMIC_SHARED(operand_t, tiles);  // two of a, two of b
  const auto a = static_cast<const operand_t*>(p.a);
  const auto b = static_cast<const operand_t*>(p.b);
  const int row = blockIdx.y * kTile, column = blockIdx.x * kTile;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp / 2 * 16, warp_column = warp % 2 * 16;
  const Place quarter = quarters_down_first(lane);
  const int stages = (p.k + kTile - 1) / kTile;
  float sums[2][4] = {};

  const auto tile = [&](int operand, int stage) {
    return tiles + (operand * 2 + stage % 2) * kTile * kPitch;
  };
  const auto load = [&](int stage) {
    load_tile<operand_t, kBytes>(tile(0, stage), a, p.a_pitch, p.m, p.k, row, stage * kTile);
    load_tile<operand_t, kBytes>(tile(1, stage), b, p.b_pitch, p.k, p.n, stage * kTile, column);
  };

  load(0);
  cp_async_commit_group();
  for (int stage = 0; stage < stages; ++stage) {
    if (stage + 1 < stages) load(stage + 1);
    cp_async_commit_group();
    cp_async_wait_group<1>();
    __syncthreads();  // every thread's copies of this stage are there
    const operand_t* a_tile = tile(0, stage) + (warp_row + quarter.row) * kPitch + quarter.column;
    const operand_t* b_tile = tile(1, stage) + quarter.row * kPitch + warp_column + quarter.column;
#pragma unroll
    for (int k = 0; k < kTile; k += 16) {
      uint32_t a_part[4], b_part[4];
      ldmatrix(a_part, a_tile + k);
      ldmatrix_trans(b_part, b_tile + k * kPitch);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t b_half[2] = {b_part[2 * half], b_part[2 * half + 1]};
        mma_m16n8k16<operand_t>(sums[half], a_part, b_half, sums[half]);
      }
    }
    __syncthreads();  // no thread still reads what the next copies overwrite
  }

#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const Place place = place_in_c(lane, i % 4);
    const int r = row + warp_row + place.row;
    const int c = column + warp_column + i / 4 * 8 + place.column;
    if (r < p.m && c < p.n) p.c[int64_t{r} * p.n + c] = sums[i / 4][i % 4];
  }
}

template <typename operand_t>
void gemm(const Product& p) {
  const dim3 grid(static_cast<unsigned>((p.n + kTile - 1) / kTile),
                  static_cast<unsigned>((p.m + kTile - 1) / kTile));
  const size_t bytes = 4 * kTile * kPitch * sizeof(operand_t);
  const int pitches = p.a_pitch | p.b_pitch;
  if (pitches % 2 != 0) throw std::invalid_argument("pitches must be even");
  const auto kernel = pitches % 8 == 0   ? gemm_kernel<operand_t, 16>
                      : pitches % 4 == 0 ? gemm_kernel<operand_t, 8>
                                         : gemm_kernel<operand_t, 4>;
  launch(kernel, grid, dim3(kThreads), bytes, nullptr, p);
}

}  // namespace

// Returns 0, or 1 with the reason in `error`.
extern "C" int tensor_core_gemm(const Product* p, bool half, uint64_t seed, char* error,
                                uint64_t size) {
#ifdef CUDA_ON_CPU
  emulator::settings().seed = seed;
#else
  static_cast<void>(seed);
#endif
  try {
    half ? gemm<__half>(*p) : gemm<__nv_bfloat16>(*p);
    return 0;
  } catch (const std::exception& e) {
    std::snprintf(error, size, "%s", e.what());
    return 1;
  }
}
