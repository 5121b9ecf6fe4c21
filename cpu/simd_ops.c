// simd_ops.c: embeddings, rotation, activations, casts and the optimiser; and the table of all operations of one
// instruction set. Compiled once for each. Loops are plain and vectorise; see host/model/ops.h for what each computes.
// No operation here uses the device.
#include "cpu/attention.h"
#include "cpu/muon.h"
#include "cpu/simd_gemv.h"
#include "cpu/simd_math.h"
#include "cpu/simd_norm.h"
#include "host/base/philox.h"

#include <omp.h>

// Below this many elements a parallel region costs more than it saves.
enum { SMALL = 16384 };

static void embed_fwd(pa_device *d, float *x, const pa_embed *a) {
    const int C = a->C;
    (void)d;
#pragma omp parallel for schedule(static) if ((size_t)a->rows * (size_t)C > SMALL)
    for (int r = 0; r < a->rows; r++) {
        float *to = x + (size_t)r * (size_t)C;
        const float *t = a->token_emb + (size_t)a->token[r] * (size_t)C;
        const float *p = a->pos_emb ? a->pos_emb + (size_t)a->position[r] * (size_t)C : NULL;
        if (p)
            for (int i = 0; i < C; i++) to[i] = t[i] + p[i];
        else
            memcpy(to, t, (size_t)C * 4);
        for (int j = 0; j < a->slots; j++) {
            const int32_t at = a->bag[(size_t)j * (size_t)a->slot_ld + (size_t)r];
            if (at < 0) continue;
            const float *l = a->bag_emb + (size_t)at * (size_t)C;
            for (int i = 0; i < C; i++) to[i] += l[i];
        }
    }
}

// Each thread owns columns, so every sum has one order.
static void embed_bwd(pa_device *device, const pa_embed_grads *a) {
    const size_t C = (size_t)a->C;
    (void)device;
#pragma omp parallel if ((size_t)a->rows * C > SMALL)
    {
        int threads = omp_get_num_threads(), me = omp_get_thread_num();
        int low = (int)((int64_t)C * me / threads), high = (int)((int64_t)C * (me + 1) / threads);
        for (int r = 0; r < a->rows; r++) {
            const float *d = a->dx + (size_t)r * C;
            float *t = a->dtoken_emb + (size_t)a->token[r] * C,
                  *p = a->dpos_emb ? a->dpos_emb + (size_t)a->position[r] * C : NULL;
#pragma omp simd
            for (int i = low; i < high; i++) t[i] += d[i];
            if (p)
#pragma omp simd
                for (int i = low; i < high; i++) p[i] += d[i];
            for (int j = 0; j < a->slots; j++) {
                const int32_t at = a->bag[(size_t)j * (size_t)a->slot_ld + (size_t)r];
                if (at < 0) continue;
                float *l = a->dbag_emb + (size_t)at * C;
#pragma omp simd
                for (int i = low; i < high; i++) l[i] += d[i];
            }
        }
    }
}

SIMD_INLINE void add_rows_body(pa_type t, const pa_add_rows *a) {
    const size_t C = (size_t)a->C;
#pragma omp parallel for schedule(static) if ((size_t)a->rows * C > SMALL)
    for (int r = 0; r < a->rows; r++) {
        const float *row = a->table + (size_t)a->token[r] * C;
        void *x = act_at(t, a->x, (size_t)r * (size_t)a->ld);
#pragma omp simd
        for (size_t i = 0; i < C; i++) act_set(t, x, i, act_get(t, x, i) + row[i]);
    }
}
static void add_rows(pa_device *d, const pa_add_rows *a) {
    (void)d;
    if (a->type == PA_TYPE_F32)
        add_rows_body(PA_TYPE_F32, a);
    else
        add_rows_body(PA_TYPE_BF16, a);
}

