// simd_attention_decode.c: one query a stream against a cache of keys and values, read once. Knows nothing of how the
// cache was filled.
//
// A task is a stretch of DECODE_KEYS keys of one head; its maximum, sum and weighted values go to work, and are joined
// in the order of stretches, so the bits do not depend on the number of threads. Reads 2 D elements a key:
// memory-bound.
#include "cpu/attention.h"
#include <math.h>

enum { DECODE_KEYS = 512 };

typedef struct {
    float top, sum, out[]; // (D)
} part;

static size_t part_floats(int D) {
    return attn_line((size_t)D + 2);
}

size_t CPU_ISA(decode_work)(pa_device *d, int streams, int heads, int dim_head, int capacity) {
    (void)d;
    return 64 + 4 * (size_t)streams * (size_t)heads * (size_t)((capacity + DECODE_KEYS - 1) / DECODE_KEYS) *
                    part_floats(dim_head);
}

// A Zen 4 fetches the stream by itself, and loses by being asked (bench/log.md); a Zen 5 gains.
static size_t bytes_ahead(void) {
#if defined(SIMD_AVX512) && defined(__x86_64__)
    if (__builtin_cpu_is("amdfam19h")) return 0;
#endif
    return 8192;
}

typedef struct {
    int rest;       // dims after the whole vectors
    const float *q; // (D) whole vectors, for bf16 in the order of vf_split; then the rest
    size_t row;     // bytes
    size_t ahead;   // bytes to prefetch
    float c;        // score * c is in log2
} reader;

// Keys and values of neighbouring rows of a cache, one after another.
typedef struct {
    const char *k, *v;
    int count;
} rows;

SIMD_INLINE float element(const pa_type type, const char *row, int d) {
    return type == PA_TYPE_F32 ? ((const float *)(const void *)row)[d]
                               : bf16_to_float(((const uint16_t *)(const void *)row)[d]);
}

SIMD_INLINE void fetch(const pa_type type, const int lanes, const char *row) {
    SIMD_UNROLL
    for (int d = 0; d < lanes; d += type == PA_TYPE_F32 ? 16 : 32) __builtin_prefetch(row + (size_t)d * pa_size(type));
}

// Scores of VW keys; rows from `count` on are not read and their scores are not meant.
SIMD_INLINE vf scores(const pa_type type, const int lanes, const reader *r, const char *k, int count) {
    vf sum[VW], rest;
    SIMD_UNROLL
    for (int i = 0; i < VW; i++) {
        const char *row = k + (size_t)(i < count ? i : 0) * r->row;
        sum[i] = (vf){0};
        fetch(type, lanes, row + r->ahead);
        if (type == PA_TYPE_F32) SIMD_UNROLL
        for (int d = 0; d < lanes; d += VW) sum[i] += vf_load(r->q + d) * vf_load(row + 4 * d);
        else SIMD_UNROLL for (int d = 0; d < lanes; d += 2 * VW) {
            vu pair = vu_load(row + 2 * d);
            sum[i] += vf_load(r->q + d) * (vf)(pair << 16) + vf_load(r->q + d + VW) * (vf)(pair & 0xffff0000u);
        }
    }
    rest = vf_sums(sum);
    for (int i = 0; r->rest && i < count; i++)
        for (int d = lanes; d < lanes + r->rest; d++) rest[i] += r->q[d] * element(type, k + (size_t)i * r->row, d);
    return rest;
}

SIMD_INLINE void add_row(const pa_type type, const int vectors, vf sum[4], float weight, const char *v) {
    const vf w = vf_set(weight);
    SIMD_UNROLL
    for (int j = 0; j < vectors; j++) {
        if (type == PA_TYPE_F32) {
            sum[j] += w * vf_load(v + 4 * j * VW);
        } else if (j % 2 == 0) {
            vu pair = vu_load(v + 2 * j * VW);
            sum[j] += w * (vf)(pair << 16), sum[j + 1] += w * (vf)(pair & 0xffff0000u);
        }
    }
}

// out (lanes, then rest; in the order of reader.q) = weighted sum of the values from dim d on, `vectors` vectors at a
// time; even and odd rows apart, so that additions need not wait for each other.
SIMD_INLINE void blend(const pa_type type, const int vectors, const reader *r, const rows *x, const float *weight,
                       float *out, int d) {
    vf even[4] = {{0}}, odd[4] = {{0}};
    const char *v = x->v + (size_t)d * pa_size(type);
    int i = 0;
    for (; i + 2 <= x->count; i += 2, v += 2 * r->row) {
        fetch(type, vectors * VW, v + r->ahead);
        fetch(type, vectors * VW, v + r->row + r->ahead);
        add_row(type, vectors, even, weight[i], v);
        add_row(type, vectors, odd, weight[i + 1], v + r->row);
    }
    if (i < x->count) add_row(type, vectors, even, weight[i], v);
    SIMD_UNROLL
    for (int j = 0; j < vectors; j++) vf_store(out + d + j * VW, even[j] + odd[j]);
}

