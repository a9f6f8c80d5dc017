// Kernels that merge partial statistics of ibn_norm, in a fixed order.
#pragma once
#include "ibn_norm_math.cuh"

namespace ibn_norm {

constexpr int kTileChannels = 8, kTileThreads = 64;  // of a block

// Partial results of one kind: groups take `per_group` slots each from `begin` on; none is 0.
struct Slots {
  int64_t begin, per_group, end;
};

// Merges over the threads of one channel of a (kTileChannels, kTileThreads) block; all get the
// result.
template <typename T>
__device__ T tile_merge(T part) {
  constexpr int kWarps = kTileChannels * kTileThreads / 32;
  SHARED_ARRAY(T, warps, kWarps * kTileChannels);
  part = warp_merge(part, kTileChannels);
  const int thread = threadIdx.y * kTileChannels + threadIdx.x;
  if (thread % 32 < kTileChannels) warps[thread / 32 * kTileChannels + threadIdx.x] = part;
  __syncthreads();
  part = warps[threadIdx.x];
  for (int i = 1; i < kWarps; ++i) part = merge(part, warps[i * kTileChannels + threadIdx.x]);
  return part;
}

// What one thread of a merging kernel works on, and the merged slots of its group.
template <typename acc_t, typename T>
struct Merged {
  int64_t c, group;
  bool exists, split;  // the group exists; it has partial results
  T value;

  __device__ Merged(const Args& args, const Slots& instance, const Slots& batch,
                    const Workspace<acc_t>& workspace, bool wanted_without_data) {
    const auto by_tile = divide(blockIdx.x, (args.C + kTileChannels - 1) / kTileChannels);
    c = by_tile.remainder * kTileChannels + threadIdx.x;
    group = by_tile.quotient;
    exists = c < args.C && group < groups_of(args, c);
    split = false;
    T part = {};
    if (exists) {
      const Slots slots = is_instance(args, c) ? instance : batch;
      split = slots.per_group > 0 && (wanted_without_data || from_data(args, c));
      const int64_t begin = slots.begin + group * slots.per_group;
      const int64_t end = split ? smaller(begin + slots.per_group, slots.end) : begin;
#pragma unroll 4
      for (int64_t slot = begin + threadIdx.y; slot < end; slot += kTileThreads) {
        T next;
        workspace.read(slot * args.C + c, next);
        part = merge(part, next);
      }
    }
    value = tile_merge(part);
  }
};

// grid:  one block a (tile of channels, group); writes mean and var of split groups and of channels
// that take the running statistics, for every image of the group
// SASS: no local memory
template <typename acc_t>
__global__ void __launch_bounds__(kTileChannels* kTileThreads)
    ibn_norm_forward_merge_kernel(const __grid_constant__ Args args,
                                  const __grid_constant__ Slots instance,
                                  const __grid_constant__ Slots batch,
                                  const __grid_constant__ Workspace<acc_t> workspace) {
  const Merged<acc_t, Moments<acc_t>> merged(args, instance, batch, workspace, false);
  if (!merged.exists) return;
  acc_t mean, var;
  if (merged.split) {
    mean = merged.value.mean;
    var = merged.value.m2 / merged.value.count;
    if (threadIdx.y == 0) move_channel(args, merged.c, mean, var);
  } else if (!from_data(args, merged.c)) {
    const int64_t index = parameter_index(args, merged.c);
    mean = static_cast<acc_t*>(args.running_mean)[index];
    var = static_cast<acc_t*>(args.running_var)[index];
  } else {
    return;
  }
  const int64_t images = group_images(args, merged.c);
  const int64_t end = smaller(args.N, (merged.group + 1) * images);
  for (int64_t n = merged.group * images + threadIdx.y; n < end; n += kTileThreads) {
    static_cast<acc_t*>(args.mean)[n * args.C + merged.c] = mean;
    static_cast<acc_t*>(args.var)[n * args.C + merged.c] = var;
  }
}

// Grid as above; finishes the sums of split groups.
// SASS: no local memory
template <typename acc_t>
__global__ void __launch_bounds__(kTileChannels* kTileThreads)
    ibn_norm_backward_merge_kernel(const __grid_constant__ Args args,
                                   const __grid_constant__ Slots instance,
                                   const __grid_constant__ Slots batch,
                                   const __grid_constant__ Workspace<acc_t> workspace) {
  const Merged<acc_t, Sums<acc_t>> merged(args, instance, batch, workspace, true);
  if (!merged.split || threadIdx.y != 0) return;
  workspace.sum_g[merged.group * args.C + merged.c] = merged.value.g;
  workspace.sum_gx[merged.group * args.C + merged.c] = merged.value.gx;
}

// grid:  one block a tile of channels; parameter gradients are the sums over all groups, in a fixed
// order
// SASS: no local memory
template <typename acc_t>
__global__ void __launch_bounds__(kTileChannels* kTileThreads)
    ibn_norm_backward_parameters_kernel(const __grid_constant__ Args args,
                                        const __grid_constant__ Workspace<acc_t> workspace) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kTileChannels + threadIdx.x;
  Sums<acc_t> total = {0, 0};
  if (c < args.C) {
    const int64_t groups = groups_of(args, c);
    for (int64_t group = threadIdx.y; group < groups; group += kTileThreads) {
      total = merge(total, workspace.sums(group * args.C + c));
    }
  }
  total = tile_merge(total);
  if (c >= args.C || threadIdx.y != 0) return;
  const bool instance = is_instance(args, c);
  const int64_t index = parameter_index(args, c);
  const auto d_weight = static_cast<acc_t*>(instance ? args.d_in_weight : args.d_bn_weight);
  const auto d_bias = static_cast<acc_t*>(instance ? args.d_in_bias : args.d_bn_bias);
  if (d_weight != nullptr) d_weight[index] = total.gx;
  if (d_bias != nullptr) d_bias[index] = total.g;
}

}  // namespace ibn_norm
