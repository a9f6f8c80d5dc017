// CPU kernels of ibn_norm, compiled once per instruction set (namespace IBN_ISA).
// Contract and formula: ibnvision/ops/ibn_norm.py; derivation and bytes moved: README.md here.
//
// Statistics: sums of z - pilot and of its square over some kFlush values or kPixels pixels, the
// pilot being the mean of the first of them, merged by Chan's formula in double.
#include "ibn_norm_cpu.h"

#include "ibn_norm_cpu_pixels.h"
#include "ibn_norm_cpu_planes.h"

namespace ibn_norm {
namespace IBN_ISA {
namespace {

template <typename T, typename A>
void forward_typed(const Args& args, Parallel parallel) {
  with_act(args.act, [&](auto act) {
    if (args.channels_last) return Pixels<T, A>{{args}}.template forward<act()>(parallel);
    const Planes<T, A> pass{{args}};
    run(parallel, pass.channel_tasks(), [&](int64_t begin, int64_t end) {
      const Scratch<A> scratch(kBlock);
      for (int64_t task = begin; task < end; ++task)
        pass.template forward_channels<act()>(pass.channels(task), scratch);
    });
  });
}

template <typename T, typename A>
void backward_typed(const Args& args, Parallel parallel) {
  with_act(args.act, [&](auto act) {
    if (args.channels_last) return Pixels<T, A>{{args}}.template backward<act()>(parallel);
    const Planes<T, A> pass{{args}};
    run(parallel, pass.channel_tasks(), [&](int64_t begin, int64_t end) {
      const Scratch<A> scratch(kBlock);
      for (int64_t task = begin; task < end; ++task)
        pass.template backward_channels<act()>(pass.channels(task), scratch);
    });
  });
}

}  // namespace

void forward(const Args& args, Parallel parallel) {
  switch (args.dtype) {
    case Dtype::float32:
      return forward_typed<float, float>(args, parallel);
    case Dtype::float16:
      return forward_typed<Half, float>(args, parallel);
    case Dtype::bfloat16:
      return forward_typed<BFloat16, float>(args, parallel);
    case Dtype::float64:
      return forward_typed<double, double>(args, parallel);
  }
}

void backward(const Args& args, Parallel parallel) {
  switch (args.dtype) {
    case Dtype::float32:
      return backward_typed<float, float>(args, parallel);
    case Dtype::float16:
      return backward_typed<Half, float>(args, parallel);
    case Dtype::bfloat16:
      return backward_typed<BFloat16, float>(args, parallel);
    case Dtype::float64:
      return backward_typed<double, double>(args, parallel);
  }
}

}  // namespace IBN_ISA
}  // namespace ibn_norm
