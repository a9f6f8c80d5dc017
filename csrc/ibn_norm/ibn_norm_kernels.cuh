// Who does what, and the launches of ibn_norm. Contract: ibnvision/ops/ibn_norm.py.
#pragma once
#include <algorithm>
#include <type_traits>

#include "ibn_norm_merge.cuh"
#include "ibn_norm_planes.cuh"
#include "ibn_norm_rows.cuh"

namespace ibn_norm {

constexpr int64_t kSplitVectors = 2048;  // chunk of a split group

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline bool is_empty(const Args& args) { return args.N == 0 || args.C == 0 || args.S == 0; }

struct Plan {
  int64_t row_vectors;
  Planes instance, batch;  // [N, C, S]
  Rows rows;               // [N, S, C]
  int width;               // vectors of a tile of channels
  Slots instance_slots, batch_slots;
  int64_t slots, sum_groups;
};

inline bool all_aligned(const Args& args) {
  uintptr_t bits = 0;
  for (const void* p :
       {args.x, args.residual, args.dy, static_cast<const void*>(args.y),
        static_cast<const void*>(args.dx), static_cast<const void*>(args.d_residual)}) {
    bits |= reinterpret_cast<uintptr_t>(p);
  }
  return bits % 16 == 0;
}

template <typename scalar_t>
void plan_planes(const Args& args, bool backward, Plan& plan) {
  const int64_t batch_channels = args.C - args.instance_channels;
  const bool aligned = all_aligned(args) && args.S % Vec<scalar_t>::kSize == 0;
  const int64_t held = shared_bytes_for_two() / (backward ? 32 : 16);  // vectors, of x and dy
  const auto kind = [&](int64_t first, int64_t channels, int64_t images, bool can_be_whole,
                        Slots& slots) {
    const int64_t vectors = images * plan.row_vectors;
    const bool whole = can_be_whole && vectors <= held;
    const int64_t chunk_vectors = whole ? vectors : kSplitVectors;
    const int64_t chunks = ceil_div(vectors, chunk_vectors);
    const int64_t groups = ceil_div(args.N, images);
    const int64_t begin = plan.slots;
    if (channels > 0 && !whole) plan.slots += groups * chunks;
    slots = {begin, plan.slots > begin ? chunks : 0, plan.slots};
    const int team = !whole                  ? 256
                     : chunk_vectors <= 256  ? 32
                     : chunk_vectors <= 2048 ? 128
                                             : kLargestTeam;
    return Planes{.first = first,
                  .channels = channels,
                  .images = images,
                  .groups = groups,
                  .row_vectors = plan.row_vectors,
                  .chunks = chunks,
                  .chunk_vectors = chunk_vectors,
                  .slot = begin,
                  .step_rows = team / plan.row_vectors,
                  .step_vectors = team % plan.row_vectors,
                  .team = team,
                  .aligned = aligned};
  };
  plan.instance = kind(args.instance_last ? batch_channels : 0, args.instance_channels, 1, true,
                       plan.instance_slots);
  plan.batch = kind(args.instance_last ? 0 : args.instance_channels, batch_channels,
                    args.batch_group, args.batch_stats, plan.batch_slots);
}

template <typename scalar_t>
void plan_rows(const Args& args, Plan& plan) {
  constexpr int64_t kBlocks = 2048;       // enough to fill a device several times
  plan.width = 8 / Vec<scalar_t>::kSize;  // the lanes of a mask byte stay side by side
  while (plan.width < 32 && plan.width < plan.row_vectors) plan.width *= 2;
  Rows& rows = plan.rows;
  rows.tiles = ceil_div(plan.row_vectors, plan.width);
  const int64_t least_rows = kRowsBlock / plan.width * kRowsAtOnce;
  rows.chunks =
      std::max<int64_t>(1, std::min(ceil_div(kBlocks, args.N * rows.tiles), args.S / least_rows));
  rows.chunk_rows = ceil_div(args.S, rows.chunks);
  rows.chunks = ceil_div(args.S, rows.chunk_rows);
  rows.aligned = all_aligned(args) && args.C % Vec<scalar_t>::kSize == 0;
  plan.slots = args.N * rows.chunks;
  plan.instance_slots = {0, rows.chunks, plan.slots};
  plan.batch_slots = {0, args.batch_group * rows.chunks, plan.slots};
}

template <typename scalar_t>
Plan make_plan(const Args& args, bool backward) {
  Plan plan = {};
  const int64_t row = args.channels_last ? args.C : args.S;
  plan.row_vectors = ceil_div(row, 8) * (8 / Vec<scalar_t>::kSize);
  if (args.channels_last) {
    plan_rows<scalar_t>(args, plan);
  } else {
    plan_planes<scalar_t>(args, backward, plan);
  }
  plan.sum_groups = args.instance_channels > 0 ? args.N : ceil_div(args.N, args.batch_group);
  return plan;
}

template <typename scalar_t>
size_t workspace_bytes(const Args& args, bool backward) {
  if (is_empty(args)) return 0;
  const Plan plan = make_plan<scalar_t>(args, backward);
  const int64_t rows = backward ? 2 * (plan.slots + plan.sum_groups) : 3 * plan.slots;
  return static_cast<size_t>(rows * args.C) * sizeof(acc_of<scalar_t>);
}

template <typename acc_t>
Workspace<acc_t> make_workspace(const Args& args, const Plan& plan) {
  const auto base = static_cast<acc_t*>(args.workspace);
  const int64_t part = plan.slots * args.C, sums = plan.sum_groups * args.C;
  return {base,        base + part,     base + 2 * part,       base,
          base + part, base + 2 * part, base + 2 * part + sums};
}

template <typename scalar_t, Step kStep>
void launch_planes(const Args& args, const Planes& planes,
                   const Workspace<acc_of<scalar_t>>& workspace, bool backward,
                   cudaStream_t stream) {
  const int64_t teams = planes.channels * planes.groups * planes.chunks;
  if (teams == 0) return;
  unsigned teams_a_block = 1;
  size_t shared = 0;
  if (kStep == Step::whole) {
    const size_t held = planes.chunk_vectors * (backward ? 32 : 16);
    if (planes.team == 32) teams_a_block = std::clamp<size_t>(shared_bytes_for_two() / held, 1, 8);
    shared = held * teams_a_block;
  }
  const auto kernel = backward ? ibn_norm_backward_planes_kernel<scalar_t, kStep>
                               : ibn_norm_forward_planes_kernel<scalar_t, kStep>;
  launch(kernel, dim3(static_cast<unsigned>(ceil_div(teams, teams_a_block))),
         dim3(planes.team, teams_a_block), shared, stream, args, planes, workspace);
}

template <typename acc_t>
void launch_merge(const Args& args, const Plan& plan, const Workspace<acc_t>& workspace,
                  bool backward, cudaStream_t stream) {
  const int64_t batch_groups =
      plan.batch_slots.per_group > 0 ? ceil_div(args.N, args.batch_group) : 0;
  const int64_t groups =
      plan.instance_slots.per_group > 0 && args.instance_channels > 0 ? args.N : batch_groups;
  const auto kernel =
      backward ? ibn_norm_backward_merge_kernel<acc_t> : ibn_norm_forward_merge_kernel<acc_t>;
  launch(kernel, dim3(static_cast<unsigned>(ceil_div(args.C, kTileChannels) * groups)),
         dim3(kTileChannels, kTileThreads), 0, stream, args, plan.instance_slots, plan.batch_slots,
         workspace);
}

template <typename scalar_t>
void run_planes(const Args& args, const Plan& plan, bool backward, cudaStream_t stream) {
  using acc_t = acc_of<scalar_t>;
  const auto workspace = make_workspace<acc_t>(args, plan);
  const bool split_instance = plan.instance_slots.per_group > 0;
  const bool split_batch = plan.batch_slots.per_group > 0;
  const auto in_steps = [&](auto step, const Planes& planes) {
    launch_planes<scalar_t, decltype(step)::value>(args, planes, workspace, backward, stream);
  };
  const std::integral_constant<Step, Step::whole> whole;
  const std::integral_constant<Step, Step::part> part;
  const std::integral_constant<Step, Step::apply> apply;
  if (!split_instance) in_steps(whole, plan.instance);
  if (!split_batch) in_steps(whole, plan.batch);
  if (split_instance) in_steps(part, plan.instance);
  if (split_batch && (backward || args.batch_stats)) in_steps(part, plan.batch);
  if (split_instance || split_batch) launch_merge<acc_t>(args, plan, workspace, backward, stream);
  if (split_batch) in_steps(apply, plan.batch);
  if (split_instance) in_steps(apply, plan.instance);
}

template <typename scalar_t>
void run_rows(const Args& args, const Plan& plan, bool backward, cudaStream_t stream) {
  using acc_t = acc_of<scalar_t>;
  const auto workspace = make_workspace<acc_t>(args, plan);
  const dim3 grid(static_cast<unsigned>(plan.slots * plan.rows.tiles));
  const dim3 block(plan.width, kRowsBlock / plan.width);
  if (backward) {
    launch(ibn_norm_backward_part_rows_kernel<scalar_t>, grid, block, 0, stream, args, plan.rows,
           workspace);
  } else if (args.batch_stats || args.instance_channels > 0) {
    launch(ibn_norm_forward_part_rows_kernel<scalar_t>, grid, block, 0, stream, args, plan.rows,
           workspace);
  }
  launch_merge<acc_t>(args, plan, workspace, backward, stream);
  if (backward) {
    launch(ibn_norm_backward_apply_rows_kernel<scalar_t>, grid, block, 0, stream, args, plan.rows,
           workspace);
  } else {
    launch(ibn_norm_forward_apply_rows_kernel<scalar_t>, grid, block, 0, stream, args, plan.rows);
  }
}

// Everything of one pass on `stream`; the workspace is of workspace_bytes.
template <typename scalar_t>
void run(const Args& args, bool backward, cudaStream_t stream) {
  using acc_t = acc_of<scalar_t>;
  if (is_empty(args)) {
    if (!backward) return;
    const size_t instance = args.instance_channels * sizeof(acc_t);
    const size_t batch = args.C * sizeof(acc_t) - instance;
    fill_zero(args.d_in_weight, instance, stream);
    fill_zero(args.d_in_bias, instance, stream);
    fill_zero(args.d_bn_weight, batch, stream);
    fill_zero(args.d_bn_bias, batch, stream);
    return;
  }
  const Plan plan = make_plan<scalar_t>(args, backward);
  if (args.channels_last) {
    run_rows<scalar_t>(args, plan, backward, stream);
  } else {
    run_planes<scalar_t>(args, plan, backward, stream);
  }
  if (backward) {
    launch(ibn_norm_backward_parameters_kernel<acc_t>,
           dim3(static_cast<unsigned>(ceil_div(args.C, kTileChannels))),
           dim3(kTileChannels, kTileThreads), 0, stream, args, make_workspace<acc_t>(args, plan));
  }
}

}  // namespace ibn_norm
