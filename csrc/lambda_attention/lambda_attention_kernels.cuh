// The launches of lambda_attention. Contract: ibnvision/ops/lambda_attention.py.
#pragma once
#include "lambda_attention_gradients.cuh"

namespace lambda_attention {

constexpr int64_t kTableBlocks = 512;              // about, that add to tables of their own
constexpr int64_t kTableBytes = int64_t{1} << 26;  // of them in global memory, about
constexpr int64_t kSharedBytes = 90 << 10;         // of the tiles and tables; every GPU has 99 KiB

inline bool is_empty(const Args& args) { return args.B * args.heads * args.N == 0; }

inline Space make_space(int64_t first, int64_t height, int64_t width) {
  int log_rows = 0, log_columns = 0;  // nearly square, unless the grid is too small for that
  while (log_rows < 3 && (1 << log_rows) < height) ++log_rows;
  while (log_columns < 6 - log_rows && (1 << log_columns) < width) ++log_columns;
  if (log_columns < 3) log_rows = 6 - log_columns;
  log_columns = 6 - log_rows;
  Space space{};
  space.first = static_cast<int>(first);
  space.height = static_cast<int>(height);
  space.width = static_cast<int>(width);
  space.log_columns = log_columns;
  space.across = static_cast<int>(ceil_div(width, int64_t{1} << log_columns));
  space.tiles = space.across * static_cast<int>(ceil_div(height, int64_t{1} << log_rows));
  return space;
}

// Whether every row of 16-byte pieces begins at a multiple of 16 bytes.
inline bool is_aligned(const Args& args) {
  const int64_t size = args.dtype == Dtype::float32 ? 4 : 2;
  const auto rows_are = [&](const Rows& rows) {
    const auto strides = (rows.batch | rows.head | rows.token) * size;
    return (reinterpret_cast<uintptr_t>(rows.data) | static_cast<uintptr_t>(strides)) % 16 == 0;
  };
  const Rows* const all[] = {&args.q,        &args.k,     &args.v,       &args.q_prefix,
                             &args.k_prefix, &args.d_out, &args.out_rows};
  for (const Rows* rows : all) {
    if (rows->data != nullptr && !rows_are(*rows)) return false;
  }
  return true;
}

inline Plan make_plan(const Args& args, bool own_keys) {
  if (args.N >= kAnywhere || args.D > 128) {
    throw std::invalid_argument("lambda_attention: N must be below 2^30 and D at most 128");
  }
  const auto clip = [](int64_t reach, int64_t size) {
    return static_cast<int>(reach < size ? reach : size);
  };
  Plan plan{};
  plan.aligned = is_aligned(args);
  plan.tokens =
      args.causal ? make_space(0, 1, args.N) : make_space(args.prefix, args.height, args.width);
  plan.prefix = make_space(0, 1, args.prefix);
  if (args.prefix == 0) plan.prefix.tiles = 0;
  if (args.causal && !own_keys) plan.prefix.tiles = 0;
  plan.slots = static_cast<int>(own_keys ? ceil_div(args.N, kSlotTokens)
                                         : 1 + ceil_div(args.N - args.prefix, kSlotTokens));
  plan.reach_y = clip(args.reach_y, plan.tokens.height);
  plan.before_x = clip(args.reach_x, plan.tokens.width);
  plan.behind_x = args.causal ? 0 : plan.before_x;
  plan.items = int64_t{plan.tokens.tiles} + int64_t{plan.prefix.tiles} * plan.slots;
  plan.workers = args.B * plan.items;
  if (plan.workers * args.heads >= int64_t{1} << 31)
    throw std::invalid_argument("lambda_attention: too many tokens for one launch");
  if (args.table != nullptr) {
    plan.table_width = static_cast<int>(2 * args.reach_x + 1);
    plan.center = static_cast<int>(args.reach_y * plan.table_width + args.reach_x);
  }
  return plan;
}

// Calls function(integral_constant) with the next of the head sizes that kernels are made for.
template <typename Function>
auto with_head_size(int64_t D, const Function& function) {
  if (D <= 32) return function(std::integral_constant<int, 32>{});
  if (D <= 64) return function(std::integral_constant<int, 64>{});
  if (D <= 96) return function(std::integral_constant<int, 96>{});
  return function(std::integral_constant<int, 128>{});
}

// A block of its own tables for few enough workers, in shared memory where it fits.
template <typename scalar_t, int kD>
Plan make_query_plan(const Args& args) {
  Plan plan = make_plan(args, false);
  if (args.d_table == nullptr) return plan;
  plan.entries = (2 * args.reach_y + 1) * plan.table_width;
  const auto copies = kTableCopies * plan.entries * static_cast<int64_t>(sizeof(float));
  const auto tiles = Shape<scalar_t, kD>::elements(2) * static_cast<int64_t>(sizeof(scalar_t));
  plan.shared_table = tiles + copies <= kSharedBytes;
  int64_t most = ceil_div(kTableBlocks, args.heads);
  if (!plan.shared_table) most = smaller(most, ceil_div(kTableBytes, copies * args.heads));
  plan.workers = smaller(plan.workers, most);
  return plan;
}

// The parts of Args::workspace, each at a multiple of 16 bytes; what it takes in all is `bytes`.
inline Workspace divide_workspace(const Args& args, const Plan& queries, const Plan& keys,
                                  size_t* bytes) {
  Workspace workspace{};
  int64_t used = 0;
  const auto take = [&](int64_t elements) {
    const auto p = reinterpret_cast<float*>(static_cast<char*>(args.workspace) + used);
    used += ceil_div(elements * static_cast<int64_t>(sizeof(float)), 16) * 16;
    return p;
  };
  const int64_t all = args.B * args.heads;
  workspace.query_slots = queries.prefix.tiles == 0 ? 0 : queries.slots;
  workspace.key_slots = keys.prefix.tiles == 0 ? 0 : keys.slots + (args.causal ? 1 : 0);
  workspace.key_rows =
      args.causal ? smaller(int64_t{keys.prefix.tiles} * kOwn, args.N) : args.prefix;
  workspace.delta = take(all * args.N);
  workspace.dq = take(all * workspace.query_slots * args.prefix * args.D);
  workspace.dk = take(all * workspace.key_slots * workspace.key_rows * args.D);
  workspace.dv = take(all * workspace.key_slots * workspace.key_rows * args.D);
  workspace.tables = take(queries.workers * args.heads * queries.entries);
  if (!queries.shared_table)
    workspace.copies = take(queries.workers * args.heads * kTableCopies * queries.entries);
  *bytes = static_cast<size_t>(used);
  return workspace;
}

template <typename scalar_t, int kD>
size_t workspace_bytes(const Args& args, bool backward) {
  if (is_empty(args)) return 0;
  const Plan plan = make_query_plan<scalar_t, kD>(args);
  size_t bytes = 0;
  if (backward) {
    divide_workspace(args, plan, make_plan(args, true), &bytes);
  } else if (plan.prefix.tiles > 0) {
    bytes = args.B * args.heads * plan.slots * args.prefix * (args.D + 2) * sizeof(float);
  }
  return bytes;
}

inline dim3 merge_grid(int64_t numbers) { return dim3(ceil_div(numbers, kMergeThreads)); }

template <typename scalar_t, int kD>
void run_forward(const Args& args, cudaStream_t stream) {
  const Plan plan = make_plan(args, false);
  const auto parts = static_cast<float*>(args.workspace);
  launch(lambda_attention_forward_kernel<scalar_t, kD>, dim3(plan.workers * args.heads),
         dim3(kThreads), Shape<scalar_t, kD>::elements(1) * sizeof(scalar_t), stream, args, plan,
         parts);
  if (plan.prefix.tiles == 0) return;
  launch(lambda_attention_forward_merge_kernel<scalar_t>,
         merge_grid(args.B * args.heads * args.prefix * args.D), dim3(kMergeThreads), 0, stream,
         args, int64_t{plan.slots}, static_cast<const float*>(parts));
}

template <typename scalar_t, int kD>
void run_backward(const Args& args, cudaStream_t stream) {
  const Plan queries = make_query_plan<scalar_t, kD>(args), keys = make_plan(args, true);
  size_t bytes = 0;
  const Workspace workspace = divide_workspace(args, queries, keys, &bytes);
  const int64_t heads = args.B * args.heads;
  const auto merge = [&](const Merge& slots) {
    launch(lambda_attention_backward_merge_kernel<scalar_t>,
           merge_grid(heads * slots.rows * args.D), dim3(kMergeThreads), 0, stream, args, slots);
  };
  const size_t tiles = Shape<scalar_t, kD>::elements(2) * sizeof(scalar_t);
  const size_t tables = queries.shared_table ? kTableCopies * queries.entries * sizeof(float) : 0;
  launch(lambda_attention_backward_delta_kernel<scalar_t>,
         dim3(ceil_div(heads * args.N * kDeltaLanes, kThreads)), dim3(kThreads), 0, stream, args,
         workspace.delta, queries.aligned);
  launch(lambda_attention_backward_query_kernel<scalar_t, kD>, dim3(queries.workers * args.heads),
         dim3(kThreads), tiles + tables, stream, args, queries, workspace);
  if (queries.prefix.tiles > 0) {
    merge({workspace.dq, workspace.query_slots, 1, args.prefix, args.dq, args.d_q_prefix, args.N,
           args.scale});
  }
  if (queries.entries > 0) {
    launch(lambda_attention_backward_table_kernel, merge_grid(args.heads * queries.entries),
           dim3(kMergeThreads), 0, stream, args, queries.entries, queries.workers,
           static_cast<const float*>(workspace.tables));
  }
  launch(lambda_attention_backward_key_kernel<scalar_t, kD>, dim3(keys.workers * args.heads),
         dim3(kThreads), tiles, stream, args, keys, workspace);
  if (keys.prefix.tiles > 0) {
    const int64_t rows = workspace.key_rows, slots = workspace.key_slots;
    merge(
        {workspace.dk, slots, keys.slots, rows, args.dk, args.d_k_prefix, args.prefix, args.scale});
    merge({workspace.dv, slots, keys.slots, rows, args.dv, nullptr, 0, 1.0f});
  }
}

template <typename scalar_t, int kD>
void run(const Args& given, bool backward, cudaStream_t stream) {
  if (is_empty(given)) return;
  Args args = given;
  if (args.q_prefix.data == nullptr) args.q_prefix = args.q;
  if (args.k_prefix.data == nullptr) args.k_prefix = args.k;
  backward ? run_backward<scalar_t, kD>(args, stream) : run_forward<scalar_t, kD>(args, stream);
}

}  // namespace lambda_attention