// Each thread owns columns.
SIMD_INLINE void add_rows_bwd_body(pa_type t, const pa_add_rows_grads *a) {
    const size_t C = (size_t)a->C;
#pragma omp parallel if ((size_t)a->rows * C > SMALL)
    {
        size_t threads = (size_t)omp_get_num_threads(), me = (size_t)omp_get_thread_num();
        size_t low = C * me / threads, high = C * (me + 1) / threads;
        for (int r = 0; r < a->rows; r++) {
            const void *d = act_at(t, (void *)a->dx, (size_t)r * (size_t)a->ld);
            float *to = a->dtable + (size_t)a->token[r] * C;
#pragma omp simd
            for (size_t i = low; i < high; i++) to[i] += act_get(t, d, i);
        }
    }
}
static void add_rows_bwd(pa_device *d, const pa_add_rows_grads *a) {
    (void)d;
    if (a->type == PA_TYPE_F32)
        add_rows_bwd_body(PA_TYPE_F32, a);
    else
        add_rows_bwd_body(PA_TYPE_BF16, a);
}

SIMD_INLINE void rotary_body(pa_type t, const pa_rotary *of) {
    const int half = of->dims / 2, H = of->H, D = of->D;
    const float sign = of->sign;
#pragma omp parallel for schedule(static) if ((size_t)of->rows * (size_t)(H * D) > SMALL)
    for (int r = 0; r < of->rows; r++) {
        const float *angle = of->table + (size_t)of->position[r] * (size_t)half * 2;
        for (int h = 0; h < H; h++) {
            void *a = act_at(t, of->x, (size_t)r * (size_t)of->ld + (size_t)h * (size_t)D),
                 *b = act_at(t, a, (size_t)half);
#pragma omp simd
            for (int j = 0; j < half; j++) {
                float c = angle[2 * j], s = sign * angle[2 * j + 1], p = act_get(t, a, (size_t)j),
                      q = act_get(t, b, (size_t)j);
                act_set(t, a, (size_t)j, p * c - q * s);
                act_set(t, b, (size_t)j, q * c + p * s);
            }
        }
    }
}
static void rotary(pa_device *d, const pa_rotary *a) {
    (void)d;
    if (a->type == PA_TYPE_F32)
        rotary_body(PA_TYPE_F32, a);
    else
        rotary_body(PA_TYPE_BF16, a);
}

// Zeroes what the draw drops of one row of F values and divides the rest by 1 - p; one draw serves four neighbours.
SIMD_INLINE void drop_row(pa_type t, const pa_activate *a, void *x, int row) {
    const pa_dropout *d = a->dropout;
    const int F = a->F;
    uint32_t limit = (uint32_t)((double)d->p * 4294967296.0);
    uint64_t window = d->window[row / a->sequence], base = (uint64_t)d->layer << 48; // attention's draws have bit 63
    float keep = 1 / (1 - d->p);
    uint64_t at = base + (uint64_t)(row % a->sequence) * (uint64_t)((F + 3) / 4);
    for (int i = 0; i < F; i += 4) {
        pa_philox r = pa_random(d->seed, PA_RANDOM_DROPOUT, window, at + (uint64_t)i / 4);
        for (int j = 0; j < 4 && i + j < F; j++)
            act_set(t, x, (size_t)(i + j), r.v[j] < limit ? 0 : act_get(t, x, (size_t)(i + j)) * keep);
    }
}

SIMD_INLINE void activation_fwd_body(pa_type t, const pa_activate *a) {
    const int F = a->F;
    const pa_activation kind = a->kind;
#pragma omp parallel for schedule(static) if ((size_t)a->rows * (size_t)F > SMALL / 4)
    for (int r = 0; r < a->rows; r++) {
        const void *from = act_at(t, a->h, (size_t)r * (size_t)F);
        void *to = act_at(t, a->g, (size_t)r * (size_t)F);
        for (int i = 0; i < F; i += VW) {
            int n = F - i < VW ? F - i : VW;
            vf x = act_load(t, from, (size_t)i, n), gauss, positive = vf_select(x < 0.0f, (vf){0}, x); // NaN stays
            act_store(t, to, (size_t)i, n, kind == PA_GELU ? x * normal_integral(x, &gauss) : positive * positive);
        }
        if (a->dropout && a->dropout->p > 0) drop_row(t, a, to, r);
    }
}
static void activation_fwd(pa_device *d, const pa_activate *a) {
    (void)d;
    if (a->type == PA_TYPE_F32)
        activation_fwd_body(PA_TYPE_F32, a);
    else
        activation_fwd_body(PA_TYPE_BF16, a);
}

