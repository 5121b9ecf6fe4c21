// simd_attention.c: attention's forward pass: exact, by tiles, with an online softmax. Knows nothing of layers,
// projections or rotary.
//
// A task is one panel of queries of one head, a query a lane. Scores are computed transposed, S^T = K Q^T (keys by
// queries), so that maximum, sum and rescaling are lane by lane and weights land in the layout that O^T += V^T P^T
// reads. Scores are taken by ATTN_CHUNK keys, weights gathered over ATTN_KEYS keys before they are multiplied by the
// values. The maximum that exponents are taken from is raised, and the sums so far rescaled, only when a score exceeds
// it by a factor 2^8: any reference cancels in the end, and floats have the range.
#include "cpu/attention.h"
#include <math.h>
#include <omp.h>

enum { ATTN_CHUNK = 24, ATTN_KEYS = 192 }; // keys; multiples of ATTN_ROWS and of 4
static const float threshold = 8;          // log2
static const float masked = -1e30f; // far below any score, yet finite: an infinite one would make NaN of differences

typedef struct {
    uint32_t *query;  // (units, PANEL)
    float *score;     // (CHUNK, PANEL)
    uint32_t *weight; // (KEYS / per, PANEL) units
    float *out;       // (D, PANEL)
    float *top, *sum; // (PANEL) reference of exponents in log2; sum of exponentials
    float *rows;      // (PANEL, max(D, units)) queries or outputs, a row each
} scratch;

static size_t scratch_units(const pa_attn *a) {
    size_t D = (size_t)a->dim_head;
    return ATTN_PANEL * (D + ATTN_CHUNK + ATTN_KEYS + D + 2 + D);
}

static scratch scratch_at(const pa_attn *a, uint32_t *at) {
    size_t D = (size_t)a->dim_head;
    scratch s = {.query = at};
    s.score = (float *)(at += ATTN_PANEL * D);
    s.weight = at += ATTN_PANEL * ATTN_CHUNK;
    s.out = (float *)(at += ATTN_PANEL * ATTN_KEYS);
    s.top = (float *)(at += ATTN_PANEL * D);
    s.sum = (float *)(at += ATTN_PANEL);
    s.rows = (float *)(at + ATTN_PANEL);
    return s;
}

size_t CPU_ISA(attn_fwd_units)(const pa_attn *a, int threads) {
    attn_plan p = CPU_ISA(attn_plan_make)(a);
    return 2 * p.heads * p.key_plane + (size_t)threads * attn_line(scratch_units(a));
}

// Scores of key row r, whose first visible lane is `visible + r`, become `masked` to the left of it.
static void mask_scores(float *score, int rows, int vectors, int visible) {
    for (int r = visible < 0 ? -visible : 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            float *s = score + r * ATTN_PANEL + v * VW;
            vf_store(s, vf_select(vi_lanes() + v * VW < visible + r, vf_set(masked), vf_load(s)));
        }
}

// Largest score of each lane, times c; true where one exceeds the reference by the threshold.
static bool largest(float *top_now, const float *top, const float *score, int rows, int vectors, float c) {
    bool exceeds = false;
    for (int v = 0; v < vectors; v++) {
        vf m = vf_load(score + v * VW);
        for (int r = 1; r < rows; r++) m = vf_max(vf_load(score + r * ATTN_PANEL + v * VW), m);
        vf_store(top_now + v * VW, m * c);
        exceeds |= vf_any_greater(m * c, vf_load(top + v * VW) + threshold);
    }
    return exceeds;
}

// Raises the reference of the lanes where top_now exceeds it, and scales their sums and outputs to it. The other lanes
// keep their bits, so that no key changes what a query that does not see it gets.
static void rescale(scratch *s, const float *top_now, int vectors, int D) {
    for (int v = 0; v < vectors; v++) {
        vf old = vf_load(s->top + v * VW), now = vf_load(top_now + v * VW),
           top = vf_select(now > old + threshold, now, old);
        vf factor = vf_exp2(old - top, 6);
        vf_store(s->top + v * VW, top);
        vf_store(s->sum + v * VW, vf_load(s->sum + v * VW) * factor);
        for (int d = 0; d < D; d++) {
            float *o = s->out + d * ATTN_PANEL + v * VW;
            vf_store(o, vf_load(o) * factor);
        }
    }
}

