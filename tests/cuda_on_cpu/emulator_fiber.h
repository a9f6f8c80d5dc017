// A stack that runs until it pauses: Boost.Context where its header is found (link boost_context),
// else ucontext, whose switches make system calls. AddressSanitizer is told of every switch.
#pragma once
#include <cstddef>

#if __has_include(<boost/context/detail/fcontext.hpp>) && !defined(EMULATOR_UCONTEXT)
#include <boost/context/detail/fcontext.hpp>
#define EMULATOR_BOOST
#else
#include <ucontext.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// The emulator's own work is not what -fsanitize=thread shall instrument.
#define EMULATOR_PLAIN __attribute__((no_sanitize("thread")))

namespace emulator {

class Fiber {
 public:
  // The next resume() enters body(), which must end in leave().
  EMULATOR_PLAIN void start(char* stack, size_t bytes, void (*body)()) {
    body_ = body;
#ifdef __SANITIZE_ADDRESS__
    stack_ = stack, bytes_ = bytes;
    ASAN_UNPOISON_MEMORY_REGION(stack, bytes);  // frames that the last fiber never left
#endif
#ifdef EMULATOR_BOOST
    self_ = boost::context::detail::make_fcontext(stack + bytes, bytes, &enter);
#else
    entering = this;
    getcontext(&self_);
    self_.uc_stack.ss_sp = stack;
    self_.uc_stack.ss_size = bytes;
    self_.uc_link = nullptr;
    makecontext(&self_, &enter, 0);
#endif
  }

  EMULATOR_PLAIN void resume() {
#ifdef __SANITIZE_ADDRESS__
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, stack_, bytes_);
#endif
#ifdef EMULATOR_BOOST
    self_ = boost::context::detail::jump_fcontext(self_, this).fctx;
#else
    entering = this;
    swapcontext(&scheduler_, &self_);
#endif
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

  EMULATOR_PLAIN void pause() {
#ifdef __SANITIZE_ADDRESS__
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, scheduler_stack_, scheduler_bytes_);
    jump();
    arrived(fake_stack);
#else
    jump();
#endif
  }

  EMULATOR_PLAIN void leave() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(nullptr, scheduler_stack_, scheduler_bytes_);
#endif
    jump();
  }

 private:
  void (*body_)() = nullptr;
#ifdef __SANITIZE_ADDRESS__
  const char* stack_ = nullptr;
  const void* scheduler_stack_ = nullptr;
  size_t bytes_ = 0, scheduler_bytes_ = 0;

  void arrived(void* fake_stack) {
    __sanitizer_finish_switch_fiber(fake_stack, &scheduler_stack_, &scheduler_bytes_);
  }
#endif

#ifdef EMULATOR_BOOST
  boost::context::detail::fcontext_t self_ = nullptr, scheduler_ = nullptr;

  EMULATOR_PLAIN static void enter(boost::context::detail::transfer_t from) {
    const auto fiber = static_cast<Fiber*>(from.data);
    fiber->scheduler_ = from.fctx;
    fiber->run();
  }
  EMULATOR_PLAIN void jump() {
    scheduler_ = boost::context::detail::jump_fcontext(scheduler_, nullptr).fctx;
  }
#else
  ucontext_t self_, scheduler_;
  inline static Fiber* entering = nullptr;

  static void enter() { entering->run(); }
  void jump() { swapcontext(&self_, &scheduler_); }
#endif

  EMULATOR_PLAIN void run() {
#ifdef __SANITIZE_ADDRESS__
    arrived(nullptr);
#endif
    body_();
  }
};

}  // namespace emulator
