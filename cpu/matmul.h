// matmul.h: matrix products by oneDNN, one cached primitive a shape. Knows nothing of the model.
#ifndef PA_CPU_MATMUL_H
#define PA_CPU_MATMUL_H

#include "cpu/ops.h"

typedef struct cpu_matmul cpu_matmul;

// Where the processor, or its instruction set that `isa` is for, has no products of bf16, bf16 operands are widened to
// float32 first.
bool cpu_matmul_widens(const pa_ops *isa);
// Bytes for that: for rows of up to `row` numbers, `matrix` numbers of b, and products with a_t only such as add a^T b
// to float32.
size_t cpu_matmul_room(size_t row, size_t matrix);
// room: that many bytes, the caller's; NULL where nothing is to be widened.
pa_status cpu_matmul_create(cpu_matmul **mm, const pa_ops *isa, void *room, size_t row, size_t matrix, pa_err *err);
void cpu_matmul_destroy(cpu_matmul *mm);
// c (m, n) = a (m, k) b (k, n). 2 m n k flop. The first call of a shape with some number of threads creates its
// primitive; later ones take no memory of ours. Call it between pa_threads_enter and pa_threads_leave.
pa_status cpu_matmul_run(cpu_matmul *mm, const pa_product *p, const void *a, const void *b, void *c, pa_err *err);
// Compares one product with plain loops: PA_FAIL where a region's threads leave part of it undone.
pa_status cpu_matmul_check(const pa_ops *isa, pa_type type, pa_err *err);
int cpu_matmul_created(const cpu_matmul *mm); // primitives so far

#endif
