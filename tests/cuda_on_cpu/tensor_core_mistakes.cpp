// What only the emulator shows: when copies arrive, and misuses of the instructions.
#include <cstdio>
#include <exception>
#include <map>
#include <string>

#include "cuda_tensor_core.cuh"

using namespace cuda_common;

namespace {

// What of four copied words is there after each step; the fourth is not committed.
__global__ void groups_kernel(const uint32_t* a, uint32_t* out) {
  DYNAMIC_SHARED(uint32_t, words);
  for (int i = 0; i < 4; ++i) {
    cp_async<4>(words + i, a + i);
    if (i < 3) cp_async_commit_group();
  }
  const auto show = [&](int step) {
    for (int i = 0; i < 4; ++i) out[step * 4 + i] = words[i];
  };
  show(0);
  cp_async_wait_group<1>();
  show(1);
  cp_async_commit_group();
  cp_async_commit_group();  // empty, and yet the latest
  cp_async_wait_group<2>();
  show(2);
  cp_async_wait_group<1>();
  show(3);
  cp_async<4>(words, a + 4);
  cp_async_wait_group<0>();
  show(4);
  cp_async_wait_all();
  show(5);
}

// A copy left under way must not reach the next block.
__global__ void abandoned_kernel(const uint32_t* a, uint32_t* out) {
  DYNAMIC_SHARED(uint32_t, words);
  if (blockIdx.x == 0) cp_async<4>(words, a);
  cp_async_commit_group();
  if (blockIdx.x == 1) {
    cp_async_wait_all();
    out[0] = words[0];
  }
}

enum class Mistake {
  none,
  ldmatrix_alignment,
  ldmatrix_place,
  ldmatrix_end,
  ldmatrix_lanes,
  ldmatrix_order,
  mma_lanes,
  copy_from_alignment,
  copy_to_alignment,
  copy_place,
  copy_end,
  copy_source,
  copy_size
};

template <Mistake kMistake>
__global__ void mistake_kernel(const uint32_t* a, uint32_t* out) {
  DYNAMIC_SHARED(unsigned char, bytes);  // 64 rows of 16
  unsigned char* const own = bytes + threadIdx.x * 16;
  uint32_t r[4] = {}, b[2] = {};
  float sums[4] = {};
  if constexpr (kMistake == Mistake::ldmatrix_alignment) ldmatrix(r, own + 8);
  if constexpr (kMistake == Mistake::ldmatrix_place) ldmatrix(r, a);
  if constexpr (kMistake == Mistake::ldmatrix_end) ldmatrix(r, own + 33 * 16);
  if constexpr (kMistake == Mistake::ldmatrix_lanes) {
    if (threadIdx.x != 9) ldmatrix(r, own);
  }
  if constexpr (kMistake == Mistake::ldmatrix_order || kMistake == Mistake::none) {
    const int other = threadIdx.x ^ 1;
    for (int i = 0; i < 4; ++i) reinterpret_cast<uint32_t*>(bytes)[other * 4 + i] = threadIdx.x;
    if constexpr (kMistake == Mistake::none) __syncwarp();
    ldmatrix(r, own);
  }
  if constexpr (kMistake == Mistake::mma_lanes) {
    if (threadIdx.x < 16) mma_m16n8k16<__half>(sums, r, b, sums);
  }
  if constexpr (kMistake == Mistake::copy_from_alignment) cp_async<8>(own, a + 1);
  if constexpr (kMistake == Mistake::copy_to_alignment) cp_async<16>(own + 8, a);
  if constexpr (kMistake == Mistake::copy_place) cp_async<4>(out, a);
  if constexpr (kMistake == Mistake::copy_end) cp_async<8>(bytes + 64 * 16, a);
  if constexpr (kMistake == Mistake::copy_source) cp_async<4>(own, bytes);
  if constexpr (kMistake == Mistake::copy_size) cp_async<4>(own, a, 5);
  cp_async_wait_all();
  out[threadIdx.x] = r[0] + static_cast<uint32_t>(sums[0]);
}

using Kernel = void (*)(const uint32_t*, uint32_t*);

struct Row {
  Kernel kernel;
  int blocks, threads;
};

const std::map<std::string, Row> kRows = {
    {"groups", {groups_kernel, 1, 1}},
    {"abandoned", {abandoned_kernel, 2, 1}},
    {"ldmatrix alignment", {mistake_kernel<Mistake::ldmatrix_alignment>, 1, 32}},
    {"ldmatrix place", {mistake_kernel<Mistake::ldmatrix_place>, 1, 32}},
    {"ldmatrix end", {mistake_kernel<Mistake::ldmatrix_end>, 1, 32}},
    {"ldmatrix lanes", {mistake_kernel<Mistake::ldmatrix_lanes>, 1, 32}},
    {"ldmatrix order", {mistake_kernel<Mistake::ldmatrix_order>, 1, 32}},
    {"ldmatrix in order", {mistake_kernel<Mistake::none>, 1, 32}},
    {"ldmatrix of a short warp", {mistake_kernel<Mistake::none>, 1, 48}},
    {"mma lanes", {mistake_kernel<Mistake::mma_lanes>, 1, 32}},
    {"copy from alignment", {mistake_kernel<Mistake::copy_from_alignment>, 1, 32}},
    {"copy to alignment", {mistake_kernel<Mistake::copy_to_alignment>, 1, 32}},
    {"copy place", {mistake_kernel<Mistake::copy_place>, 1, 32}},
    {"copy end", {mistake_kernel<Mistake::copy_end>, 1, 32}},
    {"copy source", {mistake_kernel<Mistake::copy_source>, 1, 32}},
    {"copy size", {mistake_kernel<Mistake::copy_size>, 1, 32}},
};

}  // namespace

// Returns 0, or 1 with the reason in `error`.
extern "C" int tensor_core_mistake(const char* name, const uint32_t* a, uint32_t* out,
                                   uint64_t seed, char* error, uint64_t size) {
  emulator::settings().seed = seed;
  try {
    const Row& row = kRows.at(name);
    launch(row.kernel, dim3(row.blocks), dim3(row.threads), 1024, nullptr, a, out);
    return 0;
  } catch (const std::exception& e) {
    std::snprintf(error, size, "%s", e.what());
    return 1;
  }
}
