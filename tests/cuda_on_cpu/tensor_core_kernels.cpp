// Each instruction of cuda_tensor_core.cuh by itself, with C names for ctypes.
// Reads with the host compiler over the emulator, and with nvcc -x cu.
#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <string>

#include "cuda_tensor_core.cuh"

using namespace cuda_common;

struct Arguments {
  const void *a, *b, *c;
  void* out;
  int blocks;
};

namespace {

// out [32, 18, 2]: rows and columns of a lane's elements of A, B and C and of its two quarter rows.
__global__ void places_kernel(int* out) {
  const int lane = threadIdx.x;
  for (int i = 0; i < 18; ++i) {
    const Place place = i < 8     ? place_in_a(lane, i)
                        : i < 12  ? place_in_b(lane, i - 8)
                        : i < 16  ? place_in_c(lane, i - 12)
                        : i == 16 ? quarters_down_first(lane)
                                  : quarters_across_first(lane);
    out[(lane * 18 + i) * 2] = place.row;
    out[(lane * 18 + i) * 2 + 1] = place.column;
  }
}

// One product a block, of fragments as they are: a [blocks, 32, 4], b [blocks, 32, 2],
// c and out [blocks, 32, 4].
template <typename operand_t>
__global__ void mma_kernel(const uint32_t* a, const uint32_t* b, const float* c, float* out) {
  const int64_t lane = blockIdx.x * 32 + threadIdx.x;
  uint32_t a_part[4], b_part[2];
  float sums[4];
  for (int i = 0; i < 4; ++i) a_part[i] = a[lane * 4 + i];
  for (int i = 0; i < 2; ++i) b_part[i] = b[lane * 2 + i];
  for (int i = 0; i < 4; ++i) sums[i] = c[lane * 4 + i];
  mma_m16n8k16<operand_t>(sums, a_part, b_part, sums);
  for (int i = 0; i < 4; ++i) out[lane * 4 + i] = sums[i];
}

constexpr int kRow = 24;  // elements from row to row: 48 bytes

// a [8 kMatrices, 8] -> out [32, kMatrices]
template <int kMatrices, bool kTransposed>
__global__ void ldmatrix_kernel(const uint16_t* a, uint32_t* out) {
  DYNAMIC_SHARED(uint16_t, rows);
  const int lane = threadIdx.x;
  for (int i = lane; i < 64 * kMatrices; i += 32) rows[i / 8 * kRow + i % 8] = a[i];
  __syncthreads();
  uint32_t r[kMatrices];
  const uint16_t* row = rows + lane % (8 * kMatrices) * kRow;
  if constexpr (kTransposed) {
    ldmatrix_trans(r, row);
  } else {
    ldmatrix(r, row);
  }
  for (int i = 0; i < kMatrices; ++i) out[lane * kMatrices + i] = r[i];
}

// Thread t copies kBytes, of which t % (kBytes + 1) are read; a and out [64, kBytes] bytes.
template <int kBytes>
__global__ void copies_kernel(const unsigned char* a, unsigned char* out) {
  DYNAMIC_SHARED(unsigned char, bytes);
  const int at = threadIdx.x * kBytes;
  cp_async<kBytes>(bytes + at, a + at, threadIdx.x % (kBytes + 1));
  cp_async_wait_all();
  __syncthreads();
  const int other = (63 - threadIdx.x) * kBytes;
  for (int i = 0; i < kBytes; ++i) out[other + i] = bytes[other + i];
}

using Runner = std::function<void(const Arguments&)>;

template <typename... Parameters, typename Run>
Runner runner(void (*kernel)(Parameters...), int threads, const Run& run) {
  return [=](const Arguments& given) {
    run(given, [=](auto... arguments) {
      launch(kernel, dim3(given.blocks), dim3(threads), 2048, nullptr, arguments...);
    });
  };
}

template <typename in_t, typename out_t>
Runner one_input(void (*kernel)(const in_t*, out_t*), int threads = 32) {
  return runner(kernel, threads, [](const Arguments& given, const auto& go) {
    go(static_cast<const in_t*>(given.a), static_cast<out_t*>(given.out));
  });
}

template <typename operand_t>
Runner mma() {
  return runner(mma_kernel<operand_t>, 32, [](const Arguments& given, const auto& go) {
    go(static_cast<const uint32_t*>(given.a), static_cast<const uint32_t*>(given.b),
       static_cast<const float*>(given.c), static_cast<float*>(given.out));
  });
}

const std::map<std::string, Runner>& runners() {
  static const std::map<std::string, Runner> table = {
      {"places",
       runner(places_kernel, 32,
              [](const Arguments& given, const auto& go) { go(static_cast<int*>(given.out)); })},
      {"mma float16", mma<__half>()},
      {"mma bfloat16", mma<__nv_bfloat16>()},
      {"ldmatrix x1", one_input(ldmatrix_kernel<1, false>)},
      {"ldmatrix x2", one_input(ldmatrix_kernel<2, false>)},
      {"ldmatrix x4", one_input(ldmatrix_kernel<4, false>)},
      {"ldmatrix x1 trans", one_input(ldmatrix_kernel<1, true>)},
      {"ldmatrix x2 trans", one_input(ldmatrix_kernel<2, true>)},
      {"ldmatrix x4 trans", one_input(ldmatrix_kernel<4, true>)},
      {"copies 4", one_input(copies_kernel<4>, 64)},
      {"copies 8", one_input(copies_kernel<8>, 64)},
      {"copies 16", one_input(copies_kernel<16>, 64)},
  };
  return table;
}

}  // namespace

// Returns 0, or 1 with the reason in `error`.
extern "C" int tensor_core_run(const char* name, const Arguments* given, uint64_t seed, char* error,
                               uint64_t size) {
#ifdef CUDA_ON_CPU
  emulator::settings().seed = seed;
#else
  static_cast<void>(seed);
#endif
  try {
    runners().at(name)(*given);
    return 0;
  } catch (const std::exception& e) {
    std::snprintf(error, size, "%s", e.what());
    return 1;
  }
}