SIMD_INLINE void activation_bwd_body(pa_type t, const pa_activate *a) {
    const int F = a->F;
    const pa_activation kind = a->kind;
#pragma omp parallel for schedule(static) if ((size_t)a->rows * (size_t)F > SMALL / 4)
    for (int r = 0; r < a->rows; r++) {
        const void *from = act_at(t, a->h, (size_t)r * (size_t)F);
        void *to = act_at(t, a->g, (size_t)r * (size_t)F);
        if (a->dropout && a->dropout->p > 0) drop_row(t, a, to, r);
        for (int i = 0; i < F; i += VW) {
            int n = F - i < VW ? F - i : VW;
            vf x = act_load(t, from, (size_t)i, n), up = act_load(t, to, (size_t)i, n), gauss,
               phi = normal_integral(x, &gauss);
            act_store(t, to, (size_t)i, n,
                      up * (kind == PA_GELU ? phi + 0.39894228f * x * gauss : 2.0f * vf_select(x < 0.0f, (vf){0}, x)));
        }
    }
}
static void activation_bwd(pa_device *d, const pa_activate *a) {
    (void)d;
    if (a->type == PA_TYPE_F32)
        activation_bwd_body(PA_TYPE_F32, a);
    else
        activation_bwd_body(PA_TYPE_BF16, a);
}

// In a fixed order whatever the threads: blocks of 64 Ki summed separately, then the blocks one after the other.
static void sum_squares(pa_device *d, double *to, const float *x, size_t n, void *work) {
    enum { block = 1 << 16 };
    double sum = 0;
    (void)d;
    (void)work;
#pragma omp parallel for ordered schedule(static, 1) if (n > block)
    for (size_t at = 0; at < n; at += block) {
        size_t end = at + block < n ? at + block : n;
        double s = 0;
#pragma omp simd reduction(+ : s)
        for (size_t i = at; i < end; i++) s += (double)x[i] * (double)x[i];
#pragma omp ordered
        sum += s;
    }
    *to = sum;
}
static size_t sum_work(pa_device *d) {
    (void)d;
    return 0;
}

// Numbers [from, from + n) of the arrays. Constants are double until the last step: 1 - 0.999 in float32 would be off
// by 2e-5 of itself.
static void adam_range(const pa_adam *a, float g_scale, double decay, size_t from, size_t n) {
    const pa_scalars *s = a->scalars;
    const float *g = a->g + from;
    float *p = a->p + from, *m = a->m + from, *v = a->v + from;
    uint16_t *copy = a->copy ? (uint16_t *)a->copy + from : NULL;
    const float keep = s->decoupled ? (float)(1 - s->lr[a->group] * decay) : 1, l2 = s->decoupled ? 0 : (float)decay;
    const float step = (float)(s->lr[a->group] / s->c1), root = (float)(1 / sqrt(s->c2)), eps = (float)s->eps;
    const float b1 = (float)s->beta1, a1 = (float)(1 - s->beta1), b2 = (float)s->beta2, a2 = (float)(1 - s->beta2);
#pragma omp parallel for simd schedule(static) if (n > SMALL)
    for (size_t i = 0; i < n; i++) {
        float gradient = g[i] * g_scale + l2 * p[i];
        m[i] = b1 * m[i] + a1 * gradient;
        v[i] = b2 * v[i] + a2 * gradient * gradient;
        p[i] = p[i] * keep - step * m[i] / (sqrtf(v[i]) * root + eps);
    }
    if (!copy) return;
#pragma omp parallel for simd schedule(static) if (n > SMALL)
    for (size_t i = 0; i < n; i++) copy[i] = bf16_from_float(p[i]);
}
static void adam(pa_device *d, const pa_adam *a) {
    const pa_scalars *s = a->scalars;
    const float scale = cpu_gradient_scale(s, *a->squares);
    (void)d;
    if (scale == 0) {
        memset(a->g, 0, (a->to - a->from) * sizeof *a->g);
        return;
    }
    for (int i = 0; i < a->params->count; i++) {
        const pa_param *row = &a->params->row[i];
        size_t end = row->offset + row->size, from = row->offset > a->from ? row->offset : a->from,
               to = end < a->to ? end : a->to;
        if (from >= to) continue;
        adam_range(a, scale, row->decays ? s->decay : 0, from - a->from, to - from);
        if (!row->linear) memset(a->g + (from - a->from), 0, (to - from) * sizeof *a->g);
    }
}

