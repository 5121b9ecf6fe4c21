// matmul.h: matrix products by cuBLASLt, one cached plan a shape. Knows nothing of the model.
#ifndef PA_CUDA_MATMUL_H
#define PA_CUDA_MATMUL_H

#include "cuda/kernels.h"
#include "host/base/base.h"

typedef struct cuda_matmul cuda_matmul;

// workspace: CUDA_MATMUL_WORKSPACE bytes of device memory, the caller's. timed: see below; else the library's first
// choice is kept.
pa_status cuda_matmul_create(cuda_matmul **mm, cudaStream_t stream, void *workspace, bool timed, pa_err *err);
void cuda_matmul_destroy(cuda_matmul *mm);
// c (m, n) = a (m, k) b (k, n). 2 m n k flop; m k + k n numbers read, m n written (read too with `add`). The first call
// of a shape makes its plan: the library's first choices are timed on the operands at hand, and the fastest is kept
// (its very first where the call is being captured). Later ones only launch.
pa_status cuda_matmul_run(cuda_matmul *mm, const pa_product *p, const void *a, const void *b, void *c, pa_err *err);
int cuda_matmul_created(const cuda_matmul *mm); // plans so far

#endif
