// test_muon.c: a backend's update by Muon against float64 and PyTorch (tests/golden/make_muon.py), with q, k and v each
// by itself, and what it keeps of moments.
#include "host/files/safetensors.h"
#include "tests/support/fixture.h"

#include "host/base/philox.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

// Wide and tall matrices: of 24 inner and 16 outer numbers, and of 48 hidden ones.
static void make(fixture *f) {
    pa_model m = fixture_model();
    fixture_init(f, &m, 41);
    fixture_batch(f, 2, 24, 15, 4, 43);
}

static pa_context *open_muon(const pa_backend *be, const fixture *f, pa_precision precision) {
    return fixture_open(
        be, f,
        (pa_open){.precision = precision, .max_batch = 2, .training = true, .deterministic = true, .muon = true});
}

typedef struct {
    double *p, *g, *m, *v;
} moments;

// c (m, n) = a (m, k) b (k, n); b_t: b is (n, k).
static void multiply(double *c, const double *a, const double *b, int m, int n, int k, bool b_t) {
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int l = 0; l < k; l++) sum += a[i * k + l] * (b_t ? b[j * k + l] : b[l * n + j]);
            c[i * n + j] = sum;
        }
}

// torch.optim.Muon's orthogonalisation of u (rows, columns), in place.
static void orthogonalise(double *u, int rows, int columns) {
    const int m = rows < columns ? rows : columns, n = rows < columns ? columns : rows;
    const bool turn = rows > columns;
    double *x = fixture_doubles((size_t)m * (size_t)n), *y = fixture_doubles((size_t)m * (size_t)n);
    double *a = fixture_doubles((size_t)m * (size_t)m), *b = fixture_doubles((size_t)m * (size_t)m);
    double norm = fixture_norm(u, (size_t)rows * (size_t)columns) + 1e-7;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) x[i * n + j] = u[turn ? j * m + i : i * n + j] / norm;
    for (int step = 0; step < 5; step++) {
        multiply(a, x, x, m, m, n, true);
        multiply(b, a, a, m, m, m, false);
        for (int i = 0; i < m * m; i++) b[i] = -4.7750 * a[i] + 2.0315 * b[i];
        multiply(y, b, x, m, n, m, false);
        for (int i = 0; i < m * n; i++) x[i] = 3.4445 * x[i] + y[i];
    }
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) u[turn ? j * m + i : i * n + j] = x[i * n + j];
    free(x), free(y), free(a), free(b);
}

static void muon(const pa_param *row, moments *a, const pa_update *u, double scale) {
    int rows = row->shape[0] / row->parts, columns = row->shape[1];
    size_t size = (size_t)rows * (size_t)columns;
    double *x = fixture_doubles(size), step = u->lr * sqrt(fmax(1, (double)rows / columns));
    for (int part = 0; part < row->parts; part++) {
        size_t at = row->offset + (size_t)part * size;
        for (size_t i = 0; i < size; i++) {
            double g = a->g[at + i] * scale;
            a->m[at + i] = u->momentum * a->m[at + i] + (1 - u->momentum) * g;
            x[i] = (1 - u->momentum) * g + u->momentum * a->m[at + i];
        }
        orthogonalise(x, rows, columns);
        for (size_t i = 0; i < size; i++) a->p[at + i] = a->p[at + i] * (1 - u->lr * u->weight_decay) - step * x[i];
    }
    free(x);
}

static void adamw(const pa_param *row, moments *a, const pa_update *u, double lr, double scale) {
    for (size_t i = row->offset; i < row->offset + row->size; i++) {
        double g = a->g[i] * scale;
        a->m[i] = u->beta1 * a->m[i] + (1 - u->beta1) * g;
        a->v[i] = u->beta2 * a->v[i] + (1 - u->beta2) * g * g;
        double m = a->m[i] / (1 - pow(u->beta1, (double)u->step)), v = a->v[i] / (1 - pow(u->beta2, (double)u->step));
        a->p[i] = a->p[i] * (1 - lr * (row->decays ? u->weight_decay : 0)) - lr * m / (sqrt(v) + u->eps);
    }
}

