// test_optimizer.c: a backend's update: Adam and AdamW against float64, clipping, gradients that are not finite.
#include "tests/support/fixture.h"

#include "host/base/philox.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void make(fixture *f) {
    pa_model m = fixture_model();
    fixture_init(f, &m, 31);
    fixture_batch(f, 2, 24, 15, 4, 37);
}

static pa_context *open_training(const pa_backend *be, const fixture *f, pa_precision precision) {
    return fixture_open(be, f,
                        (pa_open){.precision = precision, .max_batch = 2, .training = true, .deterministic = true});
}

static double add_gradient(const pa_backend *be, pa_context *c, const pa_batch *b) {
    pa_err err;
    double sum;
    fixture_ok(be->loss_grad(c, b, fixture_scale(be->precision(c)), &sum, &err), &err);
    return sum;
}

typedef struct {
    double *p, *g, *m, *v;
} adam_state;

// Adam as in its paper, L2 or decoupled decay as in PyTorch, in float64; returns the norm before clipping.
static double adam(const pa_params *params, adam_state *a, const pa_update *u) {
    double norm = fixture_norm(a->g, params->floats), scale = u->clip > 0 && norm > u->clip ? u->clip / norm : 1;
    for (int t = 0; t < params->count; t++) {
        const pa_param *row = &params->row[t];
        double decay = row->decays ? u->weight_decay : 0;
        for (size_t i = row->offset; i < row->offset + row->size; i++) {
            double g = a->g[i] * scale + (u->decoupled ? 0 : decay * a->p[i]);
            if (u->decoupled) a->p[i] -= u->lr * decay * a->p[i];
            a->m[i] = u->beta1 * a->m[i] + (1 - u->beta1) * g;
            a->v[i] = u->beta2 * a->v[i] + (1 - u->beta2) * g * g;
            double m = a->m[i] / (1 - pow(u->beta1, (double)u->step)),
                   v = a->v[i] / (1 - pow(u->beta2, (double)u->step));
            a->p[i] -= u->lr * m / (sqrt(v) + u->eps);
        }
    }
    return norm;
}

// Draws a gradient of every size from 1e-6 to 1, with zeros, and writes it to both.
static void draw_gradient(const pa_backend *be, pa_context *c, const fixture *f, adam_state *a, uint64_t step) {
    pa_err err;
    for (int t = 0; t < f->params.count; t++) {
        const pa_param *row = &f->params.row[t];
        float *g = calloc(row->size, sizeof *g);
        for (size_t i = 0; i < row->size; i++) {
            double u = 2 * pa_uniform(pa_random(step, PA_RANDOM_EVAL, (uint64_t)t, i)) - 1;
            g[i] = i % 7 == 3 ? 0 : (float)(u * pow(10, -(double)(i % 6)));
            a->g[row->offset + i] = (double)g[i];
        }
        fixture_ok(be->write(c, PA_GRAD, t, g, &err), &err);
        free(g);
    }
}

// Float32 roundings a step: of the parameter two, when it decays and when it changes; of its change (lr m / (sqrt(v) +
// eps), here below 4 lr in size) and of the moments fewer than 15. Moments are as exact as the largest gradients that
// went into them, of size 1 here.
static void check_adam(const fixture *f, const adam_state *a, const adam_state *ours, const pa_update *u) {
    double steps = (double)u->step;
    for (int t = 0; t < f->params.count; t++)
        for (size_t i = f->params.row[t].offset, end = i + f->params.row[t].size; i < end; i++) {
            double rounding = steps * 0x1p-24;
            assert_true(fabs(ours->p[i] - a->p[i]) <= rounding * (2 * fabs(a->p[i]) + 15 * 4 * u->lr));
            assert_true(fabs(ours->m[i] - a->m[i]) <= 16 * rounding);
            assert_true(fabs(ours->v[i] - a->v[i]) <= 16 * rounding);
            assert_true(ours->g[i] == 0);
        }
}

