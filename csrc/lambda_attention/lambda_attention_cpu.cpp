// CPU kernels of lambda_attention, compiled once per instruction set (namespace IBN_ISA).
// Contract and formula: ibnvision/ops/lambda_attention.py; derivation: README.md here.
#include "lambda_attention_cpu.h"

#include "lambda_attention_cpu_backward.h"
#include "lambda_attention_cpu_forward.h"

namespace lambda_attention {
namespace IBN_ISA {

namespace {

template <typename Pass, typename F>  // f(task, scratch of the thread)
void run_tasks(const Pass& pass, int64_t tasks, Parallel parallel, F f) {
  run(parallel, tasks, [&](int64_t begin, int64_t end) {
    typename Pass::Scratch scratch(pass);
    for (int64_t i = begin; i < end; ++i) f(i, scratch);
  });
}

template <typename T>
void backward_typed(const Args& a, Parallel parallel) {
  const int64_t rows = a.B * a.heads * a.N, far = a.causal ? a.B * a.heads * a.prefix * a.D : 0;
  BackwardOfQueries<T> queries(a);
  BackwardOfKeys<T> keys(a);
  const int64_t strips = a.B * a.heads * queries.tiling.strips();
  const Tile<float> lse2(rows), delta(rows), far_dk(far), far_dv(far),
      d_tables(a.d_table ? strips * queries.table_size() : 0);
  queries.lse2 = keys.lse2 = lse2.get();
  queries.delta = keys.delta = delta.get();
  queries.d_tables = d_tables.get();
  keys.far_dk = far_dk.get(), keys.far_dv = far_dv.get();
  run(parallel, rows, [&](int64_t begin, int64_t end) {
    const Tile<float> buffer(2 * a.D);
    for (int64_t i = begin; i < end; ++i) {
      lse2.get()[i] = a.lse[i] * kLog2E;
      delta.get()[i] = queries.product(a.d_out, a.out_rows, i / a.N, i % a.N, buffer.get());
    }
  });
  run_tasks(queries, queries.tasks(), parallel,
            [&](int64_t i, auto& scratch) { queries.task(i, scratch); });
  if (a.d_table)
    for (int64_t head = 0; head < a.heads; ++head) queries.sum_tables(head);
  run_tasks(keys, a.B * a.heads * keys.prefix_tiles(), parallel,
            [&](int64_t i, auto& scratch) { keys.prefix_tile(i, scratch); });
  run_tasks(keys, a.B * a.heads * keys.tiling.strips(), parallel,
            [&](int64_t i, auto& scratch) { keys.strip(i, scratch); });
}

}  // namespace

void forward(const Args& args, Parallel parallel) {
  with_types(args.dtype, [&](auto t) {
    const Forward<decltype(t)> pass(args);
    run_tasks(pass, pass.tasks(), parallel,
              [&](int64_t i, auto& scratch) { pass.task(i, scratch); });
  });
}

void backward(const Args& args, Parallel parallel) {
  with_types(args.dtype, [&](auto t) { backward_typed<decltype(t)>(args, parallel); });
}

}  // namespace IBN_ISA
}  // namespace lambda_attention