static void cast(pa_device *d, pa_type t, void *y, const float *x, size_t n) {
    (void)d;
    if (t == PA_TYPE_F32) {
        memcpy(y, x, n * 4);
        return;
    }
    uint16_t *to = y;
#pragma omp parallel for simd schedule(static) if (n > SMALL)
    for (size_t i = 0; i < n; i++) to[i] = bf16_from_float(x[i]);
}

static void widen(pa_device *d, pa_type t, float *y, const void *x, size_t n) {
    (void)d;
    if (t == PA_TYPE_F32) {
        memcpy(y, x, n * 4);
        return;
    }
    const uint16_t *from = x;
#pragma omp parallel for simd schedule(static) if (n > SMALL)
    for (size_t i = 0; i < n; i++) y[i] = bf16_to_float(from[i]);
}

static void column_sum(pa_device *d, float *sum, const float *x, int rows, int C, void *work) {
    (void)d;
    (void)work;
#pragma omp parallel if ((size_t)rows * (size_t)C > SMALL)
    {
        int threads = omp_get_num_threads(), me = omp_get_thread_num();
        int low = (int)((int64_t)C * me / threads), high = (int)((int64_t)C * (me + 1) / threads);
        for (int r = 0; r < rows; r++)
#pragma omp simd
            for (int i = low; i < high; i++) sum[i] += x[(size_t)r * (size_t)C + (size_t)i];
    }
}

#define CPU_STRING_(x) #x
#define CPU_STRING(x) CPU_STRING_(x)

extern const pa_ops CPU_ISA(cpu_ops);
const pa_ops CPU_ISA(cpu_ops) = {.name = CPU_STRING(PA_ISA),
                                 .attn_fwd = CPU_ISA(attn_fwd),
                                 .attn_bwd = CPU_ISA(attn_bwd),
                                 .attn_work = CPU_ISA(attn_work),
                                 .attn_decode = CPU_ISA(attn_decode),
                                 .decode_work = CPU_ISA(decode_work),
                                 .embed_fwd = embed_fwd,
                                 .embed_bwd = embed_bwd,
                                 .add_rows = add_rows,
                                 .add_rows_bwd = add_rows_bwd,
                                 .layernorm_fwd = CPU_ISA(layernorm_fwd),
                                 .layernorm_bwd = CPU_ISA(layernorm_bwd),
                                 .head_norm_fwd = CPU_ISA(head_norm_fwd),
                                 .head_norm_bwd = CPU_ISA(head_norm_bwd),
                                 .norm_work = CPU_ISA(norm_work),
                                 .rotary = rotary,
                                 .activation_fwd = activation_fwd,
                                 .activation_bwd = activation_bwd,
                                 .cross_entropy = CPU_ISA(cross_entropy),
                                 .sum_squares = sum_squares,
                                 .sum_work = sum_work,
                                 .adam = adam,
                                 .cast = cast,
                                 .widen = widen,
                                 .column_sum = column_sum,
                                 .gemv = CPU_ISA(gemv),
                                 .gemv_int8 = CPU_ISA(gemv_int8)};
