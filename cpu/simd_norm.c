// simd_norm.c: what works on a row at a time: layer norm, head norm, cross-entropy. Compiled once for each instruction
// set; see host/model/ops.h for what each computes. Gradients of weights are summed per thread, then over threads in
// their order.
#include "cpu/simd_norm.h"

#include <omp.h>

#include "cpu/simd_math.h"

enum { SMALL = 16384 };

SIMD_INLINE void layernorm_row(pa_type t, const pa_layernorm *a, int row, const float *z, void *y) {
    const float *w = a->w, *b = a->b;
    const int C = a->C;
    float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < C; i++) sum += z[i];
    float m = sum / (float)C;
#pragma omp simd reduction(+ : squares)
    for (int i = 0; i < C; i++) squares += (z[i] - m) * (z[i] - m);
    float s = 1 / sqrtf(squares / (float)C + 1e-5f);
    a->mean[row] = m;
    a->rstd[row] = s;
#pragma omp simd
    for (int i = 0; i < C; i++) act_set(t, y, (size_t)i, (z[i] - m) * s * w[i] + b[i]);
}

SIMD_INLINE void layernorm_fwd_body(pa_type t, const pa_layernorm *a) {
    const int C = a->C;
#pragma omp parallel for schedule(static) if ((size_t)a->rows * (size_t)C > SMALL)
    for (int row = 0; row < a->rows; row++) {
        size_t at = (size_t)row * (size_t)C;
        const float *in = a->x + at;
        if (a->r) {
            float *to = a->z + at;
            const float *add = a->r + at, *bias = a->bias;
            if (bias) {
#pragma omp simd
                for (int i = 0; i < C; i++) to[i] = in[i] + (add[i] + bias[i]);
            } else {
#pragma omp simd
                for (int i = 0; i < C; i++) to[i] = in[i] + add[i];
            }
            in = to;
        }
        void *out = act_at(t, a->y, at);
        if (a->w) {
            layernorm_row(t, a, row, in, out);
        } else {
#pragma omp simd
            for (int i = 0; i < C; i++) act_set(t, out, (size_t)i, in[i]);
        }
    }
}
void CPU_ISA(layernorm_fwd)(pa_device *d, const pa_layernorm *a) {
    (void)d;
    if (a->type == PA_TYPE_F32)
        layernorm_fwd_body(PA_TYPE_F32, a);
    else
        layernorm_fwd_body(PA_TYPE_BF16, a);
}

// Adds the threads' partial sums, part (threads, 2, width), to one or two sums, in the order of the threads.
SIMD_INLINE void add_partials(float *first, float *second, const float *part, int threads, int width) {
    for (int t = 0; t < threads; t++) {
        const float *p = part + (size_t)t * 2 * (size_t)width;
#pragma omp simd
        for (int i = 0; i < width; i++) first[i] += p[i];
        if (!second) continue;
#pragma omp simd
        for (int i = 0; i < width; i++) second[i] += p[width + i];
    }
}

// part: this thread's sums of dw, then db.
SIMD_INLINE void layernorm_bwd_row(pa_type t, const pa_layernorm_grads *of, int row, float *part) {
    const int C = of->C;
    const size_t at = (size_t)row * (size_t)C;
    const float *x = of->x + at, *w = of->w, mean = of->mean[row], rstd = of->rstd[row];
    const void *dy = act_at(t, of->dy, at);
    float *dx = of->dx + at, *dw = part, *db = part + C, a = 0, b = 0;
#pragma omp simd reduction(+ : a, b)
    for (int i = 0; i < C; i++) {
        float d = act_get(t, dy, (size_t)i), hat = (x[i] - mean) * rstd, g = d * w[i];
        a += g;
        b += g * hat;
        dw[i] += d * hat;
        db[i] += d;
    }
    a /= (float)C;
    b /= (float)C;
#pragma omp simd
    for (int i = 0; i < C; i++) dx[i] += rstd * (act_get(t, dy, (size_t)i) * w[i] - a - (x[i] - mean) * rstd * b);
    if (!of->dx_copy) return;
    void *copy = act_at(t, of->dx_copy, at);
#pragma omp simd
    for (int i = 0; i < C; i++) act_set(t, copy, (size_t)i, dx[i]);
}

SIMD_INLINE void layernorm_bwd_body(pa_type t, const pa_layernorm_grads *a) {
    const size_t C = (size_t)a->C;
    int threads = 1;
#pragma omp parallel if ((size_t)a->rows * C > SMALL)
    {
        int me = omp_get_thread_num(), all = omp_get_num_threads();
        float *part = (float *)a->work + (size_t)me * 2 * C;
        memset(part, 0, C * 8);
#pragma omp single nowait
        threads = all;
#pragma omp for schedule(static)
        for (int row = 0; row < a->rows; row++) layernorm_bwd_row(t, a, row, part);
    }
    add_partials(a->dw, a->db, a->work, threads, a->C);
}
void CPU_ISA(layernorm_bwd)(pa_device *d, const pa_layernorm_grads *a) {
    (void)d;
    if (a->type == PA_TYPE_F32)
        layernorm_bwd_body(PA_TYPE_F32, a);
    else
        layernorm_bwd_body(PA_TYPE_BF16, a);
}

