// ibn_norm on contiguous activations, [N, C, S]: teams of threads on the vectors of a group.
#pragma once
#include "ibn_norm_math.cuh"

namespace ibn_norm {

// A vector is 16 bytes of one plane; a plane has a whole number of mask bytes of them, so that the
// last may be empty. A group is the planes of its images, one vector after the other.
struct Planes {
  int64_t first, channels;          // channels of one kind
  int64_t images, groups;           // images a group, groups a channel
  int64_t row_vectors;              // vectors a plane
  int64_t chunks;                   // teams a group
  int64_t chunk_vectors;            // vectors a team
  int64_t slot;                     // where the partial results of the kind begin in the workspace
  int64_t step_rows, step_vectors;  // one step of a team of `team` threads
  int team;
  bool aligned;  // every vector is full and a multiple of 16 bytes
};

// whole: a team holds its group in shared memory and does everything; part: it leaves a partial
// result; apply: the statistics are known.
enum class Step { whole, part, apply };

// The vectors of one team, walked by one thread of it; a team is a row of the block.
template <typename scalar_t>
struct Walk {
  int64_t c, group, slot;  // slot: row of the partial result
  int64_t first_image;
  int vectors;   // of the team
  int i;         // this thread's next: among those of the team,
  int64_t n, v;  // image and vector of the plane

  // False for a team behind the last. `backwards` starts with what was read last, still cached.
  __device__ bool start(const Args& args, const Planes& planes, bool backwards) {
    const int64_t teams = planes.channels * planes.groups * planes.chunks;
    int64_t team = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
    if (team >= teams) return false;
    if (backwards) team = teams - 1 - team;
    const auto by_chunk = divide(team, planes.chunks);
    const auto by_channel = divide(by_chunk.quotient, planes.channels);
    c = planes.first + by_channel.remainder;
    group = by_channel.quotient;
    slot = planes.slot + group * planes.chunks + by_chunk.remainder;
    first_image = group * planes.images;
    const int64_t begin = by_chunk.remainder * planes.chunk_vectors;
    const int64_t rest = smaller(planes.images, args.N - first_image) * planes.row_vectors - begin;
    vectors = rest < 0 ? 0 : static_cast<int>(smaller(rest, planes.chunk_vectors));
    i = threadIdx.x;
    const auto here = divide(begin + i, planes.row_vectors);
    n = first_image + here.quotient;
    v = here.remainder;
    return true;
  }

  __device__ void next(const Planes& planes) {
    i += blockDim.x;
    n += planes.step_rows;
    v += planes.step_vectors;
    if (v >= planes.row_vectors) {
      v -= planes.row_vectors;
      ++n;
    }
  }

  // Whether any thread of the warp has a vector left.
  __device__ bool warp_has_more() const { return i - static_cast<int>(threadIdx.x % 32) < vectors; }

