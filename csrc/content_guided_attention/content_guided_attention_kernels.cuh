// The launches of content_guided_attention. Contract: ibnvision/ops/content_guided_attention.py.
#pragma once
#include "content_guided_attention_attention.cuh"
#include "content_guided_attention_gradients.cuh"

namespace content_guided_attention {

inline bool is_empty(const Args& args) { return args.N * args.C * args.H * args.W == 0; }

// Whether vectors of the channels of pixels of type scalar_t at these addresses are aligned.
template <typename scalar_t>
bool aligned_pixels(const Args& args, const void* first, const void* second) {
  const auto bits = reinterpret_cast<uintptr_t>(first) | reinterpret_cast<uintptr_t>(second);
  return bits % 16 == 0 && args.C % Vec<scalar_t>::kSize == 0;
}

// The parts of Args::workspace, each at a multiple of 16 bytes; what it takes in all is `bytes`.
template <typename scalar_t, bool kPixels>
Workspace<scalar_t> divide_workspace(const Args& args, size_t* bytes) {
  using acc_t = acc_of<scalar_t>;
  const Tiles tiles = count_tiles<kPixels>(args);
  Workspace<scalar_t> workspace{};
  workspace.groups = ceil_div(tiles.slabs, kGroupSlabs<kPixels>);
  workspace.chunks = ceil_div(tiles.count, kChunkTiles);
  int64_t used = 0;
  const auto take = [&](int64_t elements) {
    const auto p = reinterpret_cast<acc_t*>(static_cast<char*>(args.workspace) + used);
    used += ceil_div(elements * static_cast<int64_t>(sizeof(acc_t)), 16) * 16;
    return p;
  };
  const int64_t size = args.N * args.C * args.H * args.W;
  constexpr bool kInDx = sizeof(scalar_t) == sizeof(acc_t);
  workspace.d_map = take(size);
  workspace.gate = kInDx ? static_cast<acc_t*>(args.dx) : take(size);
  workspace.group_d_sa = take(args.N * workspace.groups * args.H * args.W);
  workspace.sums = take(args.N * workspace.chunks * args.C * kSums);
  *bytes = static_cast<size_t>(used);
  return workspace;
}

template <typename scalar_t>
size_t workspace_bytes(const Args& args, bool backward) {
  if (!backward || is_empty(args)) return 0;
  size_t bytes = 0;
  args.channels_last ? divide_workspace<scalar_t, true>(args, &bytes)
                     : divide_workspace<scalar_t, false>(args, &bytes);
  return bytes;
}

template <typename scalar_t, bool kPixels>
void run_forward(const Args& args, cudaStream_t stream) {
  const Tiles tiles = count_tiles<kPixels>(args);
  const dim3 block(32, Geometry<kPixels>::kThreadRows);
  const size_t shared = attention_shared_elements<kPixels>() * sizeof(acc_of<scalar_t>);
  launch(content_guided_attention_forward_kernel<scalar_t, kPixels>,
         dim3(tiles.count * tiles.slabs * args.N), block, shared, stream, args, tiles,
         aligned_pixels<scalar_t>(args, args.x, args.high));
}

template <typename scalar_t, bool kPixels>
void run_backward(const Args& args, cudaStream_t stream) {
  using acc_t = acc_of<scalar_t>;
  size_t bytes = 0;
  const Workspace<scalar_t> workspace = divide_workspace<scalar_t, kPixels>(args, &bytes);
  const Tiles tiles = count_tiles<kPixels>(args);
  const dim3 block(32, Geometry<kPixels>::kThreadRows);
  const bool aligned = aligned_pixels<scalar_t>(args, args.x, args.high);
  const bool map_aligned = aligned_pixels<acc_t>(args, workspace.d_map, nullptr);
  launch(content_guided_attention_backward_map_kernel<scalar_t, kPixels>,
         dim3(tiles.count * tiles.slabs * args.N), block,
         attention_shared_elements<kPixels>() * sizeof(acc_t), stream, args, tiles, workspace,
         aligned);
  launch(content_guided_attention_backward_input_kernel<scalar_t, kPixels>,
         dim3(tiles.count * workspace.groups * args.N), block,
         input_shared_elements<kPixels>() * sizeof(acc_t), stream, args, tiles, workspace,
         map_aligned);
  launch(content_guided_attention_backward_weight_kernel<scalar_t, kPixels>,
         dim3(workspace.chunks * tiles.slabs * args.N), dim3(32, 7),
         weight_shared_elements<kPixels>() * sizeof(acc_t), stream, args, tiles, workspace, aligned,
         map_aligned);
  launch(content_guided_attention_backward_merge_kernel<scalar_t>, dim3(args.C),
         dim3(kMergeThreads), 0, stream, args, workspace);
  launch(content_guided_attention_backward_merge_sa_kernel<scalar_t>,
         dim3(ceil_div(args.N * args.H * args.W, kMergeThreads)), dim3(kMergeThreads), 0, stream,
         args, workspace);
}

template <typename scalar_t>
void run(const Args& args, bool backward, cudaStream_t stream) {
  if (is_empty(args)) return;
  if (args.channels_last) {
    backward ? run_backward<scalar_t, true>(args, stream)
             : run_forward<scalar_t, true>(args, stream);
  } else {
    backward ? run_backward<scalar_t, false>(args, stream)
             : run_forward<scalar_t, false>(args, stream);
  }
}

}  // namespace content_guided_attention
