// simd_attention_bwd.c: attention's backward pass: five products a tile, scores computed once. Knows nothing of layers or projections.
//
// A task is a share of the key blocks of one head. For each of its blocks, against all queries that see it, on transposed tiles (keys by
// queries), so that what belongs to a query (lse, delta) belongs to a lane:
//     S^T = K Q^T     P^T = exp(scale S^T - lse)     dP^T = V dO^T     dS^T = P^T (dP^T - delta),  delta = sum over d of dO O
//     dV += P^T dO    dK += dS^T Q                   dQ^T += K^T dS^T
// dK and dV of a block stay in cache; dQ^T is summed in work, one copy a task, in the order of blocks; then copies are added in order.
// So the bits depend only on the number of threads. 10 D flop a visible pair.
#include "cpu/attention.h"
#include <omp.h>

enum { BWD_CHUNK = 24, BWD_KEYS = 192 }; // keys; multiples of ATTN_ROWS and of 4

typedef struct {
    float *score, *dweight; // (CHUNK, QUERIES) S^T, dP^T
    uint32_t *weight;       // (KEYS, QUERIES / per) units: P^T
    uint32_t *dscore;       // the same of dS^T
    uint32_t *across;       // (KEYS / per, QUERIES) units of dS^T across keys; dscore itself without pairs
    float *dk, *dv;         // (KEYS, dim_pad)
    uint32_t *rows;         // (PANEL, D) to transpose
} scratch;

// Everything in work, by head.
typedef struct {
    uint32_t *keys, *keys_across, *values; // key_plane
    uint32_t *query, *dout;                // query_plane: panels of (units, PANEL)
    uint32_t *query_across, *dout_across;  // (dim_pad / PANEL, query_pad / per, PANEL)
    float *lse, *delta;                    // (query_pad) lse in log2
    float *dquery;                         // (heads, splits, query_pad / PANEL, D, PANEL)
    uint32_t *rest;                        // scratch, one a thread
    size_t across_plane, dquery_plane;
    int splits;
} layout;

static size_t scratch_units(const attn_plan *p, int D) {
    return 2 * BWD_CHUNK * ATTN_QUERIES + 3 * BWD_KEYS * ATTN_QUERIES + 2 * BWD_KEYS * (size_t)p->dim_pad + ATTN_PANEL * ((size_t)D + 1);
}

// Tasks a head, so that all threads have work to the end: the fewest that leave no more than a tenth of them idle on average.
static int splits_for(const attn_plan *p, int threads) {
    int blocks = (p->keys + BWD_KEYS - 1) / BWD_KEYS;
    for (int s = 1; s < blocks; s++) {
        size_t tasks = p->heads * (size_t)s, rounds = (tasks + (size_t)threads - 1) / (size_t)threads;
        if (10 * tasks >= 9 * rounds * (size_t)threads) return s;
    }
    return blocks;
}

static uint32_t *take(uint32_t *base, size_t *used, size_t units) {
    uint32_t *p = base ? base + *used : NULL;
    *used += attn_line(units);
    return p;
}

// Lays work out from `base` (NULL: only counts) and returns the units used.
static size_t layout_at(layout *l, const pa_attn *a, const attn_plan *p, uint32_t *base, int threads) {
    const size_t D = (size_t)a->dim_head, Q = (size_t)p->query_pad, heads = p->heads;
    size_t used = 0;
    l->splits = splits_for(p, threads);
    l->across_plane = attn_line(Q / (size_t)p->per * (size_t)p->dim_pad);
    l->dquery_plane = attn_line(Q * D);
    l->keys = take(base, &used, heads * p->key_plane);
    l->keys_across = p->pairs ? take(base, &used, heads * p->key_plane) : l->keys;
    l->values = take(base, &used, heads * p->key_plane);
    l->query = take(base, &used, heads * p->query_plane);
    l->dout = take(base, &used, heads * p->query_plane);
    l->query_across = take(base, &used, heads * l->across_plane);
    l->dout_across = take(base, &used, heads * l->across_plane);
    l->lse = (float *)take(base, &used, heads * Q);
    l->delta = (float *)take(base, &used, heads * Q);
    l->dquery = (float *)take(base, &used, heads * (size_t)l->splits * l->dquery_plane);
    l->rest = take(base, &used, (size_t)threads * attn_line(scratch_units(p, a->dim_head)));
    return used;
}