static void update(const pa_params *p, moments *a, const pa_update *u) {
    double norm = fixture_norm(a->g, p->floats), scale = u->clip > 0 && norm > u->clip ? u->clip / norm : 1;
    for (int t = 0; t < p->count; t++) {
        const pa_param *row = &p->row[t];
        if (row->group == PA_GROUP_MATRIX)
            muon(row, a, u, scale);
        else
            adamw(row, a, u,
                  row->group == PA_GROUP_EMBEDDING ? u->lr_embedding
                  : row->group == PA_GROUP_HEAD    ? u->lr_head
                                                   : u->lr_rest,
                  scale);
    }
}

static void draw_gradient(const pa_backend *be, pa_context *c, const fixture *f, double *all, uint64_t step) {
    pa_err err;
    for (int t = 0; t < f->params.count; t++) {
        const pa_param *row = &f->params.row[t];
        float *g = calloc(row->size, sizeof *g);
        assert_non_null(g);
        for (size_t i = 0; i < row->size; i++) {
            g[i] = (float)(2 * pa_uniform(pa_random(step, PA_RANDOM_EVAL, (uint64_t)t, i)) - 1);
            all[row->offset + i] = (double)g[i];
        }
        fixture_ok(be->write(c, PA_GRAD, t, g, &err), &err);
        free(g);
    }
}

// A step's change of a tensor, relative to its own size. The iteration's polynomial has no slope above 3.9 between
// singular values 0 and 1.2, so five steps make an error at most 900 times as large; its products round to `epsilon`,
// relative to the largest singular value, which of these matrices of random numbers is within a few times the root mean
// square.
static void check(const fixture *f, const double *expected, const double *found, const double *before, double epsilon) {
    int wrong = 0;
    for (int t = 0; t < f->params.count; t++) {
        const pa_param *row = &f->params.row[t];
        double error = fixture_distance(found + row->offset, expected + row->offset, row->size);
        double change = fixture_distance(before + row->offset, expected + row->offset, row->size);
        double norm = fixture_norm(expected + row->offset, row->size);
        if (error <= 900 * epsilon * change + 0x1p-23 * norm) continue;
        print_error("%s: error %.3g of a change of %.3g\n", row->name, error, change);
        wrong++;
    }
    assert_int_equal(wrong, 0);
}

static const pa_update SETTINGS = {.lr = 0.02,
                                   .lr_embedding = 3e-3,
                                   .lr_head = 1e-3,
                                   .lr_rest = 2e-3,
                                   .momentum = 0.95,
                                   .beta1 = 0.9,
                                   .beta2 = 0.99,
                                   .eps = 1e-8,
                                   .weight_decay = 0.1,
                                   .decoupled = true,
                                   .clip = 3};

// Each step begins where the backend's parameters are, so that no error is carried over.
static void run(const pa_model *model, pa_precision precision, double epsilon) {
    const pa_backend *be = fixture_backend();
    fixture f;
    pa_err err;
    fixture_init(&f, model, 41);
    pa_context *c = open_muon(be, &f, precision);
    size_t n = f.params.floats;
    pa_update u = SETTINGS;
    moments a = {fixture_doubles(n), fixture_doubles(n), fixture_doubles(n), fixture_doubles(n)};
    for (u.step = 1; u.step <= 4; u.step++) {
        double norm, *before = fixture_read(be, c, &f.params, PA_PARAM);
        memcpy(a.p, before, n * sizeof *before);
        draw_gradient(be, c, &f, a.g, (uint64_t)u.step);
        fixture_ok(be->update(c, &u, &norm, NULL, &err), &err);
        update(&f.params, &a, &u);
        assert_true(fabs(norm - fixture_norm(a.g, n)) <= 1e-6 * norm);
        double *found = fixture_read(be, c, &f.params, PA_PARAM), *m = fixture_read(be, c, &f.params, PA_MOMENT1);
        double *g = fixture_read(be, c, &f.params, PA_GRAD);
        check(&f, a.p, found, before, epsilon);
        assert_true(fixture_distance(m, a.m, n) <= 0x1p-20 * fixture_norm(a.m, n));
        for (size_t i = 0; i < n; i++) assert_true(g[i] == 0);
        free(found), free(m), free(g), free(before);
    }
    be->close(c);
    free(a.p), free(a.g), free(a.m), free(a.v);
    fixture_clear(&f);
}

