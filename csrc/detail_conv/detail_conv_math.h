// The fold of one (output, input) pair of channels and its transpose, for host and device.
// Taps of a 3x3 kernel are numbered by rows. No torch header.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define DETAIL_CONV_FUNCTION static inline __host__ __device__
#else
#define DETAIL_CONV_FUNCTION static inline  // else the linker may pick another instruction set's
#endif

namespace detail_conv {

template <typename A>
struct Thetas {
  A central, angular;
};

// The branches of a pair, or their gradients.
template <typename A>
struct Branches {
  A central[9], horizontal[3], vertical[3], angular[9];
};

// kernel += the four difference branches. The centre of the central branch is taken out of its own
// sum, so that it has no effect, not even by rounding, where theta is 1.
template <typename A>
DETAIL_CONV_FUNCTION void add_differences(const Branches<A>& b, Thetas<A> theta, A (&kernel)[9]) {
  const A* c = b.central;
  const A* a = b.angular;
  const A around = ((c[0] + c[1]) + (c[2] + c[3])) + ((c[5] + c[6]) + (c[7] + c[8]));
  const A before[9] = {a[3], a[0], a[1], a[6], a[4], a[2], a[7], a[8], a[5]};  // clockwise
  const A centre = (A(1) - theta.central) * c[4] - theta.central * around;
  for (int t = 0; t < 9; ++t)
    kernel[t] += (t == 4 ? centre : c[t]) + (a[t] - theta.angular * before[t]);
  for (int i = 0; i < 3; ++i) {
    kernel[3 * i] += b.horizontal[i];
    kernel[3 * i + 2] -= b.horizontal[i];
    kernel[i] += b.vertical[i];
    kernel[6 + i] -= b.vertical[i];
  }
}

// The gradients of the branches from that of the kernel; the vanilla branch's is the kernel's own.
template <typename A>
DETAIL_CONV_FUNCTION Branches<A> branch_gradients(const A (&g)[9], Thetas<A> theta) {
  const A after[9] = {g[1], g[2], g[5], g[0], g[4], g[8], g[3], g[6], g[7]};
  Branches<A> d;
  for (int t = 0; t < 9; ++t) {
    d.central[t] = g[t] - theta.central * g[4];
    d.angular[t] = g[t] - theta.angular * after[t];
  }
  for (int i = 0; i < 3; ++i) {
    d.horizontal[i] = g[3 * i] - g[3 * i + 2];
    d.vertical[i] = g[i] - g[6 + i];
  }
  return d;
}

}  // namespace detail_conv