SIMD_INLINE void head_norm_fwd_body(pa_type t, const pa_head_norm *of) {
    const int H = of->H, D = of->D;
    const float *w = of->w;
#pragma omp parallel for schedule(static) if ((size_t)of->rows * (size_t)(H * D) > SMALL)
    for (int row = 0; row < of->rows; row++)
        for (int h = 0; h < H; h++) {
            void *a = act_at(t, of->x, (size_t)row * (size_t)of->ld + (size_t)h * (size_t)D);
            float squares = 0;
#pragma omp simd reduction(+ : squares)
            for (int i = 0; i < D; i++) squares += act_get(t, a, (size_t)i) * act_get(t, a, (size_t)i);
            float s = 1 / sqrtf(squares / (float)D + 1e-6f);
            of->rstd[(size_t)row * (size_t)H + (size_t)h] = s;
#pragma omp simd
            for (int i = 0; i < D; i++) act_set(t, a, (size_t)i, act_get(t, a, (size_t)i) * s * w[i]);
        }
}
void CPU_ISA(head_norm_fwd)(pa_device *d, const pa_head_norm *a) {
    (void)d;
    if (a->type == PA_TYPE_F32)
        head_norm_fwd_body(PA_TYPE_F32, a);
    else
        head_norm_fwd_body(PA_TYPE_BF16, a);
}

// part: this thread's sums of dw.
SIMD_INLINE void head_norm_bwd_head(pa_type t, const pa_head_norm_grads *a, int row, int h, float *part) {
    const int D = a->D;
    const float *w = a->w, s = a->rstd[(size_t)row * (size_t)a->H + (size_t)h];
    void *d = act_at(t, a->dy, (size_t)row * (size_t)a->ld_dy + (size_t)h * (size_t)D);
    const void *y = act_at(t, a->x, (size_t)row * (size_t)a->ld_x + (size_t)h * (size_t)D);
    float b = 0;
#pragma omp simd reduction(+ : b)
    for (int i = 0; i < D; i++) {
        float g = act_get(t, d, (size_t)i), hat = w[i] == 0 ? 0 : act_get(t, y, (size_t)i) / w[i];
        part[i] += g * hat;
        b += g * w[i] * hat;
    }
    b /= (float)D;
#pragma omp simd
    for (int i = 0; i < D; i++) {
        float hat = w[i] == 0 ? 0 : act_get(t, y, (size_t)i) / w[i];
        act_set(t, d, (size_t)i, s * (act_get(t, d, (size_t)i) * w[i] - hat * b));
    }
}

SIMD_INLINE void head_norm_bwd_body(pa_type t, const pa_head_norm_grads *a) {
    int threads = 1;
#pragma omp parallel if ((size_t)a->rows * (size_t)(a->H * a->D) > SMALL)
    {
        int me = omp_get_thread_num(), all = omp_get_num_threads();
        float *part = (float *)a->work + (size_t)me * 2 * (size_t)a->D;
        memset(part, 0, (size_t)a->D * 8);
#pragma omp single nowait
        threads = all;
#pragma omp for schedule(static)
        for (int row = 0; row < a->rows; row++)
            for (int h = 0; h < a->H; h++) head_norm_bwd_head(t, a, row, h, part);
    }
    add_partials(a->dw, NULL, a->work, threads, a->D);
}
void CPU_ISA(head_norm_bwd)(pa_device *d, const pa_head_norm_grads *a) {
    (void)d;
    if (a->type == PA_TYPE_F32)
        head_norm_bwd_body(PA_TYPE_F32, a);
    else
        head_norm_bwd_body(PA_TYPE_BF16, a);
}

size_t CPU_ISA(norm_work)(pa_device *d, int width) {
    (void)d;
    return (size_t)omp_get_max_threads() * 2 * (size_t)width * sizeof(float);
}

SIMD_INLINE void cross_entropy_row(pa_type t, const pa_cross_entropy *a, int row) {
    const int V = a->V, target = a->target ? a->target[row] : -1;
    const size_t from = (size_t)row * (size_t)a->ld;
    const float *x = a->logits + from, scale = a->scalars->loss_scale;
    float top = x[0], sum = 0;
#pragma omp simd reduction(max : top)
    for (int i = 0; i < V; i++) top = x[i] > top ? x[i] : top;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < V; i++) sum += exp_f32(x[i] - top);
    float log_z = logf(sum) + top;
    bool scored = target >= 0 && target < V - 1;
    a->nats[row] = scored ? log_z - x[target] : 0;
    if (a->best) {
        int at = 0;
        for (int i = 1; i < V; i++) at = x[i] > x[at] ? i : at;
        a->best[row] = (uint16_t)at;
    }
    if (!a->dlogits) return;
    void *d = act_at(t, a->dlogits, from);
    float factor = scored ? scale * (1 + 2 * a->z_loss * log_z) / sum : 0;
#pragma omp simd
    for (int i = 0; i < V; i++) act_set(t, d, (size_t)i, factor * exp_f32(x[i] - top));
    if (scored) act_set(t, d, (size_t)target, factor * exp_f32(x[target] - top) - scale);
}

SIMD_INLINE void cross_entropy_body(pa_type t, const pa_cross_entropy *a) {
#pragma omp parallel for schedule(static) if ((size_t)a->rows * (size_t)a->V > SMALL)
    for (int r = 0; r < a->rows; r++) cross_entropy_row(t, a, r);
}
void CPU_ISA(cross_entropy)(pa_device *d, const pa_cross_entropy *a) {
    (void)d;
    if (a->type == PA_TYPE_F32)
        cross_entropy_body(PA_TYPE_F32, a);
    else
        cross_entropy_body(PA_TYPE_BF16, a);
}
