// simd_norm.c: what works on a row at a time: layer norm, head norm, cross-entropy. Compiled once for each instruction set; see
// cpu/ops.h for what each computes. Gradients of weights are summed per thread, then over threads in their order.
#include "cpu/simd_norm.h"

#include <omp.h>

#include "cpu/simd_math.h"

enum { SMALL = 16384 };

SIMD_INLINE void layernorm_row(pa_type t, const float *z, void *y, float *mean, float *rstd, const float *w, const float *b, int C) {
    float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < C; i++) sum += z[i];
    float m = sum / (float)C;
#pragma omp simd reduction(+ : squares)
    for (int i = 0; i < C; i++) squares += (z[i] - m) * (z[i] - m);
    float s = 1 / sqrtf(squares / (float)C + 1e-5f);
    *mean = m, *rstd = s;
#pragma omp simd
    for (int i = 0; i < C; i++) act_set(t, y, (size_t)i, (z[i] - m) * s * w[i] + b[i]);
}

SIMD_INLINE void layernorm_fwd_body(pa_type t, float *z, void *y, float *mean, float *rstd, const float *x, const float *r,
                                    const float *bias, const float *w, const float *b, int rows, int C) {
#pragma omp parallel for schedule(static) if ((size_t)rows * (size_t)C > SMALL)
    for (int row = 0; row < rows; row++) {
        size_t at = (size_t)row * (size_t)C;
        const float *in = x + at;
        if (r) {
            float *to = z + at;
            const float *add = r + at;
            if (bias) {
#pragma omp simd
                for (int i = 0; i < C; i++) to[i] = in[i] + (add[i] + bias[i]);
            } else {
#pragma omp simd
                for (int i = 0; i < C; i++) to[i] = in[i] + add[i];
            }
            in = to;
        }
        void *out = act_at(t, y, at);
        if (w) {
            layernorm_row(t, in, out, mean + row, rstd + row, w, b, C);
        } else {
#pragma omp simd
            for (int i = 0; i < C; i++) act_set(t, out, (size_t)i, in[i]);
        }
    }
}
void CPU_ISA(layernorm_fwd)(pa_type t, float *z, void *y, float *mean, float *rstd, const float *x, const float *r, const float *bias,
                            const float *w, const float *b, int rows, int C) {
    if (t == PA_TYPE_F32)
        layernorm_fwd_body(PA_TYPE_F32, z, y, mean, rstd, x, r, bias, w, b, rows, C);
    else
        layernorm_fwd_body(PA_TYPE_BF16, z, y, mean, rstd, x, r, bias, w, b, rows, C);
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

SIMD_INLINE void layernorm_bwd_row(pa_type t, float *dx, void *copy, float *dw, float *db, const void *dy, const float *x, float mean,
                                   float rstd, const float *w, int C) {
    float a = 0, b = 0;
#pragma omp simd reduction(+ : a, b)
    for (int i = 0; i < C; i++) {
        float d = act_get(t, dy, (size_t)i), hat = (x[i] - mean) * rstd, g = d * w[i];
        a += g, b += g * hat;
        dw[i] += d * hat, db[i] += d;
    }
    a /= (float)C, b /= (float)C;
#pragma omp simd
    for (int i = 0; i < C; i++) dx[i] += rstd * (act_get(t, dy, (size_t)i) * w[i] - a - (x[i] - mean) * rstd * b);
    if (!copy) return;
#pragma omp simd
    for (int i = 0; i < C; i++) act_set(t, copy, (size_t)i, dx[i]);
}

SIMD_INLINE void layernorm_bwd_body(pa_type t, float *dx, void *copy, float *dw, float *db, const void *dy, const float *x,
                                    const float *mean, const float *rstd, const float *w, int rows, int C, float *work) {
    int threads = 1;
#pragma omp parallel if ((size_t)rows * (size_t)C > SMALL)
    {
        int me = omp_get_thread_num(), all = omp_get_num_threads();
        float *part = work + (size_t)me * 2 * (size_t)C;
        memset(part, 0, (size_t)C * 8);
#pragma omp single nowait
        threads = all;
#pragma omp for schedule(static)
        for (int row = 0; row < rows; row++) {
            size_t at = (size_t)row * (size_t)C;
            layernorm_bwd_row(t, dx + at, copy ? act_at(t, copy, at) : NULL, part, part + C, act_at(t, dy, at), x + at, mean[row],
                              rstd[row], w, C);
        }
    }
    add_partials(dw, db, work, threads, C);
}
void CPU_ISA(layernorm_bwd)(pa_type t, float *dx, void *copy, float *dw, float *db, const void *dy, const float *x, const float *mean,
                            const float *rstd, const float *w, int rows, int C, float *work) {
    if (t == PA_TYPE_F32)
        layernorm_bwd_body(PA_TYPE_F32, dx, copy, dw, db, dy, x, mean, rstd, w, rows, C, work);
    else
        layernorm_bwd_body(PA_TYPE_BF16, dx, copy, dw, db, dy, x, mean, rstd, w, rows, C, work);
}

SIMD_INLINE void head_norm_fwd_body(pa_type t, void *x, ptrdiff_t ld, float *rstd, const float *w, int rows, int H, int D) {
#pragma omp parallel for schedule(static) if ((size_t)rows * (size_t)(H * D) > SMALL)
    for (int row = 0; row < rows; row++)
        for (int h = 0; h < H; h++) {
            void *a = act_at(t, x, (size_t)row * (size_t)ld + (size_t)h * (size_t)D);
            float squares = 0;
#pragma omp simd reduction(+ : squares)
            for (int i = 0; i < D; i++) squares += act_get(t, a, (size_t)i) * act_get(t, a, (size_t)i);
            float s = 1 / sqrtf(squares / (float)D + 1e-6f);
            rstd[(size_t)row * (size_t)H + (size_t)h] = s;
#pragma omp simd
            for (int i = 0; i < D; i++) act_set(t, a, (size_t)i, act_get(t, a, (size_t)i) * s * w[i]);
        }
}
void CPU_ISA(head_norm_fwd)(pa_type t, void *x, ptrdiff_t ld, float *rstd, const float *w, int rows, int H, int D) {
    if (t == PA_TYPE_F32)
        head_norm_fwd_body(PA_TYPE_F32, x, ld, rstd, w, rows, H, D);
    else
        head_norm_fwd_body(PA_TYPE_BF16, x, ld, rstd, w, rows, H, D);
}

SIMD_INLINE void head_norm_bwd_body(pa_type t, void *dy, ptrdiff_t ld_dy, float *dw, const void *x, ptrdiff_t ld_x, const float *rstd,
                                    const float *w, int rows, int H, int D, float *work) {
    int threads = 1;
#pragma omp parallel if ((size_t)rows * (size_t)(H * D) > SMALL)
    {
        int me = omp_get_thread_num(), all = omp_get_num_threads();
        float *part = work + (size_t)me * 2 * (size_t)D;
        memset(part, 0, (size_t)D * 8);
#pragma omp single nowait
        threads = all;
#pragma omp for schedule(static)
        for (int row = 0; row < rows; row++)
            for (int h = 0; h < H; h++) {
                void *d = act_at(t, dy, (size_t)row * (size_t)ld_dy + (size_t)h * (size_t)D);
                const void *y = act_at(t, x, (size_t)row * (size_t)ld_x + (size_t)h * (size_t)D);
                float s = rstd[(size_t)row * (size_t)H + (size_t)h], b = 0;
#pragma omp simd reduction(+ : b)
                for (int i = 0; i < D; i++) {
                    float g = act_get(t, d, (size_t)i), hat = w[i] == 0 ? 0 : act_get(t, y, (size_t)i) / w[i];
                    part[i] += g * hat, b += g * w[i] * hat;
                }
                b /= (float)D;
#pragma omp simd
                for (int i = 0; i < D; i++) {
                    float hat = w[i] == 0 ? 0 : act_get(t, y, (size_t)i) / w[i];
                    act_set(t, d, (size_t)i, s * (act_get(t, d, (size_t)i) * w[i] - hat * b));
                }
            }
    }
    add_partials(dw, NULL, work, threads, D);
}
void CPU_ISA(head_norm_bwd)(pa_type t, void *dy, ptrdiff_t ld_dy, float *dw, const void *x, ptrdiff_t ld_x, const float *rstd,
                            const float *w, int rows, int H, int D, float *work) {
    if (t == PA_TYPE_F32)
        head_norm_bwd_body(PA_TYPE_F32, dy, ld_dy, dw, x, ld_x, rstd, w, rows, H, D, work);
    else
        head_norm_bwd_body(PA_TYPE_BF16, dy, ld_dy, dw, x, ld_x, rstd, w, rows, H, D, work);
}

SIMD_INLINE void cross_entropy_row(pa_type t, void *d, float *nats, uint16_t *best, const float *x, int target, float scale, float z_loss,
                                   int V) {
    float top = x[0], sum = 0;
#pragma omp simd reduction(max : top)
    for (int i = 0; i < V; i++) top = x[i] > top ? x[i] : top;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < V; i++) sum += exp_f32(x[i] - top);
    float log_z = logf(sum) + top;
    bool scored = target >= 0 && target < V - 1;
    *nats = scored ? log_z - x[target] : 0;
    if (best) {
        int at = 0;
        for (int i = 1; i < V; i++) at = x[i] > x[at] ? i : at;
        *best = (uint16_t)at;
    }
    if (!d) return;
    float factor = scored ? scale * (1 + 2 * z_loss * log_z) / sum : 0;
#pragma omp simd
    for (int i = 0; i < V; i++) act_set(t, d, (size_t)i, factor * exp_f32(x[i] - top));
    if (scored) act_set(t, d, (size_t)target, factor * exp_f32(x[target] - top) - scale);
}

SIMD_INLINE void cross_entropy_body(pa_type t, void *dlogits, float *nats, uint16_t *best, const float *logits, const uint16_t *target,
                                    float scale, float z_loss, int rows, int V) {
#pragma omp parallel for schedule(static) if ((size_t)rows * (size_t)V > SMALL)
    for (int r = 0; r < rows; r++) {
        size_t at = (size_t)r * (size_t)V;
        cross_entropy_row(t, dlogits ? act_at(t, dlogits, at) : NULL, nats + r, best ? best + r : NULL, logits + at,
                          target ? target[r] : -1, scale, z_loss, V);
    }
}
void CPU_ISA(cross_entropy)(pa_type t, void *dlogits, float *nats, uint16_t *best, const float *logits, const uint16_t *target, float scale,
                            float z_loss, int rows, int V) {
    if (t == PA_TYPE_F32)
        cross_entropy_body(PA_TYPE_F32, dlogits, nats, best, logits, target, scale, z_loss, rows, V);
    else
        cross_entropy_body(PA_TYPE_BF16, dlogits, nats, best, logits, target, scale, z_loss, rows, V);
}
