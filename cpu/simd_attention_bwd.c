// simd_attention_bwd.c: attention's backward pass: five products a tile, scores computed once. Knows nothing of layers
// or projections.
//
// A task is a share of the key blocks of one head. For each of its blocks, against all queries that see it, on
// transposed tiles (keys by queries), so that what belongs to a query (lse, delta) belongs to a lane:
//     S^T = K Q^T     P^T = exp(scale S^T - lse)     dP^T = V dO^T     dS^T = P^T (dP^T - delta),  delta = sum over d
//     of dO O dV += P^T dO    dK += dS^T Q                   dQ^T += K^T dS^T
// dK and dV of a block stay in cache; dQ^T is summed in work, one copy a task, in the order of blocks; then copies are
// added in order. So the bits depend only on the number of threads. 10 D flop a visible pair, 8 D of them useful.
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
    const pa_attn *a;
    attn_plan p;
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
    return 2 * BWD_CHUNK * ATTN_QUERIES + 3 * BWD_KEYS * ATTN_QUERIES + 2 * BWD_KEYS * (size_t)p->dim_pad +
           ATTN_PANEL * ((size_t)D + 1);
}

// Tasks a head, so that all threads have work to the end: the fewest that leave no more than a tenth of them idle on
// average.
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
static size_t layout_at(layout *l, const pa_attn *a, uint32_t *base, int threads) {
    *l = (layout){.a = a, .p = CPU_ISA(attn_plan_make)(a)};
    const attn_plan *p = &l->p;
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
    layout l;
    return layout_at(&l, a, NULL, threads);
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

// Packs queries n .. n + PANEL - 1 of a head both ways: dst (units, PANEL), and across by panels of D.
static void pack_panel(const layout *l, const void *src, ptrdiff_t ld, bool is_dout, size_t head, int n,
                       uint32_t *rows) {
    const pa_attn *a = l->a;
    const attn_plan *p = &l->p;
    const int D = a->dim_head, units = p->units, b = (int)head / a->heads, h = (int)head % a->heads;
    const size_t size = pa_size(a->type), panel = (size_t)(p->query_pad / p->per) * ATTN_PANEL;
    uint32_t *dst = (is_dout ? l->dout : l->query) + head * p->query_plane;
    uint32_t *across = (is_dout ? l->dout_across : l->query_across) + head * l->across_plane;
    for (int i = 0; i < ATTN_PANEL; i++)
        CPU_ISA(attn_units)(p->pairs, a->type, rows + i * units, attn_query_row(a, src, ld, b, h, n + i), D);
    CPU_ISA(attn_transpose)(dst + (size_t)n * (size_t)units, ATTN_PANEL, rows, units, ATTN_PANEL, units);
    for (int i = n / p->per; i < (n + ATTN_PANEL) / p->per; i++) {
        const char *row = attn_query_row(a, src, ld, b, h, i * p->per),
                   *next = attn_query_row(a, src, ld, b, h, i * p->per + 1);
        for (int d = 0; d < D; d += ATTN_PANEL) {
            uint32_t *to = across + (size_t)d / ATTN_PANEL * panel + (size_t)i * ATTN_PANEL;
            const int count = D - d < ATTN_PANEL ? D - d : ATTN_PANEL;
            const size_t skip = (size_t)d * size;
            CPU_ISA(attn_units_across)
            (p->pairs, a->type, to, row ? row + skip : NULL, next ? next + skip : NULL, count);
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
static void pack_queries(const layout *l, const pa_attn_grads *g, uint32_t *rows) {
    const pa_attn *a = l->a;
    const int panels = l->p.query_pad / ATTN_PANEL;
    const int64_t count = (int64_t)l->p.heads * panels;
#pragma omp for schedule(static)
    for (int64_t t = 0; t < count; t++) {
        const size_t head = (size_t)(t / panels);
        const int b = (int)head / a->heads, h = (int)head % a->heads, n = (int)(t % panels) * ATTN_PANEL;
        pack_panel(l, a->q, a->ldq, false, head, n, rows);
        pack_panel(l, g->dout, a->ldo, true, head, n, rows);
        for (int i = n; i < n + ATTN_PANEL; i++) {
            const size_t at = head * (size_t)l->p.query_pad + (size_t)i;
            const void *o = attn_query_row(a, g->o, a->ldo, b, h, i),
                       *dout = attn_query_row(a, g->dout, a->ldo, b, h, i);
            l->lse[at] = o ? g->lse[head * (size_t)a->latents + (size_t)i] * 1.44269504088896341f : 0;
            l->delta[at] = o ? dot(a->type, o, dout, a->dim_head) : 0;
        }
    }
}

// Where a tile stands: keys m.. and queries n.. of a head; lane i sees key row r if i >= visible + r. The chunk of keys
// from row `chunk` on is at hand.
typedef struct {
    const pa_attn *a;
    int b, h, m, n, visible, chunk;
    float c;                  // score * c is in log2
    const float *lse, *delta; // (query_pad) lse in log2
} place;

// S^T and dP^T of 4 keys by 2 VW queries -> P^T and dS^T in units, dS^T also across keys.
SIMD_INLINE void differentiate(const bool pairs, const bool drop, const bool mask, const scratch *s, const place *at,
                               int r, int lane) {
    const int row = at->chunk + r;
    vf p[4][2], ds[4][2];
    SIMD_UNROLL
    for (int j = 0; j < 2; j++) {
        const int first = lane + j * VW;
        vf lse = vf_load(at->lse + first), delta = vf_load(at->delta + first), z[4];
        if (drop) attn_keep(z, &at->a->dropout, at->b, at->h, at->n + first, at->m + row);
        SIMD_UNROLL
        for (int i = 0; i < 4; i++) {
            vf weight = vf_exp2(vf_load(s->score + (r + i) * ATTN_QUERIES + first) * at->c - lse, pairs ? 4 : 6);
            vf dweight = vf_load(s->dweight + (r + i) * ATTN_QUERIES + first);
            if (drop) dweight *= z[i];
            vf dscore = weight * (dweight - delta);
            if (drop) weight *= z[i];
            if (mask) {
                vi seen = vi_lanes() + first >= at->visible + row + i;
                weight = (vf)((vi)weight & seen);
                dscore = (vf)((vi)dscore & seen);
            }
            p[i][j] = weight;
            ds[i][j] = dscore;
        }
    }
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

SIMD_INLINE void differentiate_all(const bool pairs, const bool drop, const bool mask, const scratch *s,
                                   const place *at, int rows, int lanes) {
    for (int lane = 0; lane < lanes; lane += 2 * VW)
        for (int r = 0; r < rows; r += 4) differentiate(pairs, drop, mask, s, at, r, lane);
}

static void differentiate_any(bool pairs, bool mask, const scratch *s, const place *at, int rows, int lanes) {
    const bool drop = at->a->dropout.p > 0;
#define CASE(P, Z, M)                                                                                                  \
    if (pairs == P && drop == Z && mask == M) differentiate_all(P, Z, M, s, at, rows, lanes)
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

// S^T and dP^T of `count` keys, whose units begin at `key` of their planes, against the tile's queries.
static void multiply_chunk(const layout *l, scratch *s, size_t head, int n, size_t key, int count, int lanes) {
    const attn_plan *p = &l->p;
    const size_t query = head * p->query_plane + (size_t)n * (size_t)p->units;
    attn_operands x = {.pairs = p->pairs, .rows = count, .cols = lanes, .units = p->units};
    x.a = (attn_a){l->keys + key, p->units, 1};
    x.b = (attn_b){l->query + query, ATTN_PANEL, (ptrdiff_t)p->units * ATTN_PANEL};
    x.c = (attn_c){s->score, ATTN_QUERIES, ATTN_PANEL};
    CPU_ISA(attn_product)(&x);
    x.a.p = l->values + key;
    x.b.p = l->dout + query;
    x.c.p = s->dweight;
    CPU_ISA(attn_product)(&x);
}

// One head's block of keys, and where its share of dQ^T is summed.
typedef struct {
    size_t head;
    int m, rows;
    float *dquery;
} key_block;

// A block's keys against queries n .. n + queries - 1 of its head.
static void tile(const layout *l, scratch *s, const key_block *k, int n, int queries) {
    const pa_attn *a = l->a;
    const attn_plan *p = &l->p;
    const int D = a->dim_head, per = p->per, H = a->heads;
    const int lanes = (queries + 2 * VW - 1) / (2 * VW) * (2 * VW), visible = k->m - a->kept - n,
              seen = (queries - visible + 3) / 4 * 4;
    const int rows = k->rows < seen ? k->rows : seen;
    const size_t Q = (size_t)p->query_pad, first = k->head * p->key_plane + (size_t)k->m * (size_t)p->units;
    const size_t across = k->head * l->across_plane + (size_t)(n / per) * ATTN_PANEL;
    const ptrdiff_t across_panel = (ptrdiff_t)(p->query_pad / per) * ATTN_PANEL;
    place at = {.a = a, .b = (int)k->head / H, .h = (int)k->head % H, .m = k->m, .n = n, .visible = visible};
    at.c = a->scale * 1.44269504088896341f;
    at.lse = l->lse + k->head * Q + n;
    at.delta = l->delta + k->head * Q + n;
    for (int r = 0; r < rows; r += BWD_CHUNK) {
        const int count = rows - r < BWD_CHUNK ? rows - r : BWD_CHUNK;
        multiply_chunk(l, s, k->head, n, first + (size_t)r * (size_t)p->units, count, lanes);
        at.chunk = r;
        differentiate_any(p->pairs, visible + r + count - 1 > 0, s, &at, count, lanes);
    }
    attn_operands x = {.pairs = p->pairs, .add = true, .rows = rows, .cols = D, .units = lanes / per};
    x.a = (attn_a){s->weight, ATTN_QUERIES / per, 1};
    x.b = (attn_b){l->dout_across + across, ATTN_PANEL, across_panel};
    x.c = (attn_c){s->dv, p->dim_pad, ATTN_PANEL};
    CPU_ISA(attn_product)(&x);
    x.a.p = s->dscore;
    x.b.p = l->query_across + across;
    x.c.p = s->dk;
    CPU_ISA(attn_product)(&x);
    CPU_ISA(attn_product)
    (&(attn_operands){.pairs = p->pairs,
                      .add = true,
                      .rows = D,
                      .cols = lanes,
                      .units = rows / per,
                      .a = {l->keys_across + first, 1, p->width},
                      .b = {s->across, ATTN_QUERIES, ATTN_PANEL},
                      .c = {k->dquery + (size_t)n * (size_t)D, ATTN_PANEL, (ptrdiff_t)D * ATTN_PANEL}});
}

// One task: every key block of the head that is this split's, dealt out back and forth so that shares are even.
static void share(const layout *l, scratch *s, const pa_attn_grads *g, int head, int split) {
    const pa_attn *a = l->a;
    const attn_plan *p = &l->p;
    const int b = head / a->heads, h = head % a->heads;
    float *dquery = l->dquery + ((size_t)head * (size_t)l->splits + (size_t)split) * l->dquery_plane;
    memset(dquery, 0, sizeof(float) * l->dquery_plane);
    for (int block = 0; block * BWD_KEYS < p->keys; block++) {
        const int place_in = block % l->splits, m = block * BWD_KEYS;
        if (split != (block / l->splits % 2 ? l->splits - 1 - place_in : place_in)) continue;
        const int rows = p->key_pad - m < BWD_KEYS ? p->key_pad - m : BWD_KEYS;
        const key_block k = {(size_t)head, m, rows, dquery};
        memset(s->dk, 0, sizeof(float) * (size_t)rows * (size_t)p->dim_pad);
        memset(s->dv, 0, sizeof(float) * (size_t)rows * (size_t)p->dim_pad);
        // Queries before `hidden` see none of the block; from `diagonal` on they see all of it.
        const int hidden = m < a->kept ? 0 : m - a->kept, diagonal = m + rows - a->kept;
        for (int n = hidden / ATTN_PANEL * ATTN_PANEL, step; n < a->latents; n += step) {
            step = n < diagonal ? ATTN_PANEL : ATTN_QUERIES;
            if (step > a->latents - n) step = a->latents - n;
            tile(l, s, &k, n, step);
        }
        for (int r = 0; r < rows && m + r < p->keys; r++) {
            void *dk = (void *)attn_key_row(a, g->dkp, g->dkn, b, h, m + r);
            void *dv = (void *)attn_key_row(a, g->dvp, g->dvn, b, h, m + r);
            CPU_ISA(attn_store)(a->type, dk, s->dk + r * p->dim_pad, a->scale, a->dim_head);
            CPU_ISA(attn_store)(a->type, dv, s->dv + r * p->dim_pad, 1, a->dim_head);
        }
    }
}

// Adds the splits' dQ^T in order and writes dq. Call inside a parallel region.
static void write_dq(const layout *l, void *dq, uint32_t *rows) {
    const pa_attn *a = l->a;
    const int D = a->dim_head, panels = (a->latents + ATTN_PANEL - 1) / ATTN_PANEL;
    const int64_t count = (int64_t)l->p.heads * panels;
#pragma omp for schedule(static)
    for (int64_t t = 0; t < count; t++) {
        const int head = (int)(t / panels), n = (int)(t % panels) * ATTN_PANEL;
        float *sum = l->dquery + (size_t)head * (size_t)l->splits * l->dquery_plane + (size_t)n * (size_t)D;
        for (int split = 1; split < l->splits; split++)
            for (int i = 0; i < D * ATTN_PANEL; i++) sum[i] += sum[(size_t)split * l->dquery_plane + (size_t)i];
        CPU_ISA(attn_transpose)(rows, D, (uint32_t *)sum, ATTN_PANEL, D, ATTN_PANEL);
        for (int i = 0; i < ATTN_PANEL && n + i < a->latents; i++) CPU_ISA(attn_store)
        (a->type, (void *)attn_query_row(a, dq, a->ldq, head / a->heads, head % a->heads, n + i), (float *)rows + i * D,
         a->scale, D);
    }
}

void CPU_ISA(attn_bwd)(pa_device *d, const pa_attn *a, const pa_attn_grads *g, pa_work work) {
    layout l;
    layout_at(&l, a, (uint32_t *)(((uintptr_t)work.at + 63) / 64 * 64), omp_get_max_threads());
    const int64_t tasks = (int64_t)l.p.heads * l.splits;
    (void)d;
#pragma omp parallel
    {
        scratch s =
            scratch_at(&l.p, l.rest + (size_t)omp_get_thread_num() * attn_line(scratch_units(&l.p, a->dim_head)));
        CPU_ISA(attn_pack_keys)(a, &l.p, l.keys, a->kp, a->kn, false);
        if (l.p.pairs) CPU_ISA(attn_pack_keys)(a, &l.p, l.keys_across, a->kp, a->kn, true);
        CPU_ISA(attn_pack_keys)(a, &l.p, l.values, a->vp, a->vn, false);
        pack_queries(&l, g, s.rows);
#pragma omp for schedule(dynamic, 1)
        for (int64_t t = 0; t < tasks; t++) share(&l, &s, g, (int)(t / l.splits), (int)(t % l.splits));
        write_dq(&l, g->dq, s.rows);
    }
}
