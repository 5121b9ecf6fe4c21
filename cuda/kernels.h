// kernels.h: the operations of the model on an NVIDIA GPU: the names, meanings and argument order of cpu/ops.h, a stream before them.
// Pointers are device memory unless said. A call launches and returns; errors show in cudaGetLastError and when the stream is next waited
// for. No call takes memory, waits, or reads the host's memory later: all can be captured in a graph. Knows nothing of files,
// configuration or training. Matrix products are in cuda/matmul.h.
//
// Activations are float32, bf16 or fp16 (`type`; void pointers below); parameters, the residual stream, statistics, losses and all sums
// are float32 or better. Rows are laid out as all kept prefix rows of the batch, B K of them, then all latent rows, B N. Pointers are
// aligned to 16 bytes, and so are rows of activations where the row's width allows.
// Every operation gives the same bits each time: sums have one order, and nothing is added by atomics.
//
// Shapes are those of cpu/ops.h. Below, s is the bytes of a number of `type`, n how many numbers an operand has; bytes are what must pass
// between the GPU and its memory, each operand once, and a kernel's comment names what it reads more often, its shared memory and how
// many blocks fit. An operation whose flop divided by its bytes is below the GPU's own quotient (T4 200, A100 160, H100 300, by tensor
// cores; 25, 10, 20 without them) is limited by its bytes.
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

// cuda/attention_fwd.cu, cuda/attention_bwd.cu. A pair is a query of a head and a key that it sees: B H N (K + (N + 1) / 2) of them.
// Forward 4 D flop a pair; q read, o written once, 2 s I bytes a row of latents, and keys and values read once for every 64 or 128 queries
// of their head. Backward 14 D flop a pair. Scores never leave a tile. By tensor cores: fp16, and from sm_80 on bf16, where all rows are
// aligned to 16 bytes; the rest by plain float32 arithmetic. o comes back to the backward pass as it was written.
void cuda_attn_fwd(cudaStream_t stream, const pa_attn *a, void *o, float *lse, void *work);
void cuda_attn_bwd(cudaStream_t stream, const pa_attn *a, const void *o, const float *lse, const void *dout, void *dq, void *dkp, void *dvp,
                   void *dkn, void *dvn, void *work);

// cuda/decode.cu. One query a stream against a cache k, v (S, H, capacity, D) of `type`: first puts this position's key and value
// (q, k_new, v_new (S, H D) float32, rows ldq and ldkv apart) at row *length of it, then attends to rows 0 .. *length. *length is device
// memory, not advanced here. 2 s D bytes and 4 D flop a head and row attended to.
void cuda_attn_decode(cudaStream_t stream, pa_type type, int streams, int heads, int dim_head, const int *length, int capacity, float scale,
                      ptrdiff_t ldq, ptrdiff_t ldkv, const float *q, const float *k_new, const float *v_new, void *k, void *v, float *o,
                      void *work);
// y (S, out) = x (S, in) w^T (+ bias), w (out, in) of `type`, read once for every 4 streams: s in out bytes, 2 S in out flop.
void cuda_gemv(cudaStream_t stream, pa_type type, float *y, const float *x, const void *w, const float *bias, int streams, int in, int out);
// The same with w of 8 bits: row o stands for scale[o] w[o]. in out bytes.
void cuda_gemv_int8(cudaStream_t stream, float *y, const float *x, const int8_t *w, const float *scale, const float *bias, int streams,
                    int in, int out);
// q = round(w / scale), scale = max |w| of the row / 127, and w (rows, in) becomes what that stands for: the numbers of the CPU. 9 bytes a
// number.
void cuda_round_int8(cudaStream_t stream, int8_t *q, float *scale, float *w, int rows, int in);

// cuda/embed.cu. Forward 4 bytes a number, and embeddings from the cache. Gradients (positions = rows of dpos_emb) are added to, by one
// block a token (and position), which adds its rows in order: 4 bytes a number of dx, 12 more with positions.
void cuda_embed_fwd(cudaStream_t stream, float *x, const int32_t *token, const int32_t *position, const float *token_emb,
                    const float *pos_emb, int rows, int C);
void cuda_embed_bwd(cudaStream_t stream, float *dtoken_emb, float *dpos_emb, const float *dx, const int32_t *token, const int32_t *position,
                    int rows, int C, int V, int positions);

// cuda/norm.cu. work: cuda_norm_work(C) bytes. Layer norm forward: 4 + s bytes a number, 12 + s with r; backward 12 + s, 12 + 2 s with the
// copy. Head norm: 2 s and 3 s. About 10 flop a number forward, 15 backward.
void cuda_layernorm_fwd(cudaStream_t stream, pa_type type, float *z, void *y, float *mean, float *rstd, const float *x, const float *r,
                        const float *bias, const float *w, const float *b, int rows, int C);
void cuda_layernorm_bwd(cudaStream_t stream, pa_type type, float *dx, void *dx_copy, float *dw, float *db, const void *dy, const float *x,
                        const float *mean, const float *rstd, const float *w, int rows, int C, float *work);
void cuda_head_norm_fwd(cudaStream_t stream, pa_type type, void *x, ptrdiff_t ld, float *rstd, const float *w, int rows, int H, int D);
void cuda_head_norm_bwd(cudaStream_t stream, pa_type type, void *dy, ptrdiff_t ld_dy, float *dw, const void *x, ptrdiff_t ld_x,
                        const float *rstd, const float *w, int rows, int H, int D, float *work);
// sum (C) += the columns of x (rows, C): 4 bytes and a flop a number.
void cuda_column_sum(cudaStream_t stream, float *sum, const float *x, int rows, int C, float *work);

// cuda/pointwise.cu. Bytes a number: rotary 2 s R / D, 3 flop a number turned; activation 2 s forward, 3 s backward, 25 flop (GELU), 1
// (squared ReLU); casts 4 + s.
void cuda_rotary(cudaStream_t stream, pa_type type, void *x, ptrdiff_t ld, const int32_t *position, const float *table, int rows, int H,
                 int D, int R, float sign);
void cuda_activation_fwd(cudaStream_t stream, pa_type type, pa_activation kind, void *g, const void *h, int rows, int F,
                         const pa_dropout *dropout, int rows_a_sequence);
void cuda_activation_bwd(cudaStream_t stream, pa_type type, pa_activation kind, void *dg, const void *h, int rows, int F,
                         const pa_dropout *dropout, int rows_a_sequence);
void cuda_cast(cudaStream_t stream, pa_type type, void *y, const float *x, size_t n);
void cuda_widen(cudaStream_t stream, pa_type type, float *y, const void *x, size_t n);

// cuda/loss.cu. scale is read from device memory: scalars->loss_scale. best may be NULL. 4 + s bytes and 40 flop a logit.
void cuda_cross_entropy(cudaStream_t stream, pa_type type, void *dlogits, float *nats, uint16_t *best, const float *logits,
                        const uint16_t *target, const pa_scalars *scalars, float z_loss, int rows, int V);
// x's sum in one order: *sum, and added to *total (NULL: not). 4 n bytes.
void cuda_sum(cudaStream_t stream, double *sum, double *total, const float *x, size_t n);

// cuda/optimizer.cu. *sum (double) = sum of squares in one order; work: cuda_sum_squares_work() bytes. 4 n bytes, 2 n flop.
void cuda_sum_squares(cudaStream_t stream, double *sum, const float *x, size_t n, void *work);
// Over all numbers at once; reads from the device's `decays`, not from params, where weight decay applies.
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