size_t CPU_ISA(attn_bwd_units)(const pa_attn *a, int threads) {
    attn_plan p = CPU_ISA(attn_plan_make)(a);
    layout l;
    return layout_at(&l, a, &p, NULL, threads);
}

static scratch scratch_at(const attn_plan *p, uint32_t *at) {
    scratch s = {.score = (float *)at};
    s.dweight = s.score + BWD_CHUNK * ATTN_QUERIES;
    s.weight = at += 2 * BWD_CHUNK * ATTN_QUERIES;
    s.dscore = at += BWD_KEYS * ATTN_QUERIES;
    s.across = at += BWD_KEYS * ATTN_QUERIES;
    s.dk = (float *)(at += BWD_KEYS * ATTN_QUERIES);
    s.dv = (float *)(at += BWD_KEYS * p->dim_pad);
    s.rows = at + BWD_KEYS * p->dim_pad;
    if (!p->pairs) s.across = s.dscore;
    return s;
}

// Packs queries n .. n + PANEL - 1 of a head both ways: dst (units, PANEL), and dst_across by panels of D.
static void pack_panel(const pa_attn *a, const attn_plan *p, const void *src, ptrdiff_t ld, uint32_t *dst, uint32_t *dst_across,
                       uint32_t *rows, int b, int h, int n) {
    const int D = a->dim_head, units = p->units;
    const size_t size = pa_size(a->type), panel = (size_t)(p->query_pad / p->per) * ATTN_PANEL;
    for (int i = 0; i < ATTN_PANEL; i++)
        CPU_ISA(attn_units)(p->pairs, a->type, rows + i * units, attn_query_row(a, src, ld, b, h, n + i), D);
    CPU_ISA(attn_transpose)(dst + (size_t)n * (size_t)units, ATTN_PANEL, rows, units, ATTN_PANEL, units);
    for (int i = n / p->per; i < (n + ATTN_PANEL) / p->per; i++) {
        const char *row = attn_query_row(a, src, ld, b, h, i * p->per), *next = attn_query_row(a, src, ld, b, h, i * p->per + 1);
        for (int d = 0; d < D; d += ATTN_PANEL) {
            uint32_t *to = dst_across + (size_t)d / ATTN_PANEL * panel + (size_t)i * ATTN_PANEL;
            const int count = D - d < ATTN_PANEL ? D - d : ATTN_PANEL;
            const size_t skip = (size_t)d * size;
            CPU_ISA(attn_units_across)(p->pairs, a->type, to, row ? row + skip : NULL, next ? next + skip : NULL, count);
            for (int c = count; c < ATTN_PANEL; c++) to[c] = 0;
        }
    }
}

SIMD_INLINE vf load(pa_type type, const void *x, int d) {
    return type == PA_TYPE_F32 ? vf_load((const float *)x + d) : vf_load_bf16((const uint16_t *)x + d);
}
static float dot(pa_type type, const void *x, const void *y, int D) {
    vf sums = {0};
    int d = 0;
    for (; d + VW <= D; d += VW) sums += load(type, x, d) * load(type, y, d);
    float sum = vf_sum(sums);
    for (; d < D; d++)
        sum += type == PA_TYPE_F32 ? ((const float *)x)[d] * ((const float *)y)[d]
                                   : bf16_to_float(((const uint16_t *)x)[d]) * bf16_to_float(((const uint16_t *)y)[d]);
    return sum;
}

