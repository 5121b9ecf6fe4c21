// attend.h: which attention runs: cuDNN's, where it agrees with our kernels on this GPU and is faster, else ours. Knows
// nothing of the model.
#ifndef PA_CUDA_ATTEND_H
#define PA_CUDA_ATTEND_H

#include "cuda/kernels.h"

typedef struct cuda_attend cuda_attend;

// Whether cuDNN can be faster with so many queries and dims. It works in tiles of 128 queries and pads dims; its plan,
// and the proof, take up to a second a shape, which a smaller one never earns back.
bool cuda_attend_pays(int latents, int dim_head);
// NULL where there is only one choice: built without cuDNN, or none is found, code other than sm_90's, or
// PATRAIN_CUDNN=0. deterministic: nothing is chosen by its time, and no pass whose sums have no order. prints: each
// choice, and why cuDNN is not used, to stderr, once.
cuda_attend *cuda_attend_create(bool deterministic, bool prints);
void cuda_attend_destroy(cuda_attend *t);
// Bytes of work for cuda_attend_fwd, and with back for cuda_attend_bwd too. t may be NULL here and below.
size_t cuda_attend_work(cuda_attend *t, const pa_attn *a, bool back);
// As cuda_attn_fwd and cuda_attn_bwd. The first call of a shape takes memory for a while and waits: both run on drawn
// numbers, are compared and timed. If that call is being captured, our kernels run.
void cuda_attend_fwd(cuda_attend *t, cudaStream_t stream, const pa_attn *a, void *o, float *lse, pa_work work);
void cuda_attend_bwd(cuda_attend *t, cudaStream_t stream, const pa_attn *a, const pa_attn_grads *g, pa_work work);

#endif
