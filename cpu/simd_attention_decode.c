// simd_attention_decode.c: one query a stream against a cache of keys and values, read once. Knows nothing of how the cache was filled.
//
// A task is a stretch of DECODE_KEYS keys of one head; its maximum, sum and weighted values go to work, and are joined in the order of
// stretches, so the bits do not depend on the number of threads. Reads 2 D elements a key: memory-bound.
#include "cpu/attention.h"
#include <math.h>

enum { DECODE_KEYS = 256 };

typedef struct {
    float top, sum, out[]; // (D)
} part;

static size_t part_floats(int D) {
    return attn_line((size_t)D + 2);
}

size_t CPU_ISA(attn_decode_work)(int streams, int heads, int dim_head, int capacity, int threads) {
    (void)threads;
    return 64 + 4 * (size_t)streams * (size_t)heads * (size_t)((capacity + DECODE_KEYS - 1) / DECODE_KEYS) * part_floats(dim_head);
}

SIMD_INLINE vf load(const cpu_type type, const char *row, int d) {
    return type == CPU_F32 ? vf_load((const float *)(const void *)row + d) : vf_load_bf16((const uint16_t *)(const void *)row + d);
}
SIMD_INLINE float element(const cpu_type type, const char *row, int d) {
    return type == CPU_F32 ? ((const float *)(const void *)row)[d] : bf16_to_float(((const uint16_t *)(const void *)row)[d]);
}

// count keys' rows, one after another, at k and v. q is (D) floats.
SIMD_INLINE void stretch(const cpu_type type, part *to, const float *q, const char *k, const char *v, int count, int D, float c) {
    const size_t row = (size_t)D * (type == CPU_F32 ? 4 : 2);
    float score[DECODE_KEYS], top = -1e30f;
    for (int i = 0; i < count; i++) {
        vf sum = {0};
        int d = 0;
        for (; d + VW <= D; d += VW) sum += vf_load(q + d) * load(type, k + (size_t)i * row, d);
        float rest = 0;
        for (; d < D; d++) rest += q[d] * element(type, k + (size_t)i * row, d);
        score[i] = (vf_sum(sum) + rest) * c;
        top = score[i] > top ? score[i] : top;
    }
    for (int i = count; i % VW; i++) score[i] = -1e30f;
    vf sums = {0};
    for (int i = 0; i < count; i += VW) {
        vf p = vf_exp2(vf_load(score + i) - top, 6);
        vf_store(score + i, p);
        sums += p;
    }
    to->top = top;
    to->sum = vf_sum(sums);
    int d = 0;
    for (; d + 4 * VW <= D; d += 4 * VW) {
        vf sum[4] = {{0}};
        for (int i = 0; i < count; i++) SIMD_UNROLL
        for (int j = 0; j < 4; j++) sum[j] += score[i] * load(type, v + (size_t)i * row, d + j * VW);
        for (int j = 0; j < 4; j++) vf_store(to->out + d + j * VW, sum[j]);
    }
    for (; d + VW <= D; d += VW) {
        vf sum = {0};
        for (int i = 0; i < count; i++) sum += score[i] * load(type, v + (size_t)i * row, d);
        vf_store(to->out + d, sum);
    }
    for (; d < D; d++) {
        float sum = 0;
        for (int i = 0; i < count; i++) sum += score[i] * element(type, v + (size_t)i * row, d);
        to->out[d] = sum;
    }
}

// Joins a head's parts.
static void join(float *o, const float *parts, int count, int D) {
    float top = -1e30f, sum = 0;
    for (int i = 0; i < count; i++) {
        const part *p = (const part *)(const void *)(parts + (size_t)i * part_floats(D));
        top = p->top > top ? p->top : top;
    }
    for (int d = 0; d < D; d++) o[d] = 0;
    for (int i = 0; i < count; i++) {
        const part *p = (const part *)(const void *)(parts + (size_t)i * part_floats(D));
        float factor = exp2f(p->top - top);
        sum += factor * p->sum;
        for (int d = 0; d < D; d++) o[d] += factor * p->out[d];
    }
    for (int d = 0; d < D; d++) o[d] /= sum;
}

void CPU_ISA(attn_decode)(cpu_type type, int streams, int heads, int dim_head, int length, int capacity, float scale, const float *q,
                          const void *k, const void *v, float *o, void *work) {
    const int parts = (length + DECODE_KEYS - 1) / DECODE_KEYS, D = dim_head;
    const float c = scale * 1.44269504088896341f;
    const int64_t all = (int64_t)streams * heads, tasks = all * parts;
    float *at = (float *)(((uintptr_t)work + 63) / 64 * 64);
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tasks; t++) {
            const int64_t head = t / parts;
            const int first = (int)(t % parts) * DECODE_KEYS, count = length - first < DECODE_KEYS ? length - first : DECODE_KEYS;
            const size_t row = (size_t)D * cpu_size(type), offset = ((size_t)head * (size_t)capacity + (size_t)first) * row;
            part *to = (part *)(void *)(at + (size_t)t * part_floats(D));
            if (type == CPU_F32)
                stretch(CPU_F32, to, q + head * D, (const char *)k + offset, (const char *)v + offset, count, D, c);
            else
                stretch(CPU_BF16, to, q + head * D, (const char *)k + offset, (const char *)v + offset, count, D, c);
        }
#pragma omp for schedule(static)
        for (int64_t head = 0; head < all; head++) join(o + head * D, at + (size_t)(head * parts) * part_floats(D), parts, D);
    }
}
