// CPU kernels of detail_conv, compiled once per instruction set (namespace IBN_ISA).
// Contract and formula: ibnvision/ops/detail_conv.py; derivation and bytes moved: README.md here.
#include "detail_conv_cpu.h"

#include <algorithm>
#include <type_traits>

#include "../cpu_vector.h"
#include "detail_conv_math.h"

namespace detail_conv {
namespace IBN_ISA {
namespace {

constexpr int64_t kPairs = 128;       // worked on at a time: their taps as float stay in L1
constexpr int64_t kTaskPairs = 1024;  // at most, of one task

// `n` pairs from `i` on in row `row` of `width` pairs. Contiguous weights are one row of O * I
// pairs with 9 adjacent taps each; channels_last ones are O rows, in which a tap is I adjacent
// values.
struct Block {
  int64_t row, i, n, width;
};

// Tap t of pair j of a block: in the tensor, or in a buffer that holds it as A.
template <typename A>
struct Taps {
  A* p;
  int64_t tap, pair;
  A& at(int64_t t, int64_t j) const { return p[t * tap + j * pair]; }
};

template <int kTaps, bool kLast, typename T>
T* begin_of(T* weight, const Block& b) {
  return weight + (kLast ? b.row * kTaps * b.width + b.i : (b.row * b.width + b.i) * kTaps);
}

template <int kTaps, bool kLast, typename T, typename A>
Taps<const A> read(const void* weight, const Block& b, A* buffer) {
  const T* p = begin_of<kTaps, kLast>(static_cast<const T*>(weight), b);
  if constexpr (!kLast) {
    return {fetch(p, kTaps * b.n, buffer), 1, kTaps};
  } else if constexpr (std::is_same_v<T, A>) {
    return {p, b.width, 1};
  } else {
    for (int t = 0; t < kTaps; ++t) fetch(p + t * b.width, b.n, buffer + t * kPairs);
    return {buffer, kPairs, 1};
  }
}

template <int kTaps, bool kLast, typename T, typename A>
Taps<A> results(void* weight, const Block& b, A* buffer) {
  T* p = begin_of<kTaps, kLast>(static_cast<T*>(weight), b);
  if constexpr (!kLast) {
    return {target(p, buffer), 1, kTaps};
  } else if constexpr (std::is_same_v<T, A>) {
    return {p, b.width, 1};
  } else {
    return {buffer, kPairs, 1};
  }
}

template <int kTaps, bool kLast, typename T, typename A>
void write(void* weight, const Block& b, const A* buffer) {
  if constexpr (!std::is_same_v<T, A>) {
    T* p = begin_of<kTaps, kLast>(static_cast<T*>(weight), b);
    if constexpr (!kLast) {
      put(p, buffer, kTaps * b.n);
    } else {
      for (int t = 0; t < kTaps; ++t) put(p + t * b.width, buffer + t * kPairs, b.n);
    }
  }
}

template <typename A>
struct Buffers {
  A central[9 * kPairs], horizontal[3 * kPairs], vertical[3 * kPairs], angular[9 * kPairs];
  A kernel[9 * kPairs];
};

template <typename T, typename A, bool kLast>
struct Pass {
  const Args& a;
  const Thetas<A> theta{A(a.central_theta), A(a.angular_theta)};

  template <bool kVanilla>
  void fold(const Block& b, Buffers<A>& buffers) const {
    const auto central = read<9, kLast, T>(a.central, b, buffers.central);
    const auto horizontal = read<3, false, T>(a.horizontal, b, buffers.horizontal);
    const auto vertical = read<3, false, T>(a.vertical, b, buffers.vertical);
    const auto angular = read<9, kLast, T>(a.angular, b, buffers.angular);
    Taps<const A> vanilla{};
    if constexpr (kVanilla) vanilla = read<9, kLast, T>(a.vanilla, b, buffers.kernel);
    const auto kernel = results<9, kLast, T>(a.weight, b, buffers.kernel);
#pragma GCC ivdep
    for (int64_t j = 0; j < b.n; ++j) {
      Branches<A> w;
      A k[9];
      for (int t = 0; t < 9; ++t) {
        w.central[t] = central.at(t, j);
        w.angular[t] = angular.at(t, j);
        if constexpr (kVanilla)
          k[t] = vanilla.at(t, j);
        else
          k[t] = A(0);
      }
      for (int i = 0; i < 3; ++i) {
        w.horizontal[i] = horizontal.at(i, j);
        w.vertical[i] = vertical.at(i, j);
      }
      add_differences(w, theta, k);
      for (int t = 0; t < 9; ++t) kernel.at(t, j) = k[t];
    }
    write<9, kLast, T>(a.weight, b, buffers.kernel);
  }