// One panel of queries of a head, and the keys that it meets.
typedef struct {
    const pa_attn *a;
    const attn_plan *p;
    const uint32_t *keys, *values;
    int b, h, n;          // of sequence b, head h: queries n .. n + queries - 1
    int queries, vectors; // vectors that hold them
    float c;              // score * c is in log2
} panel;

// Scores -> weights 2^(c score - top) in units; adds them to the sums, then drops. Keys m .. m + rows - 1.
SIMD_INLINE void weigh(const bool pairs, const bool drop, const panel *at, scratch *s, uint32_t *weight, int rows,
                       int m) {
    const float c = at->c;
    for (int v = 0; v < at->vectors; v++) {
        vf top = vf_load(s->top + v * VW), sum = vf_load(s->sum + v * VW);
        const float *score = s->score + v * VW;
        uint32_t *w = weight + v * VW;
        for (int r = 0; r < rows; r += 4, score += 4 * ATTN_PANEL) {
            vf p[4], z[4];
            SIMD_UNROLL
            for (int i = 0; i < 4; i++) {
                p[i] = vf_exp2(vf_load(score + i * ATTN_PANEL) * c - top, pairs ? 4 : 6);
                sum += p[i];
            }
            if (drop) {
                attn_keep(z, &at->a->dropout, at->b, at->h, at->n + v * VW, m + r);
                SIMD_UNROLL
                for (int i = 0; i < 4; i++) p[i] *= z[i];
            }
#if SIMD_PAIRS
            if (pairs) {
                vu_store(w, vu_pair(p[0], p[1]));
                vu_store(w + ATTN_PANEL, vu_pair(p[2], p[3]));
                w += 2 * ATTN_PANEL;
                continue;
            }
#endif
            SIMD_UNROLL
            for (int i = 0; i < 4; i++) vf_store(w + i * ATTN_PANEL, p[i]);
            w += 4 * ATTN_PANEL;
        }
        vf_store(s->sum + v * VW, sum);
    }
}

static void weigh_any(const panel *at, scratch *s, uint32_t *weight, int rows, int m) {
    const bool drop = at->a->dropout.p > 0;
#if SIMD_PAIRS
    if (at->p->pairs) {
        if (drop)
            weigh(true, true, at, s, weight, rows, m);
        else
            weigh(true, false, at, s, weight, rows, m);
        return;
    }
#endif
    if (drop)
        weigh(false, true, at, s, weight, rows, m);
    else
        weigh(false, false, at, s, weight, rows, m);
}

static void load_queries(const panel *at, scratch *s) {
    const pa_attn *a = at->a;
    const attn_plan *p = at->p;
    for (int i = 0; i < ATTN_PANEL; i++) {
        const void *row = attn_query_row(a, a->q, a->ldq, at->b, at->h, at->n + i);
        CPU_ISA(attn_units)(p->pairs, a->type, (uint32_t *)s->rows + i * p->units, row, a->dim_head);
        s->top[i] = masked;
        s->sum[i] = 0;
    }
    CPU_ISA(attn_transpose)(s->query, ATTN_PANEL, (uint32_t *)s->rows, p->units, ATTN_PANEL, p->units);
    memset(s->out, 0, sizeof(float) * ATTN_PANEL * (size_t)a->dim_head);
}

// Scores of keys m .. m + rows - 1.
static void score_keys(const panel *at, scratch *s, int m, int rows) {
    const attn_plan *p = at->p;
    CPU_ISA(attn_product)
    (&(attn_operands){.pairs = p->pairs,
                      .rows = rows,
                      .cols = at->queries,
                      .units = p->units,
                      .a = {at->keys + (size_t)m * (size_t)p->units, p->units, 1},
                      .b = {s->query, ATTN_PANEL, 0},
                      .c = {s->score, ATTN_PANEL, 0}});
}

