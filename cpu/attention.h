// attention.h: what the attention files (simd_attention*.c) share: exported functions, panels, the register-blocked
// product, work sizes. Private to cpu/. Knows nothing of layers beyond the number that dropout draws by.
//
// Operands are packed in units of 32 bits along the dimension that is summed over: one float, or two neighbouring bf16
// where the processor multiplies such pairs (attn_plan.pairs). bf16 tensors become floats on packing elsewhere. One
// register kernel thus serves both.
#ifndef PA_CPU_ATTENTION_H
#define PA_CPU_ATTENTION_H

#include "cpu/ops.h"
#include "cpu/simd.h"
#include "host/base/philox.h"

// Operations of host/model/ops.h. A number that is not finite reaches everything that sees it, and what shares a tile
// with that.
void CPU_ISA(attn_fwd)(pa_device *d, const pa_attn *a, void *o, float *lse, pa_work work);
void CPU_ISA(attn_bwd)(pa_device *d, const pa_attn *a, const pa_attn_grads *g, pa_work work);
size_t CPU_ISA(attn_work)(pa_device *d, const pa_attn *a, bool back);
void CPU_ISA(attn_decode)(pa_device *d, const pa_attn_decode *a);
size_t CPU_ISA(decode_work)(pa_device *d, int streams, int heads, int dim_head, int capacity);

enum {
    ATTN_ROWS = 6,                               // rows of the register tile
    ATTN_VECTORS = SIMD_REGISTERS == 32 ? 4 : 2, // vectors a row of it
    ATTN_PANEL = ATTN_VECTORS * VW,              // columns of it; packed panels are this wide
    ATTN_QUERIES = 128,                          // queries a block of the backward pass, whole panels
    ATTN_DIM = 256,                              // most dims a head
};

// Sizes that follow from a shape. Letters as in host/model/ops.h; keys are the kept ones, then the latents.
typedef struct {
    bool pairs;
    int per;            // numbers a unit: 2 with pairs, else 1
    int keys;           // K + N
    int key_pad;        // keys to a multiple of 4: dropout draws for 4 neighbours
    int query_pad;      // N to whole panels
    int units;          // units a row of D
    int width;          // units a row of units that run over rows: units * per
    int dim_pad;        // D to whole panels
    size_t heads;       // B H
    size_t key_plane;   // units of one head's packed keys, or values
    size_t query_plane; // units of one head's packed queries along D
} attn_plan;
attn_plan CPU_ISA(attn_plan_make)(const pa_attn *a);

// Units of work, in multiples of a cache line.
static inline size_t attn_line(size_t units) {
    return (units + 15) / 16 * 16;
}
size_t CPU_ISA(attn_fwd_units)(const pa_attn *a, int threads);
size_t CPU_ISA(attn_bwd_units)(const pa_attn *a, int threads);

// Operands of a product. A's unit (i, t) is at p[i row + t step]; B's (t, j) and C's (i, j) at p[t row + j / PANEL
// panel + j % PANEL].
typedef struct {
    const uint32_t *p;
    ptrdiff_t row, step;
} attn_a;
typedef struct {
    const uint32_t *p;
    ptrdiff_t row, panel;
} attn_b;
typedef struct {
    float *p;
    ptrdiff_t row, panel;
} attn_c;
typedef struct {
    bool pairs, add; // add: C += A B, else C = A B
    int rows, cols, units;
    attn_a a; // (rows, units)
    attn_b b; // (units, cols)
    attn_c c; // (rows, cols)
} attn_operands;
// 2 rows cols units flop (4 with pairs). cols is rounded up to VW.
void CPU_ISA(attn_product)(const attn_operands *x);

// Packing. src NULL stands for a row of zeros. A row in units along D; or D units across two rows (one where units are
// floats).
void CPU_ISA(attn_units)(bool pairs, pa_type type, uint32_t *dst, const void *src, int D);
void CPU_ISA(attn_units_across)(bool pairs, pa_type type, uint32_t *dst, const void *src0, const void *src1, int D);
// dst (cols, rows) = src (rows, cols) transposed.
void CPU_ISA(attn_transpose)(uint32_t *dst, ptrdiff_t dst_row, const uint32_t *src, ptrdiff_t src_row, int rows,
                             int cols);
// dst (D) of `type` = factor src.
void CPU_ISA(attn_store)(pa_type type, void *dst, const float *src, float factor, int D);
// Packs every head's keys, and values: along D (rows of `units`), or across two keys (rows of `width`); call inside a
// parallel region.
void CPU_ISA(attn_pack_keys)(const pa_attn *a, const attn_plan *p, uint32_t *dst, const void *prefix, const void *own,
                             bool across);

// Row of key m (NULL past the end) or query n of batch entry b, head h; `size` bytes a number.
static inline const void *attn_key_row(const pa_attn *a, const void *prefix, const void *own, int b, int h, int m) {
    if (m >= a->kept + a->latents) return NULL;
    const char *base = m < a->kept ? prefix : own;
    ptrdiff_t row = m < a->kept ? (ptrdiff_t)b * a->kept + m : (ptrdiff_t)b * a->latents + m - a->kept;
    return base + (row * a->ldkv + (ptrdiff_t)h * a->dim_head) * (ptrdiff_t)pa_size(a->type);
}
static inline const void *attn_query_row(const pa_attn *a, const void *base, ptrdiff_t ld, int b, int h, int n) {
    if (n >= a->latents) return NULL;
    return (const char *)base +
           (((ptrdiff_t)b * a->latents + n) * ld + (ptrdiff_t)h * a->dim_head) * (ptrdiff_t)pa_size(a->type);
}

// Dropout of the weight of query n for key m: draw index 2^63 + layer 2^52 + h 2^40 + n 2^20 + m / 4, its v[m % 4] < p
// 2^32 drops. Valid for layers < 2^11, heads < 2^12, latents < 2^20, keys < 2^22. z[i] = 0 or 1 / (1 - p) for queries
// n, n + 1, ... (lanes) and keys m + i, m a multiple of 4.
SIMD_INLINE void attn_keep(vf z[4], const pa_dropout *d, int b, int h, int n, int m) {
    vu lane = (vu)(vi_lanes() + n), draw[4];
    vu low0 = lane << 20 | (uint32_t)(m / 4), low1 = lane >> 12 | (1u << 31 | d->layer << 20 | (uint32_t)h << 8);
    vu_philox(draw, d->seed, (uint64_t)PA_RANDOM_DROPOUT << 56 | d->window[b], low1, low0);
    vu limit = vu_set((uint32_t)((double)d->p * 4294967296.0));
    vf factor = vf_set((float)(1.0 / (1.0 - (double)d->p)));
    for (int i = 0; i < 4; i++) z[i] = (vf)((vu)factor & (vu)(draw[i] >= limit));
}

#endif
