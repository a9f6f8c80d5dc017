// Tensor cores and asynchronous copies (sm_80 and newer), each a thin name for one PTX instruction.
// With CUDA_ON_CPU tests/cuda_on_cpu/tensor_core.h supplies the same names by the layouts below.
//
// Layouts: PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type" and "ldmatrix".
// A fragment register holds two neighbouring elements: element i is half i % 2 of register i / 2.
#pragma once
#include "cuda_common.cuh"

namespace cuda_common {

struct Place {
  int row, column;
};

// Where element i of a lane's fragment lies in A [16, 16], i < 8.
__host__ __device__ constexpr Place place_in_a(int lane, int i) {
  return {lane / 4 + i / 2 % 2 * 8, lane % 4 * 2 + i % 2 + i / 4 * 8};
}
// In B [16, 8], i < 4.
__host__ __device__ constexpr Place place_in_b(int lane, int i) {
  return {lane % 4 * 2 + i % 2 + i / 2 * 8, lane / 4};
}
// In C and D [16, 8], i < 4.
__host__ __device__ constexpr Place place_in_c(int lane, int i) {
  return {lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2};
}

// The row of a 16 by 16 tile that a lane hands to ldmatrix x4, by its first element. Down first:
// registers 0 to 3 are the top left, bottom left, top right and bottom right quarter. A stored
// [m, k] becomes its fragment; with ldmatrix_trans, B stored [k, n] becomes the fragments of
// columns 0-7 (registers 0, 1) and 8-15 (2, 3). The first 16 lanes' places serve x2.
__host__ __device__ constexpr Place quarters_down_first(int lane) {
  return {lane % 16, lane / 16 * 8};
}
// Across first: top left, top right, bottom left, bottom right. B stored [n, k] becomes the
// fragments of columns 0-7 and 8-15.
__host__ __device__ constexpr Place quarters_across_first(int lane) {
  return {lane % 8 + lane / 16 * 8, lane / 8 % 2 * 8};
}

}  // namespace cuda_common

#ifdef CUDA_ON_CPU
#include "tensor_core.h"
#else

namespace cuda_common {

// d = a b + c for a warp, of which all lanes take part: operand_t A [16, 16] and B [16, 8], float C
// and D [16, 8].
template <typename operand_t>
__device__ inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                    const float (&c)[4]);

#define MMA_M16N8K16(operand_t, type)                                                           \
  template <>                                                                                   \
  __device__ inline void mma_m16n8k16<operand_t>(float (&d)[4], const uint32_t (&a)[4],         \
                                                 const uint32_t (&b)[2], const float (&c)[4]) { \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                         \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"     \
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])                               \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), \
                   "f"(c[1]), "f"(c[2]), "f"(c[3]));                                            \
  }
MMA_M16N8K16(__half, "f16")
MMA_M16N8K16(__nv_bfloat16, "bf16")
#undef MMA_M16N8K16

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// ldmatrix loads one, two or four 8 by 8 matrices of 16-bit elements for a warp: lane 8 m + r hands
// in row r of matrix m, 16 aligned bytes of shared memory; register m of a lane receives the
// elements (lane / 4, lane % 4 * 2 + {0, 1}) of matrix m. ldmatrix_trans does it with each matrix
// transposed: a lane receives the elements (lane % 4 * 2 + {0, 1}, lane / 4).
#define LDMATRIX(name, trans)                                                                  \
  template <int kMatrices>                                                                     \
  __device__ inline void name(uint32_t (&r)[kMatrices], const void* row) {                     \
    static_assert(kMatrices == 1 || kMatrices == 2 || kMatrices == 4);                         \
    const uint32_t address = shared_address(row);                                              \
    if constexpr (kMatrices == 1) {                                                            \
      asm volatile("ldmatrix.sync.aligned.m8n8.x1" trans ".shared.b16 {%0}, [%1];"             \
                   : "=r"(r[0])                                                                \
                   : "r"(address)                                                              \
                   : "memory");                                                                \
    } else if constexpr (kMatrices == 2) {                                                     \
      asm volatile("ldmatrix.sync.aligned.m8n8.x2" trans ".shared.b16 {%0, %1}, [%2];"         \
                   : "=r"(r[0]), "=r"(r[1])                                                    \
                   : "r"(address)                                                              \
                   : "memory");                                                                \
    } else {                                                                                   \
      asm volatile("ldmatrix.sync.aligned.m8n8.x4" trans ".shared.b16 {%0, %1, %2, %3}, [%4];" \
                   : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])                            \
                   : "r"(address)                                                              \
                   : "memory");                                                                \
    }                                                                                          \
  }
LDMATRIX(ldmatrix, "")
LDMATRIX(ldmatrix_trans, ".trans")
#undef LDMATRIX

// Starts a copy of kBytes (4, 8 or 16; both addresses are multiples of it) from global to shared
// memory; of the source only the first source_bytes are read, zeros take the place of the others.
// `to` may be used, by the thread that copies, after the wait that covers the copy's group; by
// other threads after a barrier behind that wait.
template <int kBytes>
__device__ inline void cp_async(void* to, const void* from, int source_bytes = kBytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  const auto source = __cvta_generic_to_global(from);
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(source), "r"(source_bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)),
                 "l"(source), "n"(kBytes), "r"(source_bytes)
                 : "memory");
  }
}

// Makes one group, perhaps an empty one, of the thread's copies since its last commit.
__device__ inline void cp_async_commit_group() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most kPending of the thread's latest groups are under way.
template <int kPending>
__device__ inline void cp_async_wait_group() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Waits for all of the thread's copies, committed or not.
__device__ inline void cp_async_wait_all() { asm volatile("cp.async.wait_all;" ::: "memory"); }

}  // namespace cuda_common

#endif