static void update_is_muon(void **state) {
    (void)state;
    pa_model m = fixture_model();
    run(&m, PA_PRECISION_FP32, 0x1p-24);
    m.dim = 24; // square matrices, and near that
    m.depth = 1;
    run(&m, PA_PRECISION_FP32, 0x1p-24);
}

// ---- PyTorch

static const pa_tensor *need(const pa_st *st, const char *name) {
    const pa_tensor *t = pa_st_find(st, name);
    if (!t) fail_msg("muon.safetensors has no %s", name);
    return t;
}

static void write_all(const pa_backend *be, pa_context *c, const fixture *f, const pa_st *st, pa_kind kind,
                      const char *prefix) {
    pa_err err;
    for (int t = 0; t < f->params.count; t++) {
        char name[128];
        snprintf(name, sizeof name, "%s%s", prefix, f->params.row[t].name);
        const pa_tensor *x = need(st, name);
        assert_int_equal(x->bytes, f->params.row[t].size * sizeof(float));
        fixture_ok(be->write(c, kind, t, x->data, &err), &err);
    }
}

// The rule of test_golden.c: each tensor at most `times` as far from PyTorch's float64 as PyTorch's own `error`, which
// counts as at least its typical one, the root mean square over the tensors of its share of their norms.
static void compare(const fixture *f, const pa_st *st, int step, const char *error, double times, const double *found) {
    const pa_params *p = &f->params;
    double squares = 0;
    int wrong = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int t = 0; t < p->count; t++) {
            const pa_param *row = &p->row[t];
            char name[128];
            snprintf(name, sizeof name, "%d/%s", step, row->name);
            double *truth = fixture_widen(need(st, name)->data, row->size);
            double norm = fixture_norm(truth, row->size),
                   distance = fixture_distance(found + row->offset, truth, row->size);
            snprintf(name, sizeof name, "%d/%s%s", step, row->name, error);
            double theirs = *(const double *)need(st, name)->data;
            double allowed = times * fmax(theirs, norm * fmax(sqrt(squares / p->count), 0x1p-24));
            if (!pass) squares += theirs / norm * (theirs / norm);
            if (pass && !(distance <= allowed)) {
                print_error("step %d, %s: distance %.3g of norm %.3g, allowed %.3g\n", step, row->name, distance, norm,
                            allowed);
                wrong++;
            }
            free(truth);
        }
    assert_int_equal(wrong, 0);
}

static void three_steps(const pa_st *st, pa_precision precision, const char *error, double times) {
    const pa_backend *be = fixture_backend();
    const int64_t *s = need(st, "shape")->data;
    pa_model m = fixture_model();
    fixture f;
    pa_err err;
    m.context = (int)s[0], m.prefix = (int)s[1], m.dim = (int)s[2], m.heads = (int)s[3], m.dim_head = (int)s[4],
    m.depth = (int)s[5];
    m.perceive_depth = (int)s[6], m.ff_mult = (int)s[7], m.vocab = (int)s[8];
    fixture_init(&f, &m, 0);
    pa_context *c = open_muon(be, &f, precision);
    pa_update u = SETTINGS;
    u.clip = 0;
    write_all(be, c, &f, st, PA_PARAM, "param/");
    for (u.step = 1; u.step <= 3; u.step++) {
        char prefix[32];
        double norm;
        snprintf(prefix, sizeof prefix, "grad/%d/", (int)u.step);
        write_all(be, c, &f, st, PA_GRAD, prefix);
        fixture_ok(be->update(c, &u, &norm, NULL, &err), &err);
        double *found = fixture_read(be, c, &f.params, PA_PARAM);
        compare(&f, st, (int)u.step, error, times, found);
        free(found);
    }
    be->close(c);
    fixture_clear(&f);
}

static void it_steps_as_pytorch(void **state) {
    pa_err err;
    pa_st *st = NULL;
    (void)state;
    fixture_ok(pa_st_open(&st, "tests/golden/muon.safetensors", &err), &err);
    three_steps(st, PA_PRECISION_FP32, "/error", 4);
    three_steps(st, fixture_16_bits(fixture_backend()), "/error_bf16", 2);
    pa_st_close(st);
}

