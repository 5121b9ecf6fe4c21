// ops.h: the operations of the model on a CPU, as one table of functions for each instruction set (plain C; x86-64 with AVX2 + FMA,
// AVX-512, AVX-512 + bf16), chosen once at run time. cpu/table.c puts them behind host/model/ops.h.
// Knows nothing of files, configuration or training. Matrix products are in cpu/matmul.h.
//
// Activations are float32 or bf16 (`type`; void pointers below); parameters, the residual stream, statistics, losses and all sums are
// float32 or better. Rows are laid out as all kept prefix rows of the batch, B K of them, then all latent rows, B N.
// Every function splits its work over OpenMP threads in a way that does not depend on timing: the same thread count gives the same bits.
#ifndef PA_CPU_OPS_H
#define PA_CPU_OPS_H

#include "host/base/base.h"
#include "host/model/ops.h"

typedef struct {
    const char *name; // "avx512_bf16", "avx512", "avx2", "generic"
    bool bf16;        // has products of it

    // o (B N, ldo) = softmax(scale q k^T, causal) v; lse (B, H, N): ln of the sum of exponentials, kept for the backward pass.
    // 4 I flop a visible pair. Scores never leave a tile: memory is work's only.
    void (*attn_fwd)(const pa_attn *a, void *o, float *lse, void *work);
    // Overwrites dq (ldq), dkp, dvp, dkn, dvn (ldkv) with the gradients. 8 I flop a visible pair, 10 I done.
    void (*attn_bwd)(const pa_attn *a, const void *o, const float *lse, const void *dout, void *dq, void *dkp, void *dvp, void *dkn,
                     void *dvn, void *work);
    // Bytes of work that either needs, for this shape or one with fewer sequences, latents or kept keys, and `threads` threads.
    size_t (*attn_work)(const pa_attn *a, int threads);
    // One query a stream against a cache: k, v (S, H, capacity, D) of `type`, the first `length` filled; q, rows ldq
    // apart, and o (S, H D) float32. Limited by reading 2 S H length D cache elements.
    void (*attn_decode)(pa_type type, int streams, int heads, int dim_head, int length, int capacity, float scale, const float *q,
                        ptrdiff_t ldq, const void *k, const void *v, float *o, void *work);
    size_t (*attn_decode_work)(int streams, int heads, int dim_head, int capacity, int threads);

    // x (rows, C) = token_emb[token[r]] + pos_emb[position[r]] (pos_emb NULL: none).
    void (*embed_fwd)(float *x, const int32_t *token, const int32_t *position, const float *token_emb, const float *pos_emb, int rows,
                      int C);
    // Adds to dtoken_emb, dpos_emb; each thread owns columns, so that sums have one order.
    void (*embed_bwd)(float *dtoken_emb, float *dpos_emb, const float *dx, const int32_t *token, const int32_t *position, int rows, int C);
    // y = LN(x; w, b), eps 1e-5. mean, rstd (rows) are kept for the backward pass. With r: z = x + r (+ bias) is written first and
    // normalised in x's place. w NULL: y is a copy.
    void (*layernorm_fwd)(pa_type type, float *z, void *y, float *mean, float *rstd, const float *x, const float *r, const float *bias,
                          const float *w, const float *b, int rows, int C);
    // dx += LN's gradient from dy; dx_copy (may be NULL) = dx in `type`. Adds to dw, db through work (threads, 2, C) floats.
    void (*layernorm_bwd)(pa_type type, float *dx, void *dx_copy, float *dw, float *db, const void *dy, const float *x, const float *mean,
                          const float *rstd, const float *w, int rows, int C, float *work);
    // Rotates heads of D dims in place, pairs (j, j + R/2) for j < R/2, by table (positions, R/2, 2) of cos and sin; sign -1: back.
    // Heads h of row r start at x + r * ld + h * D.
    void (*rotary)(pa_type type, void *x, ptrdiff_t ld, const int32_t *position, const float *table, int rows, int H, int D, int R,
                   float sign);
    // RMS norm of each head's D numbers (eps 1e-6), times w (D), in place; rstd (rows, H) is kept.
    void (*head_norm_fwd)(pa_type type, void *x, ptrdiff_t ld, float *rstd, const float *w, int rows, int H, int D);
    // In place on dy -> dx, from the normalised y (so x is not needed where w has no zero: x rstd = y / w). Adds to dw.
    void (*head_norm_bwd)(pa_type type, void *dy, ptrdiff_t ld_dy, float *dw, const void *x, ptrdiff_t ld_x, const float *rstd,
                          const float *w, int rows, int H, int D, float *work);
    // g (rows, F) = activation(h), dropout after it. The draw's counter is (layer, row of the sequence, column).
    void (*activation_fwd)(pa_type type, pa_activation kind, void *g, const void *h, int rows, int F, const pa_dropout *dropout,
                           int rows_a_sequence);
    // dg -> dh, in place.
    void (*activation_bwd)(pa_type type, pa_activation kind, void *dg, const void *h, int rows, int F, const pa_dropout *dropout,
                           int rows_a_sequence);
    // logits (rows, V): nats[r] = -ln softmax(logits)[target], 0 where the target is PAD (>= V - 1) or there is none; best[r] the most
    // probable. With dlogits (of `type`, may alias nothing): scale * d(nats + z_loss ln(Z)^2)/dlogits, zero rows for PAD.
    void (*cross_entropy)(pa_type type, void *dlogits, float *nats, uint16_t *best, const float *logits, const uint16_t *target,
                          float scale, float z_loss, int rows, int V);
    // Sum of squares in double, in a fixed order.
    double (*sum_squares)(const float *x, size_t n);
    void (*adam)(pa_device *d, const pa_adam *a); // as in host/model/ops.h; d is not used
    void (*cast)(pa_type type, void *y, const float *x, size_t n);
    void (*widen)(pa_type type, float *y, const void *x, size_t n);
    // sum (C) += the columns of x (rows, C).
    void (*column_sum)(float *sum, const float *x, int rows, int C);
    // y (S, out) = x (S, in) w^T (+ bias), w (out, in) of `type`, read once. For decoding. work: (S, in), with bf16.
    void (*gemv)(pa_type type, float *y, const float *x, const void *w, const float *bias, int streams, int in, int out, float *work);
    // The same with w (out, in) of 8 bits: row o stands for scale[o] w[o].
    void (*gemv_int8)(float *y, const float *x, const int8_t *w, const float *scale, const float *bias, int streams, int in, int out);
} cpu_ops;

// The best table for this processor; the environment variable PATRAIN_ISA (a table's name) asks for a lesser one. NULL where that one
// is not built or not supported here.
const cpu_ops *cpu_ops_select(const char *name);

// Attention and the rest are compiled once an instruction set, each file's functions named by CPU_ISA(name).
#define CPU_PASTE_(a, b) a##_##b
#define CPU_PASTE(a, b) CPU_PASTE_(a, b)
#ifdef PA_ISA
#define CPU_ISA(name) CPU_PASTE(name, PA_ISA)
#endif

#endif
