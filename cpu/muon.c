// muon.c: see muon.h. Work is divided by rows, so that threads change no sum.
#include "cpu/muon.h"

#include <math.h>
#include <string.h>

#include "cpu/device.h"
#include "cpu/simd.h"

enum { BLOCK = 32 }; // rows and columns that are turned at a time

void cpu_momentum(pa_device *d, const pa_momentum *a) {
    const float scale = cpu_gradient_scale(a->scalars, *a->squares), mu = (float)a->scalars->momentum,
                rest = (float)(1 - a->scalars->momentum);
    float *m = a->m, *g = a->g;
    (void)d;
    if (scale == 0) {
        memset(g, 0, a->n * sizeof *g);
        return;
    }
#pragma omp parallel for simd schedule(static)
    for (size_t i = 0; i < a->n; i++) {
        float gradient = g[i] * scale;
        m[i] = mu * m[i] + rest * gradient;
        g[i] = rest * gradient + mu * m[i];
    }
}

static float get(pa_type type, const void *x, size_t i) {
    return type == PA_TYPE_F32 ? ((const float *)x)[i] : bf16_to_float(((const uint16_t *)x)[i]);
}

static void set(pa_type type, void *x, size_t i, float value) {
    if (type == PA_TYPE_F32)
        ((float *)x)[i] = value;
    else
        ((uint16_t *)x)[i] = bf16_from_float(value);
}

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

void cpu_normalise(pa_device *d, const pa_normalise *a) {
    const float scale = (float)(1 / (sqrt(*a->squares) + 1e-7));
    const size_t rows = (size_t)a->rows, columns = (size_t)a->columns;
    (void)d;
    if (!a->turn) {
#pragma omp parallel for schedule(static)
        for (size_t r = 0; r < rows; r++)
            for (size_t i = r * columns; i < (r + 1) * columns; i++) set(a->type, a->x, i, a->u[i] * scale);
        return;
    }
#pragma omp parallel for schedule(static)
    for (size_t c0 = 0; c0 < columns; c0 += BLOCK)
        for (size_t r0 = 0; r0 < rows; r0 += BLOCK)
            for (size_t c = c0; c < least(c0 + BLOCK, columns); c++)
                for (size_t r = r0; r < least(r0 + BLOCK, rows); r++)
                    set(a->type, a->x, c * rows + r, a->u[r * columns + c] * scale);
}

void cpu_polynomial(pa_device *d, const pa_polynomial *a) {
    const size_t n = (size_t)a->n;
    (void)d;
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < n; r++)
        for (size_t i = r * n; i < (r + 1) * n; i++)
            set(a->type, a->b, i,
                a->p1 * get(a->type, a->a, i) + a->p2 * get(a->type, a->b, i) + (i == r * n + r ? a->p0 : 0));
}

void cpu_muon(pa_device *d, const pa_muon *a) {
    const pa_scalars *s = a->scalars;
    const size_t rows = (size_t)a->rows, columns = (size_t)a->columns;
    const double lr = s->lr[PA_GROUP_MATRIX];
    const float keep = a->decays ? (float)(1 - lr * s->decay) : 1;
    const float step = (float)(lr * sqrt(rows > columns ? (double)rows / (double)columns : 1));
    (void)d;
    if (cpu_gradient_scale(s, *a->squares) == 0) return;
#pragma omp parallel for schedule(static)
    for (size_t r0 = 0; r0 < rows; r0 += BLOCK)
        for (size_t c0 = 0; c0 < columns; c0 += BLOCK)
            for (size_t r = r0; r < least(r0 + BLOCK, rows); r++)
                for (size_t c = c0; c < least(c0 + BLOCK, columns); c++) {
                    size_t i = r * columns + c;
                    a->p[i] = a->p[i] * keep - step * get(a->type, a->x, a->turn ? c * rows + r : i);
                    if (a->copy) set(a->copy_type, a->copy, i, a->p[i]);
                }
}
