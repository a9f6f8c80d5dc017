// Large results: the allocator maps them anew for every call, and touching them page by page costs
// more than the arithmetic. No torch header.
#pragma once
#include <cstdint>
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace ibnvision {

// Ask for 2 MiB pages under [p, p + bytes) where an allocation is surely a mapping of its own:
// glibc never serves 32 MiB or more from the heap. A hint; nothing depends on it.
inline void advise_huge_pages(void* p, int64_t bytes) {
#ifdef __linux__
  constexpr uintptr_t page = uintptr_t(2) << 20;
  if (bytes < (int64_t(32) << 20)) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(p) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(p) + bytes) / page * page;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)p, (void)bytes;
#endif
}

}  // namespace ibnvision