  __device__ Place place(const Args& args) const {
    constexpr int kSize = Vec<scalar_t>::kSize;
    const int64_t plane = n * args.C + c;
    const int64_t s = v * kSize;
    const bool inside = i < vectors && s < args.S;
    return {plane * args.S + s, plane * ((args.S + 7) / 8) + s / 8, static_cast<int>(s % 8),
            inside ? static_cast<int>(smaller(args.S - s, kSize)) : 0};
  }
};

constexpr int kAtOnceForward = 2;   // vectors a thread loads before it uses the first
constexpr int kAtOnceBackward = 1;  // of both x and dy

// grid:  one team a chunk, a row of the block; a chunk of `whole` is a group
// whole reads x once, part and apply read it once each. 128-bit accesses where Planes::aligned.
// SASS: 128-bit loads, 128-bit stores except Step::part
template <typename scalar_t, Step kStep>
__global__ void __launch_bounds__(kLargestTeam, 2)
    ibn_norm_forward_planes_kernel(const __grid_constant__ Args args,
                                   const __grid_constant__ Planes planes,
                                   const __grid_constant__ Workspace<acc_of<scalar_t>> workspace) {
  using acc_t = acc_of<scalar_t>;
  constexpr int kSize = Vec<scalar_t>::kSize;
  DYNAMIC_SHARED(Vec<scalar_t>, shared);
  const auto x = static_cast<const scalar_t*>(args.x);
  Walk<scalar_t> walk;
  if (!walk.start(args, planes, kStep == Step::apply)) return;
  const auto kept = shared + threadIdx.y * planes.chunk_vectors;  // only this thread's are touched

  Affine<acc_t> affine;
  if constexpr (kStep == Step::apply) {
    affine = read_affine<acc_t>(args, walk.first_image, walk.c);
  } else {
    ShiftedSums<acc_t> sums;
    int count = 0;
    for (auto reader = walk; reader.warp_has_more();) {
      Vec<scalar_t> loaded[kAtOnceForward];
      Place places[kAtOnceForward];
#pragma unroll
      for (int u = 0; u < kAtOnceForward; ++u) {
        places[u] = reader.place(args);
        loaded[u] = load_vec(x + places[u].offset, places[u].count, planes.aligned);
        if constexpr (kStep == Step::whole) {
          if (reader.i < walk.vectors) kept[reader.i] = loaded[u];
        }
        reader.next(planes);
      }
#pragma unroll
      for (int u = 0; u < kAtOnceForward; ++u) {
        acc_t z[kSize];
        normalized_input(args, loaded[u], places[u], planes.aligned, z);
        if (count == 0 && places[u].count > 0) {
          acc_t total = 0;
#pragma unroll
          for (int j = 0; j < kSize; ++j) total += z[j];
          sums.shift = total / places[u].count;
        }
#pragma unroll
        for (int j = 0; j < kSize; ++j) {
          if (j < places[u].count) sums.add(z[j]);
        }
        count += places[u].count;
      }
    }
    const auto moments = team_merge(sums.finish(static_cast<acc_t>(count)));
    if constexpr (kStep == Step::part) {
      if (threadIdx.x == 0) workspace.write(walk.slot * args.C + walk.c, moments);
      return;
    }
    const acc_t var = moments.m2 / moments.count;
    affine = make_affine(args, walk.c, moments.mean, var);
    if (threadIdx.x == 0) move_channel(args, walk.c, moments.mean, var);
    const int64_t images = smaller(planes.images, args.N - walk.first_image);
    for (int64_t i = threadIdx.x; i < images; i += blockDim.x) {
      const int64_t to = (walk.first_image + i) * args.C + walk.c;
      static_cast<acc_t*>(args.mean)[to] = moments.mean;
      static_cast<acc_t*>(args.var)[to] = var;
    }
  }

  while (walk.warp_has_more()) {
    Vec<scalar_t> loaded[kAtOnceForward];
    Place places[kAtOnceForward];
#pragma unroll
    for (int u = 0; u < kAtOnceForward; ++u) {
      places[u] = walk.place(args);
      if constexpr (kStep == Step::whole) {
        loaded[u] = walk.i < walk.vectors ? kept[walk.i] : Vec<scalar_t>{};
      } else {
        loaded[u] = load_vec(x + places[u].offset, places[u].count, planes.aligned);
      }
      walk.next(planes);
    }
#pragma unroll
    for (int u = 0; u < kAtOnceForward; ++u) {
      write_forward(args, loaded[u], places[u], planes.aligned, [&](int) { return affine; });
    }
  }
}

// As the forward, with dy beside x; a residual is read in both halves of `whole`.
// SASS: 128-bit loads, 128-bit stores except Step::part
template <typename scalar_t, Step kStep>
__global__ void __launch_bounds__(kLargestTeam, 2)
    ibn_norm_backward_planes_kernel(const __grid_constant__ Args args,
                                    const __grid_constant__ Planes planes,
                                    const __grid_constant__ Workspace<acc_of<scalar_t>> workspace) {
  using acc_t = acc_of<scalar_t>;
  constexpr int kSize = Vec<scalar_t>::kSize;
  DYNAMIC_SHARED(Vec<scalar_t>, shared);
  const auto x = static_cast<const scalar_t*>(args.x);
  const auto dy = static_cast<const scalar_t*>(args.dy);
  Walk<scalar_t> walk;
  if (!walk.start(args, planes, kStep == Step::apply)) return;
  const auto kept_x =
      shared + 2 * threadIdx.y * planes.chunk_vectors;  // only this thread's are touched
  const auto kept_dy = kept_x + planes.chunk_vectors;
  const Affine<acc_t> affine = read_affine<acc_t>(args, walk.first_image, walk.c);
  const auto affine_of = [&](int) { return affine; };
  const int64_t group = walk.group * args.C + walk.c;

  Sums<acc_t> sums = {0, 0};
  if constexpr (kStep == Step::apply) {
    sums = workspace.sums(group);
  } else {
    for (auto reader = walk; reader.warp_has_more();) {
      Vec<scalar_t> loaded_x[kAtOnceBackward], loaded_dy[kAtOnceBackward];
      Place places[kAtOnceBackward];
#pragma unroll
      for (int u = 0; u < kAtOnceBackward; ++u) {
        places[u] = reader.place(args);
        loaded_x[u] = load_vec(x + places[u].offset, places[u].count, planes.aligned);
        loaded_dy[u] = load_vec(dy + places[u].offset, places[u].count, planes.aligned);
        if constexpr (kStep == Step::whole) {
          if (reader.i < walk.vectors) {
            kept_x[reader.i] = loaded_x[u];
            kept_dy[reader.i] = loaded_dy[u];
          }
        }
        reader.next(planes);
      }
#pragma unroll
      for (int u = 0; u < kAtOnceBackward; ++u) {
        acc_t g[kSize], deviation[kSize];
        read_gradient(args, loaded_x[u], loaded_dy[u], places[u], planes.aligned, affine_of, g,
                      deviation);
#pragma unroll
        for (int j = 0; j < kSize; ++j) {
          sums.g += g[j];
          sums.gx += g[j] * deviation[j];
        }
      }
    }
    sums.gx *= affine.rstd;
    sums = team_merge(sums);
    if constexpr (kStep == Step::part) {
      if (threadIdx.x == 0) workspace.write(walk.slot * args.C + walk.c, sums);
      return;
    }
    if (threadIdx.x == 0) {
      workspace.sum_g[group] = sums.g;
      workspace.sum_gx[group] = sums.gx;
    }
  }

  const auto input = make_input_gradient(args, walk.first_image, walk.c, affine, sums);
  while (walk.warp_has_more()) {
    Vec<scalar_t> loaded_x[kAtOnceBackward], loaded_dy[kAtOnceBackward];
    Place places[kAtOnceBackward];
#pragma unroll
    for (int u = 0; u < kAtOnceBackward; ++u) {
      places[u] = walk.place(args);
      if constexpr (kStep == Step::whole) {
        loaded_x[u] = walk.i < walk.vectors ? kept_x[walk.i] : Vec<scalar_t>{};
        loaded_dy[u] = walk.i < walk.vectors ? kept_dy[walk.i] : Vec<scalar_t>{};
      } else {
        loaded_x[u] = load_vec(x + places[u].offset, places[u].count, planes.aligned);
        loaded_dy[u] = load_vec(dy + places[u].offset, places[u].count, planes.aligned);
      }
      walk.next(planes);
    }
#pragma unroll
    for (int u = 0; u < kAtOnceBackward; ++u) {
      write_backward(args, loaded_x[u], loaded_dy[u], places[u], planes.aligned, affine_of,
                     [&](int) { return input; });
    }
  }
}

}  // namespace ibn_norm