  void unfold(const Block& b, Buffers<A>& buffers) const {
    const auto gradient = read<9, kLast, T>(a.d_weight, b, buffers.kernel);
    const auto central = results<9, kLast, T>(a.d_central, b, buffers.central);
    const auto horizontal = results<3, false, T>(a.d_horizontal, b, buffers.horizontal);
    const auto vertical = results<3, false, T>(a.d_vertical, b, buffers.vertical);
    const auto angular = results<9, kLast, T>(a.d_angular, b, buffers.angular);
#pragma GCC ivdep
    for (int64_t j = 0; j < b.n; ++j) {
      A g[9];
      for (int t = 0; t < 9; ++t) g[t] = gradient.at(t, j);
      const Branches<A> d = branch_gradients(g, theta);
      for (int t = 0; t < 9; ++t) {
        central.at(t, j) = d.central[t];
        angular.at(t, j) = d.angular[t];
      }
      for (int i = 0; i < 3; ++i) {
        horizontal.at(i, j) = d.horizontal[i];
        vertical.at(i, j) = d.vertical[i];
      }
    }
    write<9, kLast, T>(a.d_central, b, buffers.central);
    write<3, false, T>(a.d_horizontal, b, buffers.horizontal);
    write<3, false, T>(a.d_vertical, b, buffers.vertical);
    write<9, kLast, T>(a.d_angular, b, buffers.angular);
  }
};

// f(block, buffers) for blocks that cover every pair once.
template <typename A, typename F>
void for_blocks(const Args& a, Parallel parallel, F f) {
  const int64_t width = a.channels_last ? a.I : a.O * a.I;
  const int64_t rows = width ? a.O * a.I / width : 0;
  const int64_t tasks_a_row = (width + kTaskPairs - 1) / kTaskPairs;
  // narrow channels_last rows share a task
  const int64_t group = std::max<int64_t>(1, kTaskPairs / std::max<int64_t>(width, 1));
  run(parallel, (rows * tasks_a_row + group - 1) / group, [&](int64_t begin, int64_t end) {
    Buffers<A> buffers;
    for (int64_t part = begin * group; part < std::min(end * group, rows * tasks_a_row); ++part) {
      const int64_t row = part / tasks_a_row, first = part % tasks_a_row * kTaskPairs;
      const int64_t last = std::min(first + kTaskPairs, width);
      for (int64_t i = first; i < last; i += kPairs)
        f(Block{row, i, std::min(kPairs, last - i), width}, buffers);
    }
  });
}

template <typename T, typename A>
void add_biases(const Args& a) {
  const void* given[] = {a.central_bias, a.horizontal_bias, a.vertical_bias, a.angular_bias,
                         a.vanilla_bias};
  T* bias = static_cast<T*>(a.bias);
  for (int64_t o = 0; bias && o < a.O; ++o) {
    A sum = 0, one;
    for (const void* each : given)
      if (each) sum += *fetch(static_cast<const T*>(each) + o, 1, &one);
    *target(bias + o, &one) = sum;
    put(bias + o, &one, 1);
  }
}

template <typename T, typename A, bool kLast>
void forward_typed(const Args& args, Parallel parallel) {
  const Pass<T, A, kLast> pass{args};
  for_blocks<A>(args, parallel, [&](const Block& block, Buffers<A>& buffers) {
    if (args.vanilla)
      pass.template fold<true>(block, buffers);
    else
      pass.template fold<false>(block, buffers);
  });
  add_biases<T, A>(args);
}

template <typename T, typename A, bool kLast>
void backward_typed(const Args& args, Parallel parallel) {
  const Pass<T, A, kLast> pass{args};
  for_blocks<A>(args, parallel,
                [&](const Block& block, Buffers<A>& buffers) { pass.unfold(block, buffers); });
}

// f(storage, arithmetic, channels_last): values of the types, and a bool constant
template <typename F>
void with_types(const Args& args, F f) {
  const auto with_format = [&](auto storage, auto arithmetic) {
    if (args.channels_last)
      f(storage, arithmetic, std::true_type{});
    else
      f(storage, arithmetic, std::false_type{});
  };
  switch (args.dtype) {
    case Dtype::float32:
      return with_format(float{}, float{});
    case Dtype::float16:
      return with_format(Half{}, float{});
    case Dtype::bfloat16:
      return with_format(BFloat16{}, float{});
    case Dtype::float64:
      return with_format(double{}, double{});
  }
}

}  // namespace

void forward(const Args& args, Parallel parallel) {
  with_types(args, [&](auto storage, auto arithmetic, auto last) {
    forward_typed<decltype(storage), decltype(arithmetic), last()>(args, parallel);
  });
}

void backward(const Args& args, Parallel parallel) {
  with_types(args, [&](auto storage, auto arithmetic, auto last) {
    backward_typed<decltype(storage), decltype(arithmetic), last()>(args, parallel);
  });
}

}  // namespace IBN_ISA
}  // namespace detail_conv