static void matrices_have_no_second_moment(void **state) {
    (void)state;
    const pa_backend *be = fixture_backend();
    fixture f;
    pa_err err;
    make(&f);
    pa_context *c = open_muon(be, &f, PA_PRECISION_FP32);
    for (int t = 0; t < f.params.count; t++) {
        const pa_param *row = &f.params.row[t];
        float *x = calloc(row->size, sizeof *x);
        assert_non_null(x);
        assert_int_equal(be->read(c, PA_MOMENT1, t, x, &err), PA_OK);
        for (size_t i = 0; i < row->size; i++) x[i] = (float)(t + 1);
        pa_status expected = row->group == PA_GROUP_MATRIX ? PA_USAGE : PA_OK;
        assert_int_equal(be->write(c, PA_MOMENT2, t, x, &err), expected);
        free(x);
    }
    for (int t = 0; t < f.params.count; t++) { // none lies over another
        const pa_param *row = &f.params.row[t];
        float *x = calloc(row->size, sizeof *x);
        if (row->group != PA_GROUP_MATRIX) fixture_ok(be->read(c, PA_MOMENT2, t, x, &err), &err);
        for (size_t i = 0; i < row->size && row->group != PA_GROUP_MATRIX; i++) assert_true(x[i] == (float)(t + 1));
        free(x);
    }
    be->close(c);
    fixture_clear(&f);
}

static void a_gradient_that_is_not_finite_does_no_harm(void **state) {
    (void)state;
    const pa_backend *be = fixture_backend();
    fixture f;
    pa_err err;
    double norm, *g;
    make(&f);
    g = fixture_doubles(f.params.floats);
    pa_context *c = open_muon(be, &f, PA_PRECISION_FP32);
    pa_update u = SETTINGS;
    u.step = 1;
    draw_gradient(be, c, &f, g, 1);
    fixture_ok(be->update(c, &u, &norm, NULL, &err), &err);
    for (int i = 0; i < 2; i++) {
        const float bad[16] = {[5] = i ? INFINITY : NAN};
        const pa_kind kinds[] = {PA_PARAM, PA_MOMENT1};
        double *before[2];
        draw_gradient(be, c, &f, g, 2);
        fixture_ok(be->write(c, PA_GRAD, pa_params_find(&f.params, "layers.1.0.norm.bias"), bad, &err), &err);
        for (int k = 0; k < 2; k++) before[k] = fixture_read(be, c, &f.params, kinds[k]);
        fixture_ok(be->update(c, &u, &norm, NULL, &err), &err);
        assert_false(isfinite(norm));
        for (int k = 0; k < 2; k++) {
            double *after = fixture_read(be, c, &f.params, kinds[k]);
            assert_memory_equal(before[k], after, f.params.floats * sizeof *after);
            free(before[k]), free(after);
        }
        double *left = fixture_read(be, c, &f.params, PA_GRAD);
        for (size_t j = 0; j < f.params.floats; j++) assert_true(left[j] == 0);
        free(left);
    }
    be->close(c);
    free(g);
    fixture_clear(&f);
}

// In 16 bits the products use copies of the parameters: an update must reach them.
static void an_update_reaches_the_next_forward_pass(void **state) {
    (void)state;
    const pa_backend *be = fixture_backend();
    fixture f;
    pa_err err;
    double norm, sum, updated, fresh;
    make(&f);
    pa_update u = SETTINGS;
    u.step = 1;
    pa_context *c = open_muon(be, &f, fixture_16_bits(be));
    fixture_ok(be->loss_grad(c, &f.batch, fixture_scale(be->precision(c)), &sum, &err), &err);
    fixture_ok(be->update(c, &u, &norm, NULL, &err), &err);
    fixture_ok(be->loss(c, &f.batch, &updated, NULL, &err), &err);
    double *w = fixture_read(be, c, &f.params, PA_PARAM);
    memcpy(f.w, w, f.params.floats * sizeof *w);
    pa_context *other = open_muon(be, &f, fixture_16_bits(be));
    fixture_ok(be->loss(other, &f.batch, &fresh, NULL, &err), &err);
    assert_true(updated == fresh && updated < sum);
    be->close(c), be->close(other);
    free(w);
    fixture_clear(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(update_is_muon),
        cmocka_unit_test(it_steps_as_pytorch),
        cmocka_unit_test(matrices_have_no_second_moment),
        cmocka_unit_test(a_gradient_that_is_not_finite_does_no_harm),
        cmocka_unit_test(an_update_reaches_the_next_forward_pass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
