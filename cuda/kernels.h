// kernels.h: the operations of host/model/ops.h on an NVIDIA GPU. ops.h defines each; this header adds what only a GPU
// has. A call launches in the device's stream and returns; errors show in cudaGetLastError and when the stream is next
// waited for. No call takes memory, waits, or reads the host's memory later: all can be captured in a graph. Knows
// nothing of files, configuration or training. Matrix products are in cuda/matmul.h.
//
// Activations are float32, bf16 or fp16. Pointers are aligned to 16 bytes, and so are rows of activations where the
// row's width allows. Nothing is added by atomics.
//
// A kernel's comment names what it reads more often than once, its shared memory and how many blocks fit. Whether flop
// or bytes limit an operation depends on the GPU's flop-to-byte ratio: T4 200, A100 160, H100 300 with tensor cores;
// 25, 10, 20 without. Flop here are those that the GPU computes; ops.h counts the useful ones.
#ifndef PA_CUDA_KERNELS_H
#define PA_CUDA_KERNELS_H

#include <cuda_runtime.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cuda/sizes.h"
#include "host/model/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

// cuda/device.cu. Which code of this build the GPU runs: 75, 80 or 90; 0: none.
int cuda_arch(void);

// cuda/attention_fwd.cu, cuda/attention_bwd.cu: our own attention; cuda/attend.h may choose cuDNN's. Forward: keys and
// values are read once for every 64 or 128 queries of their head. Backward: 14 D flop a pair; work: cuda_attn_work
// bytes. By tensor cores: fp16, and from sm_80 on bf16, where all rows are aligned to 16 bytes; the rest by plain
// float32 arithmetic.
void cuda_attn_fwd(cudaStream_t stream, const pa_attn *a, void *o, float *lse);
void cuda_attn_bwd(cudaStream_t stream, const pa_attn *a, const pa_attn_grads *g, void *work);

// cuda/decode.cu
void cuda_attn_decode(pa_device *d, const pa_attn_decode *a);

// cuda/gemv.cu. Reads w once for every 8 streams; work is not used.
void cuda_gemv(pa_device *d, const pa_gemv *a);
void cuda_gemv_int8(pa_device *d, const pa_gemv *a);
void cuda_round_int8(pa_device *d, int8_t *q, float *scale, float *w, int rows, int in);

// cuda/embed.cu. Gradients are added to by one block a token (and position), which adds its rows in order: 4 bytes a
// number of dx, 12 more with positions.
void cuda_embed_fwd(pa_device *d, float *x, const pa_embed *a);
void cuda_embed_bwd(pa_device *d, const pa_embed_grads *a);
void cuda_add_rows(pa_device *d, const pa_add_rows *a);
void cuda_add_rows_bwd(pa_device *d, const pa_add_rows_grads *a);

// cuda/norm.cu. work: cuda_norm_work bytes.
void cuda_layernorm_fwd(pa_device *d, const pa_layernorm *a);
void cuda_layernorm_bwd(pa_device *d, const pa_layernorm_grads *a);
void cuda_head_norm_fwd(pa_device *d, const pa_head_norm *a);
void cuda_head_norm_bwd(pa_device *d, const pa_head_norm_grads *a);
void cuda_column_sum(pa_device *d, float *sum, const float *x, int rows, int C, void *work);

// cuda/pointwise.cu. GELU takes 25 flop a number in 16 bits, 100 in float32.
void cuda_rotary(pa_device *d, const pa_rotary *a);
void cuda_activation_fwd(pa_device *d, const pa_activate *a);
void cuda_activation_bwd(pa_device *d, const pa_activate *a);
void cuda_cast(pa_device *d, pa_type type, void *y, const float *x, size_t n);
void cuda_widen(pa_device *d, pa_type type, float *y, const void *x, size_t n);
// The same between float32 and bf16, in another stream.
void cuda_cast_bf16(cudaStream_t stream, void *y, const float *x, size_t n);
void cuda_widen_bf16(cudaStream_t stream, float *y, const void *x, size_t n);

// cuda/loss.cu
void cuda_cross_entropy(pa_device *d, const pa_cross_entropy *a);
void cuda_sum(pa_device *d, double *sum, double *total, const float *x, size_t n);

// cuda/optimizer.cu. adam takes all numbers at once; where weight decay applies it reads from the device's `flags`,
// not from params.
void cuda_sum_squares(pa_device *d, double *sum, const float *x, size_t n, void *work);
void cuda_adam(pa_device *d, const pa_adam *a);

// cuda/muon.cu. x and the copy of cuda_muon are of one type.
void cuda_momentum(pa_device *d, const pa_momentum *a);
void cuda_normalise(pa_device *d, const pa_normalise *a);
void cuda_polynomial(pa_device *d, const pa_polynomial *a);
void cuda_muon(pa_device *d, const pa_muon *a);

#ifdef __cplusplus
}
#endif
#endif
