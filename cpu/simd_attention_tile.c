// simd_attention_tile.c: the register-blocked product that both passes of attention are made of, and the packing of its
// operands. Knows nothing of softmax or masks.
#include "cpu/attention.h"

#include <omp.h>

#define product CPU_ISA(attn_product)

// C (rows, vectors VW): rows and vectors are constants once inlined, so the sums stay in registers: 24 of 32 for 6 x 4,
// for each unit of 4 loads of B and 6 broadcasts of A. 2 rows vectors VW flop a unit (4 with pairs).
SIMD_INLINE void kernel(const bool pairs, const int rows, const int vectors, attn_operands x) {
    const uint32_t *a = x.a.p, *b = x.b.p;
    // One index: clang 14 does not unroll two loops in time to keep the sums in registers.
    vf sum[ATTN_ROWS * ATTN_VECTORS];
    SIMD_UNROLL
    for (int i = 0; i < rows * vectors; i++)
        sum[i] = x.add ? vf_load(x.c.p + i / vectors * x.c.row + i % vectors * VW) : (vf){0};
    for (int t = 0; t < x.units; t++, a += x.a.step, b += x.b.row) {
        vu bt[ATTN_VECTORS];
        SIMD_UNROLL
        for (int j = 0; j < vectors; j++) bt[j] = vu_load(b + j * VW);
        SIMD_UNROLL
        for (int i = 0; i < rows * vectors; i++) {
            const vu at = vu_set(a[i / vectors * x.a.row]);
#if SIMD_PAIRS
            if (pairs)
                sum[i] = vf_dot(sum[i], at, bt[i % vectors]);
            else
#endif
                sum[i] += (vf)at * (vf)bt[i % vectors];
        }
    }
    SIMD_UNROLL
    for (int i = 0; i < rows * vectors; i++) vf_store(x.c.p + i / vectors * x.c.row + i % vectors * VW, sum[i]);
    (void)pairs;
}

// All rows for one column strip: whole register tiles, then one smaller.
SIMD_INLINE void strip(const bool pairs, const int vectors, attn_operands x) {
    for (; x.rows >= ATTN_ROWS; x.rows -= ATTN_ROWS) {
        kernel(pairs, ATTN_ROWS, vectors, x);
        x.a.p += ATTN_ROWS * x.a.row;
        x.c.p += ATTN_ROWS * x.c.row;
    }
    switch (x.rows) {
    case 1:
        kernel(pairs, 1, vectors, x);
        break;
    case 2:
        kernel(pairs, 2, vectors, x);
        break;
    case 3:
        kernel(pairs, 3, vectors, x);
        break;
    case 4:
        kernel(pairs, 4, vectors, x);
        break;
    case 5:
        kernel(pairs, 5, vectors, x);
        break;
    default:
        break;
    }
}

SIMD_INLINE void strips(const bool pairs, attn_operands x) {
    for (; x.cols > 0; x.cols -= ATTN_PANEL) {
        int vectors = x.cols < ATTN_PANEL ? (x.cols + VW - 1) / VW : ATTN_VECTORS;
        if (vectors == 1) strip(pairs, 1, x);
        if (vectors == 2) strip(pairs, 2, x);
#if SIMD_REGISTERS == 32
        if (vectors == 3) strip(pairs, 3, x);
        if (vectors == 4) strip(pairs, 4, x);
#endif
        x.b.p += x.b.panel;
        x.c.p += x.c.panel;
    }
}

void product(const attn_operands *x) {
#if SIMD_PAIRS
    if (x->pairs) {
        strips(true, *x);
        return;
    }
#endif
    strips(false, *x);
}

attn_plan CPU_ISA(attn_plan_make)(const pa_attn *a) {
    attn_plan p = {.pairs = SIMD_PAIRS && a->type == PA_TYPE_BF16};
    p.per = p.pairs ? 2 : 1;
    p.keys = a->kept + a->latents;
    p.key_pad = (p.keys + 3) / 4 * 4;
    p.query_pad = (a->latents + ATTN_PANEL - 1) / ATTN_PANEL * ATTN_PANEL;
    p.units = (a->dim_head + p.per - 1) / p.per;
    p.width = p.units * p.per;
    p.dim_pad = (a->dim_head + ATTN_PANEL - 1) / ATTN_PANEL * ATTN_PANEL;
    p.heads = (size_t)a->batch * (size_t)a->heads;
    p.key_plane = attn_line((size_t)p.key_pad * (size_t)p.units);
    p.query_plane = attn_line((size_t)p.query_pad * (size_t)p.units);
    return p;
}

size_t CPU_ISA(attn_work)(pa_device *d, const pa_attn *a, bool back) {
    const int threads = omp_get_max_threads();
    (void)d;
    (void)back;
    size_t most = CPU_ISA(attn_fwd_units)(a, threads);
    pa_attn less = *a; // fewer sequences are split into more parts
    for (less.batch = 1; less.batch <= a->batch; less.batch++) {
        size_t backward = CPU_ISA(attn_bwd_units)(&less, threads);
        if (backward > most) most = backward;
    }
    return 4 * most + 64;
}