SIMD_INLINE void stretch(const pa_type type, const int lanes, part *to, const reader *r, const rows *x) {
    const int count = x->count;
    const float c = r->c;
    float weight[DECODE_KEYS], top = -1e30f;
    vf tops = vf_set(top);
    for (int i = 0; i < count; i += VW) {
        const int keys = count - i < VW ? count - i : VW;
        vf s = keys == VW ? scores(type, lanes, r, x->k + (size_t)i * r->row, VW)
                          : scores(type, lanes, r, x->k + (size_t)i * r->row, keys);
        for (int j = keys; j < VW; j++) s[j] = -1e30f;
        vf_store(weight + i, s);
        tops = vf_max(s, tops);
    }
    for (int i = 0; i < VW; i++) top = tops[i] > top ? tops[i] : top;
    vf sums = {0};
    for (int i = 0; i < count; i += VW) {
        vf p = vf_exp2((vf_load(weight + i) - top) * c, 6);
        vf_store(weight + i, p);
        sums += p;
    }
    to->top = top;
    to->sum = vf_sum(sums);
    int d = 0;
    for (; d + 4 * VW <= lanes; d += 4 * VW) blend(type, 4, r, x, weight, to->out, d);
    for (; d + 2 * VW <= lanes; d += 2 * VW) blend(type, 2, r, x, weight, to->out, d);
    if (type == PA_TYPE_F32 && d < lanes) blend(type, 1, r, x, weight, to->out, d);
    for (d = lanes; d < lanes + r->rest; d++) {
        float sum = 0;
        for (int i = 0; i < count; i++) sum += weight[i] * element(type, x->v + (size_t)i * r->row, d);
        to->out[d] = sum;
    }
}

SIMD_INLINE void stretch_type(const int lanes, pa_type type, part *to, const reader *r, const rows *x) {
    if (type == PA_TYPE_F32)
        stretch(PA_TYPE_F32, lanes, to, r, x);
    else
        stretch(PA_TYPE_BF16, lanes, to, r, x);
}

// Joins a head's parts; split: dims of theirs that are in that order.
static void join(float *o, const float *parts, int count, int D, int split, float c) {
    float top = -1e30f, sum = 0, out[ATTN_DIM] = {0};
    for (int i = 0; i < count; i++) {
        const part *p = (const part *)(const void *)(parts + (size_t)i * part_floats(D));
        top = p->top > top ? p->top : top;
    }
    for (int i = 0; i < count; i++) {
        const part *p = (const part *)(const void *)(parts + (size_t)i * part_floats(D));
        const float factor = exp2f((p->top - top) * c);
        sum += factor * p->sum;
        for (int d = 0; d < D; d++) out[d] += factor * p->out[d];
    }
    for (int d = 0; d < D; d++) out[d] /= sum;
    memcpy(o, out, (size_t)D * sizeof *o);
    vf_merge(o, out, split);
}

// Rounds this position's rows (S, H D) into row `at` of a cache.
static void append(const pa_attn_decode *a, void *cache, int at, const float *from) {
    const size_t D = (size_t)a->dim_head;
    for (int s = 0; s < a->streams; s++)
        for (int h = 0; h < a->heads; h++) {
            const float *x = from + s * a->ldkv + (ptrdiff_t)h * a->dim_head;
            const size_t to = ((size_t)(s * a->heads + h) * (size_t)a->capacity + (size_t)at) * D;
            if (a->type == PA_TYPE_F32)
                memcpy((float *)cache + to, x, D * sizeof *x);
            else
                for (size_t i = 0; i < D; i++) ((uint16_t *)cache)[to + i] = bf16_from_float(x[i]);
        }
}

void CPU_ISA(attn_decode)(pa_device *device, const pa_attn_decode *a) {
    const int length = *a->length + 1, parts = (length + DECODE_KEYS - 1) / DECODE_KEYS, D = a->dim_head;
    const int step = a->type == PA_TYPE_F32 ? VW : 2 * VW, lanes = D / step * step,
              split = a->type == PA_TYPE_F32 ? 0 : lanes;
    const float c = a->scale * 1.44269504088896341f;
    const int64_t all = (int64_t)a->streams * a->heads, tasks = all * parts;
    float *at = (float *)(((uintptr_t)a->work + 63) / 64 * 64);
    (void)device;
    append(a, a->k, length - 1, a->k_new);
    append(a, a->v, length - 1, a->v_new);
#pragma omp parallel
    {
        float placed[ATTN_DIM];
        const reader r = {D - lanes, placed, (size_t)D * pa_size(a->type), bytes_ahead(), c};
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tasks; t++) {
            const int64_t head = t / parts;
            const int first = (int)(t % parts) * DECODE_KEYS,
                      count = length - first < DECODE_KEYS ? length - first : DECODE_KEYS;
            const size_t offset = ((size_t)head * (size_t)a->capacity + (size_t)first) * r.row;
            const rows x = {(const char *)a->k + offset, (const char *)a->v + offset, count};
            part *to = (part *)(void *)(at + (size_t)t * part_floats(D));
            const float *query = a->q + head / a->heads * a->ldq + head % a->heads * D;
            memcpy(placed, query, (size_t)D * sizeof *placed);
            vf_split(placed, query, split);
            if (lanes == 64)
                stretch_type(64, a->type, to, &r, &x);
            else
                stretch_type(lanes, a->type, to, &r, &x);
        }
#pragma omp for schedule(static)
        for (int64_t head = 0; head < all; head++)
            join(a->o + head * D, at + (size_t)(head * parts) * part_floats(D), parts, D, split, c);
    }
}
