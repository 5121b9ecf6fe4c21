// fixture.c: see fixture.h.
#include "tests/support/fixture.h"

#include "host/base/philox.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

pa_model fixture_model(void) {
    pa_model m = pa_model_default();
    m.context = 24;
    m.prefix = 9;
    m.dim = 16;
    m.heads = 3;
    m.dim_head = 8;
    m.depth = 2;
    m.ff_mult = 3;
    m.vocab = 40;
    m.prefix_dropout = 0;
    return m;
}

double *fixture_doubles(size_t count) {
    double *x = calloc(count + 1, sizeof *x);
    assert_non_null(x);
    return x;
}

void fixture_init(fixture *f, const pa_model *m, uint64_t seed) {
    pa_err err;
    memset(f, 0, sizeof *f);
    fixture_ok(pa_params_init(&f->params, m, &err), &err);
    f->w = fixture_doubles(f->params.floats);
    for (int t = 0; t < f->params.count; t++) {
        const pa_param *row = &f->params.row[t];
        bool embedding = row->group == PA_GROUP_EMBEDDING;
        double scale = row->rank == 1 ? 0.5 : embedding ? 1 : sqrt(3.0 / row->shape[1]);
        for (size_t i = 0; i < row->size; i++) {
            double u = 2 * pa_uniform(pa_random(seed, PA_RANDOM_INIT, (uint64_t)t, i)) - 1;
            f->w[row->offset + i] = (float)((row->init == PA_INIT_ONE) + scale * u);
        }
    }
}

void fixture_batch(fixture *f, int batch, int length, int latents, int kept, uint64_t seed) {
    size_t B = (size_t)batch, P = (size_t)(length - latents);
    unsigned words = (unsigned)f->params.model.vocab - 1;
    free(f->input);
    free(f->target);
    free(f->keep);
    free(f->window);
    f->input = calloc(B * (size_t)length, sizeof *f->input);
    f->target = calloc(B * (size_t)latents, sizeof *f->target);
    f->keep = kept < 0 ? NULL : calloc(B * (size_t)kept + 1, sizeof *f->keep);
    f->window = calloc(B, sizeof *f->window);
    assert_true(f->input && f->target && f->window);
    for (size_t i = 0; i < B * (size_t)length; i++)
        f->input[i] = (uint16_t)pa_below(pa_random(seed, PA_RANDOM_CROP, 0, i), words + 1);
    for (size_t i = 0; i < B * (size_t)latents; i++) {
        bool pad = pa_uniform(pa_random(seed, PA_RANDOM_CROP, 2, i)) < 0.2;
        f->target[i] = (uint16_t)(pad ? words : pa_below(pa_random(seed, PA_RANDOM_CROP, 1, i), words));
    }
    for (size_t b = 0; b < B; b++) {
        f->window[b] = 100 * seed + b;
        int left = kept; // selection sampling: ascending, each subset as likely
        for (size_t m = 0; left > 0 && m < P; m++)
            if (pa_uniform(pa_random(seed, PA_RANDOM_PREFIX, b, m)) * (double)(P - m) < left)
                f->keep[b * (size_t)kept + (size_t)(kept - left--)] = (int32_t)m;
    }
    f->batch = (pa_batch){
        .batch = batch, .length = length, .latents = latents, .input = f->input, .target = f->target, .keep = f->keep};
    f->batch.kept = kept < 0 ? (int)P : kept;
}

void fixture_step(fixture *f, double dropout) {
    pa_model m = fixture_model();
    m.perceive_depth = 2;
    m.dropout = dropout;
    m.z_loss = 0.01;
    m.qk_norm = true;
    fixture_init(f, &m, 31);
    fixture_batch(f, 2, 24, 15, 4, 37);
    if (dropout > 0) f->batch.window = f->window;
}

void fixture_clear(fixture *f) {
    pa_params_clear(&f->params);
    free(f->w);
    free(f->input);
    free(f->target);
    free(f->keep);
    free(f->window);
    memset(f, 0, sizeof *f);
}