void CPU_ISA(attn_units)(bool pairs, pa_type type, uint32_t *dst, const void *src, int D) {
    if (!src) {
        memset(dst, 0, 4 * (size_t)(pairs ? (D + 1) / 2 : D));
    } else if (type == PA_TYPE_F32) {
        memcpy(dst, src, 4 * (size_t)D);
    } else if (pairs) {
        if (D % 2) dst[D / 2] = 0;
        memcpy(dst, src, 2 * (size_t)D);
    } else {
        const uint16_t *h = src;
        for (int d = 0; d < D; d++) dst[d] = (uint32_t)h[d] << 16;
    }
}

void CPU_ISA(attn_units_across)(bool pairs, pa_type type, uint32_t *dst, const void *src0, const void *src1, int D) {
    if (!pairs) {
        CPU_ISA(attn_units)(false, type, dst, src0, D);
        return;
    }
    static const uint16_t zeros[ATTN_DIM];
    const uint16_t *even = src0 ? src0 : zeros, *odd = src1 ? src1 : zeros;
    for (int d = 0; d < D; d++) dst[d] = even[d] | (uint32_t)odd[d] << 16;
    if (D % 2) dst[D] = 0;
}

#ifdef SIMD_AVX512
// 16 x 16 in registers: at each step, blocks of 1, 2, 4, 8 change places across the diagonal.
static void transpose_block(uint32_t *dst, ptrdiff_t dst_row, const uint32_t *src, ptrdiff_t src_row) {
    const vi lane = vi_lanes();
    vu x[16];
    SIMD_UNROLL
    for (int i = 0; i < 16; i++) x[i] = vu_load(src + i * src_row);
    SIMD_UNROLL
    for (int step = 1; step < 16; step *= 2) {
        // b[l - step] or a[l]; b[l] or a[l + step]
        const vi odd = (lane & step) != 0;
        const vi upper = (lane - step + 16) & odd;
        const vi lower = lane & ~odd;
        const __m512i first = (__m512i)(upper | lower),
                      second = (__m512i)((lane + 16) & odd) | (__m512i)((lane + step) & ~odd);
        SIMD_UNROLL
        for (int i = 0; i < 16; i++) {
            if (i & step) continue;
            __m512i a = (__m512i)x[i], b = (__m512i)x[i + step];
            x[i] = (vu)_mm512_permutex2var_epi32(a, first, b);
            x[i + step] = (vu)_mm512_permutex2var_epi32(a, second, b);
        }
    }
    SIMD_UNROLL
    for (int i = 0; i < 16; i++) vu_store(dst + i * dst_row, x[i]);
}
#endif

void CPU_ISA(attn_transpose)(uint32_t *dst, ptrdiff_t dst_row, const uint32_t *src, ptrdiff_t src_row, int rows,
                             int cols) {
    for (int i = 0; i < rows; i += 16)
        for (int j = 0; j < cols; j += 16) {
#ifdef SIMD_AVX512
            if (i + 16 <= rows && j + 16 <= cols) {
                transpose_block(dst + j * dst_row + i, dst_row, src + i * src_row + j, src_row);
                continue;
            }
#endif
            for (int c = j; c < j + 16 && c < cols; c++)
                for (int r = i; r < i + 16 && r < rows; r++) dst[c * dst_row + r] = src[r * src_row + c];
        }
}

void CPU_ISA(attn_store)(pa_type type, void *dst, const float *src, float factor, int D) {
    int d = 0;
    if (type == PA_TYPE_F32) {
        float *f = dst;
        for (; d < D; d++) f[d] = factor * src[d];
        return;
    }
    uint16_t *h = dst;
    for (; d + VW <= D; d += VW) vf_store_bf16(h + d, vf_load(src + d) * factor);
    for (; d < D; d++) h[d] = bf16_from_float(factor * src[d]);
}

void CPU_ISA(attn_pack_keys)(const pa_attn *a, const attn_plan *p, uint32_t *dst, const void *prefix, const void *own,
                             bool across) {
    const int step = 64;
    const int64_t blocks = (p->key_pad + step - 1) / step, count = (int64_t)p->heads * blocks;
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < count; i++) {
        int head = (int)(i / blocks), first = (int)(i % blocks) * step, b = head / a->heads, h = head % a->heads;
        int last = first + step < p->key_pad ? first + step : p->key_pad;
        uint32_t *plane = dst + (size_t)head * p->key_plane;
        for (int m = first; m < last; m += across ? p->per : 1) {
            const void *row = attn_key_row(a, prefix, own, b, h, m);
            if (across) CPU_ISA(attn_units_across)
            (p->pairs, a->type, plane + (size_t)(m / p->per) * (size_t)p->width, row,
             attn_key_row(a, prefix, own, b, h, m + 1), a->dim_head);
            else CPU_ISA(attn_units)(p->pairs, a->type, plane + (size_t)m * (size_t)p->units, row, a->dim_head);
        }
    }
}