// Packs q and dO, and finds lse in log2 and delta; rows past N are zeros. Call inside a parallel region.
static void pack_queries(const pa_attn *a, const attn_plan *p, const layout *l, const void *o, const void *dout, const float *lse,
                         uint32_t *rows) {
    const int panels = p->query_pad / ATTN_PANEL;
    const int64_t count = (int64_t)p->heads * panels;
#pragma omp for schedule(static)
    for (int64_t t = 0; t < count; t++) {
        const size_t head = (size_t)(t / panels);
        const int b = (int)head / a->heads, h = (int)head % a->heads, n = (int)(t % panels) * ATTN_PANEL;
        pack_panel(a, p, a->q, a->ldq, l->query + head * p->query_plane, l->query_across + head * l->across_plane, rows, b, h, n);
        pack_panel(a, p, dout, a->ldo, l->dout + head * p->query_plane, l->dout_across + head * l->across_plane, rows, b, h, n);
        for (int i = n; i < n + ATTN_PANEL; i++) {
            bool real = i < a->latents;
            size_t at = head * (size_t)p->query_pad + (size_t)i;
            l->lse[at] = real ? lse[head * (size_t)a->latents + (size_t)i] * 1.44269504088896341f : 0;
            l->delta[at] =
                real ? dot(a->type, attn_query_row(a, o, a->ldo, b, h, i), attn_query_row(a, dout, a->ldo, b, h, i), a->dim_head) : 0;
        }
    }
}

// Where a tile stands: keys m.. and queries n.. of a head; lane i sees key row r if i >= visible + r.
typedef struct {
    int b, h, m, n, visible;
    const float *lse, *delta; // (query_pad) lse in log2
} place;

// S^T and dP^T of 4 keys by 2 VW queries -> P^T and dS^T in units, dS^T also across keys.
SIMD_INLINE void differentiate(const bool pairs, const bool drop, const bool mask, const pa_attn *a, const scratch *s, const place *at,
                               int chunk, int r, int lane, float c) {
    vf p[4][2], ds[4][2];
    SIMD_UNROLL
    for (int j = 0; j < 2; j++) {
        const int first = lane + j * VW;
        vf lse = vf_load(at->lse + first), delta = vf_load(at->delta + first), z[4];
        if (drop) attn_keep(z, &a->dropout, at->b, at->h, at->n + first, at->m + chunk + r);
        SIMD_UNROLL
        for (int i = 0; i < 4; i++) {
            vf weight = vf_exp2(vf_load(s->score + (r + i) * ATTN_QUERIES + first) * c - lse, pairs ? 4 : 6);
            vf dweight = vf_load(s->dweight + (r + i) * ATTN_QUERIES + first);
            if (drop) dweight *= z[i];
            vf dscore = weight * (dweight - delta);
            if (drop) weight *= z[i];
            if (mask) {
                vi seen = vi_lanes() + first >= at->visible + chunk + r + i;
                weight = (vf)((vi)weight & seen), dscore = (vf)((vi)dscore & seen);
            }
            p[i][j] = weight, ds[i][j] = dscore;
        }
    }
    const int row = chunk + r;
#if SIMD_PAIRS
    if (pairs) {
        SIMD_UNROLL
        for (int i = 0; i < 4; i++) {
            vu_store(s->weight + ((row + i) * ATTN_QUERIES + lane) / 2, vu_bf16(p[i][0], p[i][1]));
            vu_store(s->dscore + ((row + i) * ATTN_QUERIES + lane) / 2, vu_bf16(ds[i][0], ds[i][1]));
        }
        SIMD_UNROLL
        for (int i = 0; i < 4; i++)
            vu_store(s->across + (row / 2 + i / 2) * ATTN_QUERIES + lane + i % 2 * VW,
                     vu_pair(ds[i / 2 * 2][i % 2], ds[i / 2 * 2 + 1][i % 2]));
        return;
    }
#endif
    SIMD_UNROLL
    for (int i = 0; i < 8; i++) {
        vf_store(s->weight + (row + i / 2) * ATTN_QUERIES + lane + i % 2 * VW, p[i / 2][i % 2]);
        vf_store(s->dscore + (row + i / 2) * ATTN_QUERIES + lane + i % 2 * VW, ds[i / 2][i % 2]);
    }
}

SIMD_INLINE void differentiate_all(const bool pairs, const bool drop, const bool mask, const pa_attn *a, const scratch *s, const place *at,
                                   int chunk, int rows, int lanes, float c) {
    for (int lane = 0; lane < lanes; lane += 2 * VW)
        for (int r = 0; r < rows; r += 4) differentiate(pairs, drop, mask, a, s, at, chunk, r, lane, c);
}

