// nccl.h: the GPUs of a run's ranks, one each: sums in buckets beside the backward pass, and gathers, over NCCL. All
// ranks make the same calls in the same order. The work runs in the order of streams, and is never captured: ranks
// would have to capture the same calls, and ncclCommAbort waits for each graph that holds one. Knows nothing of models.
#ifndef PA_CUDA_NCCL_H
#define PA_CUDA_NCCL_H

#include <cuda_runtime.h>

#include "host/ranks/comm.h"

typedef struct cuda_ranks cuda_ranks;

// Whether a run needs one: it has several ranks, or PATRAIN_NCCL is set, to try NCCL with one.
bool cuda_ranks_wanted(const pa_comm *c);
// Joins the ranks on the device that is set. PA_USAGE where this build has no NCCL; PA_FAIL where this machine has
// none. half: NULL, or cuda_sum_bytes of the device's memory, to sum gradients in bf16.
pa_status cuda_ranks_create(cuda_ranks **r, pa_comm *c, void *half, pa_err *err);
void cuda_ranks_destroy(cuda_ranks *r); // NULL is fine

// `count` gradients, shared out as pa_comm_share has it, in as many multiples of 16 as there are ranks. Sums the
// buckets that lie in [from, count), and have not been since the last join, once `stream` has come here, on a stream of
// its own. own NULL: each sum is everyone's, in place; else each rank has only its shares, consecutively in own, and
// the rest of grad is undefined.
pa_status cuda_ranks_sum(cuda_ranks *r, cudaStream_t stream, float *grad, float *own, size_t count, size_t from,
                         pa_err *err);
pa_status cuda_ranks_join(cuda_ranks *r, cudaStream_t stream, pa_err *err); // `stream` continues once those are done
// Everyone's shares, to everyone.
pa_status cuda_ranks_gather(cuda_ranks *r, cudaStream_t stream, float *data, size_t count, pa_err *err);
// Rank r's bytes of[r] (ranks), floats, to everyone.
pa_status cuda_ranks_gather_spans(cuda_ranks *r, cudaStream_t stream, float *data, const pa_span *of, pa_err *err);
pa_status cuda_ranks_sum_f64(cuda_ranks *r, cudaStream_t stream, double *x, pa_err *err);

// PA_OK once the stream is done. Fails if NCCL reports an error or makes no progress for the run's timeout; pending
// work is then abandoned, and no further call is possible.
pa_status cuda_ranks_wait(cuda_ranks *r, cudaStream_t stream, cudaError_t *status, pa_err *err);

#endif
