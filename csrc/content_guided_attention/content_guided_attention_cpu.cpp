// CPU kernels of content_guided_attention, compiled once per instruction set (namespace IBN_ISA).
// Contract and formula: ibnvision/ops/content_guided_attention.py; derivation: README.md here.
#include "content_guided_attention_cpu.h"

#include "content_guided_attention_cpu_pass.h"

namespace content_guided_attention {
namespace IBN_ISA {
namespace {

template <typename T, typename A, bool kPixels>
void forward_typed(const Args& args, Parallel parallel) {
  const Pass<T, A, kPixels> pass{args, false};
  run(parallel, pass.tasks, [&](int64_t begin, int64_t end) {
    const typename Pass<T, A, kPixels>::Scratch scratch(pass);
    for (int64_t i = begin; i < end; ++i) pass.forward_task(pass.task(i), scratch);
  });
}

template <typename T, typename A, bool kPixels>
void backward_typed(const Args& args, Parallel parallel) {
  Pass<T, A, kPixels> pass{args, true};
  const Tile<A> group_d_sa(args.N * pass.groups * args.H * args.W);
  const Tile<double> sums(args.N * pass.tiles * args.C * kSums);
  pass.group_d_sa = group_d_sa.get();
  pass.sums = sums.get();
  run(parallel, pass.tasks, [&](int64_t begin, int64_t end) {
    typename Pass<T, A, kPixels>::Scratch scratch(pass);
    for (int64_t i = begin; i < end; ++i) pass.backward_task(pass.task(i), scratch);
  });
  run(parallel, args.C, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) pass.reduce_channel(c);
  });
  run(parallel, args.N * args.H, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) pass.reduce_row(i);
  });
}

template <typename F>  // f(storage type, arithmetic type) as values
void with_types(Dtype dtype, F f) {
  switch (dtype) {
    case Dtype::float32:
      return f(float{}, float{});
    case Dtype::float16:
      return f(Half{}, float{});
    case Dtype::bfloat16:
      return f(BFloat16{}, float{});
    case Dtype::float64:
      return f(double{}, double{});
  }
}

}  // namespace

void forward(const Args& args, Parallel parallel) {
  with_types(args.dtype, [&](auto t, auto a) {
    using T = decltype(t);
    using A = decltype(a);
    args.channels_last ? forward_typed<T, A, true>(args, parallel)
                       : forward_typed<T, A, false>(args, parallel);
  });
}

void backward(const Args& args, Parallel parallel) {
  with_types(args.dtype, [&](auto t, auto a) {
    using T = decltype(t);
    using A = decltype(a);
    args.channels_last ? backward_typed<T, A, true>(args, parallel)
                       : backward_typed<T, A, false>(args, parallel);
  });
}

}  // namespace IBN_ISA
}  // namespace content_guided_attention
