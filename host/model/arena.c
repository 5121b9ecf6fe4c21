// arena.c: see arena.h.
#include "host/model/arena.h"

const char *pa_arena_name(int kind) {
    static const char *const name[ARENAS] = {"parameters",  "16-bit weights", "int8 weights", "gradients", "moments",
                                             "activations", "backward",       "caches",       "workspace"};
    return name[kind];
}

void pa_arenas_begin(pa_arena *a, size_t align) {
    for (int i = 0; i < ARENAS; i++) {
        a[i].used = 0;
        a[i].align = align;
    }
}

void *pa_arena_take(pa_arena *a, size_t count, size_t size) {
    size_t at = a->used;
    a->used += (count * size + a->align - 1) & ~(a->align - 1);
    return a->base && count ? a->base + at : NULL;
}

static float *take_floats(pa_arena *a, size_t count) {
    return pa_arena_take(a, count, sizeof(float));
}

static void layout_saved(pa_arena *a, const pa_model *m, size_t size, size_t R, size_t Q, bool cross, pa_saved *s) {
    size_t C = (size_t)m->dim, I = (size_t)pa_inner(m), F = (size_t)pa_ff(m), H = (size_t)m->heads;
    s->zn = pa_arena_take(a, (Q + R) * C, size);
    s->mean = take_floats(a, Q + R);
    s->rstd = take_floats(a, Q + R);
    if (cross) {
        s->q = pa_arena_take(a, R * I, size);
        s->k = pa_arena_take(a, (Q + R) * 2 * I, size);
        s->v = s->k ? (char *)s->k + I * size : NULL;
    } else {
        s->q = pa_arena_take(a, R * 3 * I, size);
        s->k = s->q ? (char *)s->q + I * size : NULL;
        s->v = s->q ? (char *)s->q + 2 * I * size : NULL;
    }
    s->q_rstd = take_floats(a, m->qk_norm ? R * H : 0);
    s->k_rstd = take_floats(a, m->qk_norm ? (Q + R) * H : 0);
    s->o = pa_arena_take(a, R * I, size);
    s->lse = take_floats(a, R * H);
    if (!s->z_mid) s->z_mid = take_floats(a, R * C);
    s->zn2 = pa_arena_take(a, R * C, size);
    s->mean2 = take_floats(a, R);
    s->rstd2 = take_floats(a, R);
    s->h = pa_arena_take(a, R * F, size);
    s->g = pa_arena_take(a, R * F, size);
}

// Blocks whose activations are not kept lie in one place, as large as the largest.
void pa_layout_blocks(pa_arena *a, const pa_open *o, size_t size, size_t R, size_t Q, float **z, pa_saved *saved) {
    const pa_model *m = &o->params->model;
    size_t C = (size_t)m->dim;
    bool keep_all = o->training && !o->recompute;
    int blocks = m->perceive_depth + m->depth;
    for (int i = 0; i <= blocks; i++) z[i] = o->training || i < 2 ? take_floats(a, R * C) : z[i - 2];
    // Not in what blocks share: the next block's input is computed from it, after that block's own buffers are first
    // written.
    float *z_mid = keep_all ? NULL : take_floats(a, R * C);
    size_t start = a->used, longest = start;
    for (int i = 0; i < blocks; i++) {
        if (!keep_all) a->used = start;
        saved[i].z_mid = z_mid;
        layout_saved(a, m, size, R, pa_is_cross(m, i) ? Q : 0, pa_is_cross(m, i), &saved[i]);
        if (a->used > longest) longest = a->used;
    }
    a->used = longest;
}

void pa_layout_caches(pa_arena *a, const pa_open *o, size_t size, pa_cache *cache) {
    const pa_model *m = &o->params->model;
    for (int i = 0; i < m->perceive_depth + m->depth; i++) {
        cache[i].capacity = pa_is_cross(m, i) ? m->context : m->context - m->prefix;
        size_t count = (size_t)o->streams * (size_t)cache[i].capacity * (size_t)pa_inner(m);
        cache[i].k = pa_arena_take(a, count, size);
        cache[i].v = pa_arena_take(a, count, size);
    }
}

size_t pa_layout_scales(const pa_params *p, ptrdiff_t *scale_at) {
    size_t rows = 0;
    for (int t = 0; t < p->count; t++) {
        const pa_param *row = &p->row[t];
        scale_at[t] = row->linear ? (ptrdiff_t)rows : -1;
        if (row->linear) rows += (size_t)row->shape[0];
    }
    return rows;
}

size_t pa_arenas_total(const pa_arena *a) {
    size_t sum = 0;
    for (int i = 0; i < ARENAS; i++) sum += a[i].used;
    return sum;
}

void pa_arenas_print(const pa_arena *a, const char *precision, const char *device, FILE *out) {
    fprintf(out, "memory plan, %s on %s:\n", precision, device);
    for (int i = 0; i < ARENAS; i++)
        if (a[i].used) fprintf(out, "  %-14s %10.1f MB\n", pa_arena_name(i), (double)a[i].used / 1e6);
    fprintf(out, "  %-14s %10.1f MB\n", "all", (double)pa_arenas_total(a) / 1e6);
}
