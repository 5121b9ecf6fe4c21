// cudnn.h: attention by cuDNN's fused kernels, for the shapes that it takes. cuDNN is loaded at its first use. Knows
// nothing of when it is used (attend.c).
#ifndef PA_CUDA_CUDNN_H
#define PA_CUDA_CUDNN_H

#include "cuda/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cuda_cudnn cuda_cudnn;

typedef enum {
    CUDA_CUDNN_FORWARD,
    CUDA_CUDNN_BACKWARD,
    CUDA_CUDNN_DETERMINISTIC
} cuda_cudnn_pass; // the last: also
                   // backward

// For the current device; NULL where cuDNN is not found or does not take it: why says so, of that size.
cuda_cudnn *cuda_cudnn_create(char *why, size_t size);
void cuda_cudnn_destroy(cuda_cudnn *d);

// Whether one tensor with strides holds the keys, and cuDNN knows the rest: bf16 or fp16, no dropout. Pointers count
// only by where they lie from each other.
bool cuda_cudnn_expresses(const pa_attn *a);
// Bytes of work that this shape's plan needs, which is made where it is new (tenths of a second; not while a stream is
// captured); SIZE_MAX: cuDNN has none. The passes are asked for apart.
size_t cuda_cudnn_work(cuda_cudnn *d, const pa_attn *a, cuda_cudnn_pass pass);
// As cuda_attn_fwd and cuda_attn_bwd, with lse in natural logarithms too; only CUDA_CUDNN_DETERMINISTIC sums in one
// order. false: cuDNN failed.
bool cuda_cudnn_fwd(cuda_cudnn *d, cudaStream_t stream, const pa_attn *a, void *o, float *lse, void *work);
bool cuda_cudnn_bwd(cuda_cudnn *d, cudaStream_t stream, const pa_attn *a, const pa_attn_grads *g, cuda_cudnn_pass pass,
                    void *work);
// What cuDNN said when it last refused or failed.
const char *cuda_cudnn_why(const cuda_cudnn *d);

// Whether cuDNN would take the shape on a GPU of this architecture (80, 90), asked without one; why: what it says, of
// that size.
bool cuda_cudnn_supports(int architecture, const pa_attn *a, cuda_cudnn_pass pass, char *why, size_t size);

#ifdef __cplusplus
}
#endif
#endif