static void differentiate_any(bool pairs, bool mask, const pa_attn *a, const scratch *s, const place *at, int chunk, int rows, int lanes,
                              float c) {
    const bool drop = a->dropout.p > 0;
#define CASE(P, Z, M)                                                                                                                      \
    if (pairs == P && drop == Z && mask == M) differentiate_all(P, Z, M, a, s, at, chunk, rows, lanes, c)
#if SIMD_PAIRS
    CASE(true, false, false);
    CASE(true, false, true);
    CASE(true, true, true);
    CASE(true, true, false);
#endif
    CASE(false, false, false);
    CASE(false, false, true);
    CASE(false, true, true);
    CASE(false, true, false);
#undef CASE
}

// Keys m .. m + rows - 1 against queries n .. n + queries - 1 of a head.
static void tile(const pa_attn *a, const attn_plan *p, const layout *l, scratch *s, float *dquery, int head, int m, int rows, int n,
                 int queries) {
    const int D = a->dim_head, per = p->per;
    const int lanes = (queries + 2 * VW - 1) / (2 * VW) * (2 * VW), visible = m - a->kept - n;
    const size_t hd = (size_t)head, Q = (size_t)p->query_pad, first = hd * p->key_plane + (size_t)m * (size_t)p->units;
    const uint32_t *query = l->query + hd * p->query_plane + (size_t)n * (size_t)p->units;
    const uint32_t *dout = l->dout + hd * p->query_plane + (size_t)n * (size_t)p->units;
    const size_t across = hd * l->across_plane + (size_t)(n / per) * ATTN_PANEL;
    const ptrdiff_t across_panel = (ptrdiff_t)(p->query_pad / per) * ATTN_PANEL, panel = (ptrdiff_t)p->units * ATTN_PANEL;
    place at = {head / a->heads, head % a->heads, m, n, visible, l->lse + hd * Q + n, l->delta + hd * Q + n};
    if (rows > (queries - visible + 3) / 4 * 4) rows = (queries - visible + 3) / 4 * 4;
    for (int r = 0; r < rows; r += BWD_CHUNK) {
        const int count = rows - r < BWD_CHUNK ? rows - r : BWD_CHUNK;
        const size_t row = first + (size_t)r * (size_t)p->units;
        CPU_ISA(attn_product)
        (p->pairs, count, lanes, p->units, (attn_a){l->keys + row, p->units, 1}, (attn_b){query, ATTN_PANEL, panel},
         (attn_c){s->score, ATTN_QUERIES, ATTN_PANEL}, false);
        CPU_ISA(attn_product)
        (p->pairs, count, lanes, p->units, (attn_a){l->values + row, p->units, 1}, (attn_b){dout, ATTN_PANEL, panel},
         (attn_c){s->dweight, ATTN_QUERIES, ATTN_PANEL}, false);
        differentiate_any(p->pairs, visible + r + count - 1 > 0, a, s, &at, r, count, lanes, a->scale * 1.44269504088896341f);
    }
    CPU_ISA(attn_product)
    (p->pairs, rows, D, lanes / per, (attn_a){s->weight, ATTN_QUERIES / per, 1},
     (attn_b){l->dout_across + across, ATTN_PANEL, across_panel}, (attn_c){s->dv, p->dim_pad, ATTN_PANEL}, true);
    CPU_ISA(attn_product)
    (p->pairs, rows, D, lanes / per, (attn_a){s->dscore, ATTN_QUERIES / per, 1},
     (attn_b){l->query_across + across, ATTN_PANEL, across_panel}, (attn_c){s->dk, p->dim_pad, ATTN_PANEL}, true);
    CPU_ISA(attn_product)
    (p->pairs, D, lanes, rows / per, (attn_a){l->keys_across + first, 1, p->width}, (attn_b){s->across, ATTN_QUERIES, ATTN_PANEL},
     (attn_c){dquery + (size_t)n * (size_t)D, ATTN_PANEL, (ptrdiff_t)D * ATTN_PANEL}, true);
}