// Adds the weighted values of keys [from, to) to the outputs.
static void add_values(const panel *at, scratch *s, int from, int to) {
    const attn_plan *p = at->p;
    const uint32_t *values = at->values + (size_t)(from / p->per) * (size_t)p->width;
    CPU_ISA(attn_product)
    (&(attn_operands){.pairs = p->pairs,
                      .add = true,
                      .rows = at->a->dim_head,
                      .cols = at->queries,
                      .units = (to - from) / p->per,
                      .a = {values, 1, p->width},
                      .b = {s->weight, ATTN_PANEL, 0},
                      .c = {s->out, ATTN_PANEL, 0}});
}

// One panel of queries against its visible keys: 4 D flop a pair.
static void attend(const panel *at, scratch *s) {
    const int kept = at->a->kept, visible = kept + at->n + at->queries, key_pad = at->p->key_pad;
    const int end = visible + 3 < key_pad ? (visible + 3) / 4 * 4 : key_pad;
    int waiting = 0; // first key whose weight waits for its value
    load_queries(at, s);
    for (int m = 0; m < end; m += ATTN_CHUNK) {
        const int rows = end - m < ATTN_CHUNK ? end - m : ATTN_CHUNK;
        float top_now[ATTN_PANEL];
        score_keys(at, s, m, rows);
        if (m + rows - 1 > kept + at->n) mask_scores(s->score, rows, at->vectors, m - kept - at->n);
        bool exceeds = largest(top_now, s->top, s->score, rows, at->vectors, at->c);
        if (m > waiting && (exceeds || m + rows - waiting > ATTN_KEYS)) {
            add_values(at, s, waiting, m);
            waiting = m;
        }
        if (exceeds) rescale(s, top_now, at->vectors, at->a->dim_head);
        weigh_any(at, s, s->weight + (m - waiting) / at->p->per * ATTN_PANEL, rows, m);
    }
    add_values(at, s, waiting, end);
}

// Normalises a panel's outputs and writes them, and lse.
static void finish(const panel *at, scratch *s, void *o, float *lse) {
    const pa_attn *a = at->a;
    const int D = a->dim_head;
    CPU_ISA(attn_transpose)((uint32_t *)s->rows, D, (uint32_t *)s->out, ATTN_PANEL, D, at->queries);
    for (int i = 0; i < at->queries; i++) {
        void *row = (void *)attn_query_row(a, o, a->ldo, at->b, at->h, at->n + i);
        CPU_ISA(attn_store)(a->type, row, s->rows + i * D, 1 / s->sum[i], D);
        lse[((ptrdiff_t)at->b * a->heads + at->h) * a->latents + at->n + i] =
            (float)(((double)s->top[i] + log2((double)s->sum[i])) * 0.69314718055994531);
    }
}

void CPU_ISA(attn_fwd)(pa_device *d, const pa_attn *a, void *o, float *lse, pa_work work) {
    const attn_plan p = CPU_ISA(attn_plan_make)(a);
    uint32_t *keys = (uint32_t *)(((uintptr_t)work.at + 63) / 64 * 64), *values = keys + p.heads * p.key_plane,
             *rest = values + p.heads * p.key_plane;
    const int panels = (a->latents + ATTN_PANEL - 1) / ATTN_PANEL;
    const int64_t tasks = (int64_t)p.heads * panels;
    (void)d;
#pragma omp parallel
    {
        CPU_ISA(attn_pack_keys)(a, &p, keys, a->kp, a->kn, false);
        CPU_ISA(attn_pack_keys)(a, &p, values, a->vp, a->vn, true);
#pragma omp barrier
        scratch s = scratch_at(a, rest + (size_t)omp_get_thread_num() * attn_line(scratch_units(a)));
#pragma omp for schedule(dynamic, 1)
        for (int64_t t = 0; t < tasks; t++) { // the longest first, so that threads end together
            const int n = (panels - 1 - (int)(t % panels)) * ATTN_PANEL, head = (int)(t / panels);
            panel at = {.a = a,
                        .p = &p,
                        .b = head / a->heads,
                        .h = head % a->heads,
                        .n = n,
                        .c = a->scale * 1.44269504088896341f};
            at.keys = keys + (size_t)head * p.key_plane;
            at.values = values + (size_t)head * p.key_plane;
            at.queries = a->latents - n < ATTN_PANEL ? a->latents - n : ATTN_PANEL;
            at.vectors = (at.queries + VW - 1) / VW;
            attend(&at, &s);
            finish(&at, &s, o, lse);
        }
    }
}