const pa_backend *fixture_backend(void) {
    const char *device = getenv("PA_DEVICE");
    const pa_backend *be = NULL;
    pa_err err;
    fixture_ok(pa_backend_choose(device ? device : "cpu", &be, &err), &err);
    return be;
}

bool fixture_takes(const pa_backend *be, const pa_model *m) {
    return strcmp(be->name, "cuda") || (m->dim_head % 8 == 0 && m->dim_head <= 128);
}

bool fixture_has(const pa_backend *be, pa_precision precision) {
    fixture f;
    pa_model m = fixture_model();
    pa_comm single = pa_comm_single();
    pa_context *c = NULL;
    pa_err err;
    fixture_init(&f, &m, 0);
    pa_status s = be->open(
        &c, &(pa_open){.params = &f.params, .comm = &single, .precision = precision, .max_batch = 1, .plan_only = true},
        &err);
    if (s != PA_USAGE) fixture_ok(s, &err);
    fixture_clear(&f);
    return s == PA_OK;
}

pa_precision fixture_16_bits(const pa_backend *be) {
    return fixture_has(be, PA_PRECISION_BF16) ? PA_PRECISION_BF16 : PA_PRECISION_FP16;
}

float fixture_scale(pa_precision precision) {
    return precision == PA_PRECISION_FP16 ? 0x1p-8f : 1;
}

pa_context *fixture_open(const pa_backend *be, const fixture *f, pa_open o) {
    static pa_comm single;
    single = pa_comm_single();
    if (!o.params) o.params = &f->params;
    if (!o.comm) o.comm = &single;
    pa_context *c = NULL;
    pa_err err;
    fixture_ok(be->open(&c, &o, &err), &err);
    assert_non_null(c);
    fixture_write(be, c, o.params, f->w);
    return c;
}

pa_context *fixture_training(const pa_backend *be, const fixture *f, pa_precision precision, bool recompute) {
    pa_open o = {
        .precision = precision, .max_batch = 2, .training = true, .recompute = recompute, .streams = 1, .seed = 41};
    o.deterministic = true;
    return fixture_open(be, f, o);
}

void fixture_write(const pa_backend *be, pa_context *c, const pa_params *p, const double *w) {
    pa_err err;
    for (int t = 0; t < p->count; t++) {
        const pa_param *row = &p->row[t];
        float *x = calloc(row->size, sizeof *x);
        assert_non_null(x);
        for (size_t i = 0; i < row->size; i++) x[i] = (float)w[row->offset + i];
        fixture_ok(be->write(c, PA_PARAM, t, x, &err), &err);
        free(x);
    }
}

double *fixture_read(const pa_backend *be, pa_context *c, const pa_params *p, pa_kind kind) {
    double *w = fixture_doubles(p->floats);
    pa_err err;
    for (int t = 0; t < p->count; t++) {
        const pa_param *row = &p->row[t];
        float *x = calloc(row->size, sizeof *x);
        assert_non_null(x);
        fixture_ok(be->read(c, kind, t, x, &err), &err);
        for (size_t i = 0; i < row->size; i++) w[row->offset + i] = (double)x[i];
        free(x);
    }
    return w;
}

void fixture_check(pa_status s, const pa_err *err, const char *file, int line) {
    if (s != PA_OK) {
        print_error("status %d: %s\n", s, err->text);
        _fail(file, line);
    }
}

double fixture_distance(const double *x, const double *y, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += (x[i] - (y ? y[i] : 0)) * (x[i] - (y ? y[i] : 0));
    return sqrt(sum);
}

double fixture_norm(const double *x, size_t count) {
    return fixture_distance(x, NULL, count);
}

double *fixture_widen(const float *x, size_t count) {
    double *y = fixture_doubles(count);
    for (size_t i = 0; i < count; i++) y[i] = (double)x[i];
    return y;
}