static void run_adam(pa_update u, double norm_share) {
    const pa_backend *be = fixture_backend();
    fixture f;
    make(&f);
    pa_err err;
    size_t n = f.params.floats;
    pa_context *c = open_training(be, &f, PA_PRECISION_FP32);
    adam_state a = {fixture_doubles(n), fixture_doubles(n), fixture_doubles(n), fixture_doubles(n)};
    memcpy(a.p, f.w, n * sizeof *a.p);
    for (u.step = 1; u.step <= 5; u.step++) {
        double norm, expected;
        draw_gradient(be, c, &f, &a, (uint64_t)u.step);
        u.clip = norm_share * fixture_norm(a.g, n);
        expected = adam(&f.params, &a, &u);
        fixture_ok(be->update(c, &u, &norm, NULL, &err), &err);
        assert_true(fabs(norm - expected) <= 1e-6 * expected);
        adam_state ours = {fixture_read(be, c, &f.params, PA_PARAM), fixture_read(be, c, &f.params, PA_GRAD),
                           fixture_read(be, c, &f.params, PA_MOMENT1), fixture_read(be, c, &f.params, PA_MOMENT2)};
        check_adam(&f, &a, &ours, &u);
        free(ours.p);
        free(ours.g);
        free(ours.m);
        free(ours.v);
    }
    be->close(c);
    free(a.p);
    free(a.g);
    free(a.m);
    free(a.v);
    fixture_clear(&f);
}

static void update_is_adam(void **state) {
    (void)state;
    const pa_update plain = {.lr = 3e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8},
                    seed = {.lr = 2e-4, .beta1 = 0.1, .beta2 = 0.999, .eps = 1e-8};
    pa_update l2 = plain, decoupled = plain;
    l2.weight_decay = 0.1;
    decoupled.weight_decay = 0.1;
    decoupled.decoupled = true;
    run_adam(plain, 0);
    run_adam(seed, 0);
    run_adam(l2, 0.5);        // clipped to half
    run_adam(decoupled, 2);   // below the limit: not clipped
    run_adam(decoupled, 0.1); // clipped to a tenth
}

static void a_gradient_that_is_not_finite_does_no_harm(void **state) {
    (void)state;
    const pa_backend *be = fixture_backend();
    fixture f;
    make(&f);
    const pa_update u = {
        .lr = 1e-2, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.1, .clip = 1, .step = 1};
    const float bad[] = {NAN, INFINITY, -INFINITY};
    pa_err err;
    double norm;
    pa_context *c = open_training(be, &f, PA_PRECISION_FP32);
    add_gradient(be, c, &f.batch);
    fixture_ok(be->update(c, &u, &norm, NULL, &err), &err);
    for (int i = 0; i < 3; i++) {
        double *before[3], *after[3];
        const pa_kind kinds[] = {PA_PARAM, PA_MOMENT1, PA_MOMENT2};
        float row[16] = {[7] = bad[i]};
        add_gradient(be, c, &f.batch);
        fixture_ok(be->write(c, PA_GRAD, pa_params_find(&f.params, "layers.1.0.norm.bias"), row, &err), &err);
        for (int k = 0; k < 3; k++) before[k] = fixture_read(be, c, &f.params, kinds[k]);
        fixture_ok(be->update(c, &u, &norm, NULL, &err), &err);
        assert_false(isfinite(norm));
        for (int k = 0; k < 3; k++) {
            after[k] = fixture_read(be, c, &f.params, kinds[k]);
            assert_memory_equal(before[k], after[k], f.params.floats * sizeof **before);
            free(before[k]);
            free(after[k]);
        }
        double *g = fixture_read(be, c, &f.params, PA_GRAD);
        for (size_t j = 0; j < f.params.floats; j++) assert_true(g[j] == 0);
        free(g);
    }
    be->close(c);
    fixture_clear(&f);
}

// In 16 bits the products use copies of the parameters: an update must reach them.
static void an_update_reaches_the_next_forward_pass(void **state) {
    (void)state;
    const pa_backend *be = fixture_backend();
    fixture f;
    make(&f);
    const pa_update u = {.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .step = 1};
    pa_err err;
    double norm, first, updated, fresh;
    pa_context *c = open_training(be, &f, fixture_16_bits(be)), *other;
    first = add_gradient(be, c, &f.batch);
    fixture_ok(be->update(c, &u, &norm, NULL, &err), &err);
    fixture_ok(be->loss(c, &f.batch, &updated, NULL, &err), &err);
    double *w = fixture_read(be, c, &f.params, PA_PARAM);
    memcpy(f.w, w, f.params.floats * sizeof *w);
    other = open_training(be, &f, fixture_16_bits(be));
    fixture_ok(be->loss(other, &f.batch, &fresh, NULL, &err), &err);
    assert_true(updated == fresh && updated < first);
    be->close(c);
    be->close(other);
    free(w);
    fixture_clear(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(update_is_adam),
        cmocka_unit_test(a_gradient_that_is_not_finite_does_no_harm),
        cmocka_unit_test(an_update_reaches_the_next_forward_pass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