// One task: every key block of the head that is this split's, dealt out back and forth so that shares are even.
static void share(const pa_attn *a, const attn_plan *p, const layout *l, scratch *s, int head, int split, void *dkp, void *dvp, void *dkn,
                  void *dvn) {
    float *dquery = l->dquery + ((size_t)head * (size_t)l->splits + (size_t)split) * l->dquery_plane;
    memset(dquery, 0, sizeof(float) * l->dquery_plane);
    for (int block = 0; block * BWD_KEYS < p->keys; block++) {
        const int place_in = block % l->splits, m = block * BWD_KEYS;
        if (split != (block / l->splits % 2 ? l->splits - 1 - place_in : place_in)) continue;
        const int rows = p->key_pad - m < BWD_KEYS ? p->key_pad - m : BWD_KEYS;
        memset(s->dk, 0, sizeof(float) * (size_t)rows * (size_t)p->dim_pad);
        memset(s->dv, 0, sizeof(float) * (size_t)rows * (size_t)p->dim_pad);
        const int hidden = m < a->kept ? 0 : m - a->kept,
                  diagonal = m + rows - a->kept; // queries before see none of the block, from see all
        for (int n = hidden / ATTN_PANEL * ATTN_PANEL, step; n < a->latents; n += step) {
            step = n < diagonal ? ATTN_PANEL : ATTN_QUERIES;
            if (step > a->latents - n) step = a->latents - n;
            tile(a, p, l, s, dquery, head, m, rows, n, step);
        }
        for (int r = 0; r < rows && m + r < p->keys; r++) {
            void *dk = (void *)attn_key_row(a, dkp, dkn, head / a->heads, head % a->heads, m + r);
            void *dv = (void *)attn_key_row(a, dvp, dvn, head / a->heads, head % a->heads, m + r);
            CPU_ISA(attn_store)(a->type, dk, s->dk + r * p->dim_pad, a->scale, a->dim_head);
            CPU_ISA(attn_store)(a->type, dv, s->dv + r * p->dim_pad, 1, a->dim_head);
        }
    }
}

// Adds the splits' dQ^T in order and writes dq. Call inside a parallel region.
static void write_dq(const pa_attn *a, const attn_plan *p, const layout *l, void *dq, uint32_t *rows) {
    const int D = a->dim_head, panels = (a->latents + ATTN_PANEL - 1) / ATTN_PANEL;
    const int64_t count = (int64_t)p->heads * panels;
#pragma omp for schedule(static)
    for (int64_t t = 0; t < count; t++) {
        const int head = (int)(t / panels), n = (int)(t % panels) * ATTN_PANEL;
        float *sum = l->dquery + (size_t)head * (size_t)l->splits * l->dquery_plane + (size_t)n * (size_t)D;
        for (int split = 1; split < l->splits; split++)
            for (int i = 0; i < D * ATTN_PANEL; i++) sum[i] += sum[(size_t)split * l->dquery_plane + (size_t)i];
        CPU_ISA(attn_transpose)(rows, D, (uint32_t *)sum, ATTN_PANEL, D, ATTN_PANEL);
        for (int i = 0; i < ATTN_PANEL && n + i < a->latents; i++) CPU_ISA(attn_store)
        (a->type, (void *)attn_query_row(a, dq, a->ldq, head / a->heads, head % a->heads, n + i), (float *)rows + i * D, a->scale, D);
    }
}

void CPU_ISA(attn_bwd)(const pa_attn *a, const void *o, const float *lse, const void *dout, void *dq, void *dkp, void *dvp, void *dkn,
                       void *dvn, void *work) {
    const attn_plan p = CPU_ISA(attn_plan_make)(a);
    layout l;
    layout_at(&l, a, &p, (uint32_t *)(((uintptr_t)work + 63) / 64 * 64), omp_get_max_threads());
    const int64_t tasks = (int64_t)p.heads * l.splits;
#pragma omp parallel
    {
        scratch s = scratch_at(&p, l.rest + (size_t)omp_get_thread_num() * attn_line(scratch_units(&p, a->dim_head)));
        CPU_ISA(attn_pack_keys)(a, &p, l.keys, a->kp, a->kn, false);
        if (p.pairs) CPU_ISA(attn_pack_keys)(a, &p, l.keys_across, a->kp, a->kn, true);
        CPU_ISA(attn_pack_keys)(a, &p, l.values, a->vp, a->vn, false);
        pack_queries(a, &p, &l, o, dout, lse, s.rows);
#pragma omp for schedule(dynamic, 1)
        for (int64_t t = 0; t < tasks; t++) share(a, &p, &l, &s, (int)(t / l.splits), (int)(t % l.splits), dkp, dvp, dkn, dvn);
        write_dq(a, &p, &l, dq, s.rows);
    }
}
