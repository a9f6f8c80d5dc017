// The words that launchers of every op share. No torch header.
#pragma once
#include <cstdint>

namespace ibnvision {

enum class Dtype : int32_t { float32 = 0, float16 = 1, bfloat16 = 2, float64 = 3 };

// Calls body(context, begin, end) so that the parts cover [0, count) once, on the caller's threads.
using Body = void (*)(void* context, int64_t begin, int64_t end);
using Parallel = void (*)(int64_t count, void* context, Body body);

}  // namespace ibnvision
