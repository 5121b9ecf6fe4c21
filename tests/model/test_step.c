// test_step.c: what a backend's training step promises beyond right gradients (test_gradcheck.c): gradients add up,
// recomputation and micro-batches change nothing, tensors can be read and written, and a step takes no memory. The
// optimiser is in test_optimizer.c.
#include "tests/support/allocations.h"
#include "tests/support/fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static double add_gradient(const pa_backend *be, pa_context *c, const pa_batch *b, float scale) {
    pa_err err;
    double sum;
    fixture_ok(be->loss_grad(c, b, scale, &sum, &err), &err);
    return sum;
}

static double *gradient(const pa_backend *be, const fixture *f, pa_precision precision, bool recompute, float scale,
                        double *sum) {
    pa_context *c = fixture_training(be, f, precision, recompute);
    *sum = add_gradient(be, c, &f->batch, scale);
    double *g = fixture_read(be, c, &f->params, PA_GRAD);
    be->close(c);
    return g;
}

static void recomputation_changes_no_bit(void **state) {
    (void)state;
    const pa_backend *be = fixture_backend();
    for (pa_precision p = PA_PRECISION_FP32; p <= PA_PRECISION_FP16; p++) {
        if (!fixture_has(be, p)) continue;
        fixture f;
        fixture_step(&f, 0.2);
        double sum[2];
        double *kept = gradient(be, &f, p, false, fixture_scale(p), &sum[0]);
        double *again = gradient(be, &f, p, true, fixture_scale(p), &sum[1]),
               norm = fixture_norm(kept, f.params.floats);
        assert_true(sum[0] == sum[1] && isfinite(norm) && norm > 0);
        assert_memory_equal(kept, again, f.params.floats * sizeof *kept);
        free(kept);
        free(again);
        fixture_clear(&f);
    }
}

static void a_second_run_gives_the_same_bits(void **state) {
    (void)state;
    fixture f;
    fixture_step(&f, 0.2);
    double sum[2];
    double *first = gradient(fixture_backend(), &f, PA_PRECISION_FP32, false, 1, &sum[0]);
    double *second = gradient(fixture_backend(), &f, PA_PRECISION_FP32, false, 1, &sum[1]);
    assert_true(sum[0] == sum[1]);
    assert_memory_equal(first, second, f.params.floats * sizeof *first);
    free(first);
    free(second);
    fixture_clear(&f);
}

// A power of two shifts exponents only.
static void scale_multiplies_the_gradient(void **state) {
    (void)state;
    fixture f;
    fixture_step(&f, 0);
    double sum[2];
    double *whole = gradient(fixture_backend(), &f, PA_PRECISION_FP32, false, 1, &sum[0]);
    double *quarter = gradient(fixture_backend(), &f, PA_PRECISION_FP32, false, 0.25f, &sum[1]);
    assert_true(sum[0] == sum[1]);
    for (size_t i = 0; i < f.params.floats; i++) assert_true(quarter[i] == 0.25 * whole[i]);
    free(whole);
    free(quarter);
    fixture_clear(&f);
}

static pa_batch one_of(const fixture *f, int b) {
    pa_batch one = f->batch;
    one.batch = 1;
    one.input += b * one.length;
    one.target += b * one.latents;
    one.keep = one.keep ? one.keep + b * one.kept : NULL;
    one.window = one.window ? one.window + b : NULL;
    return one;
}

// Two calls of one sequence each add up to one call of two, up to the order of sums: over the B M rows of a weight's
// gradient, each addition rounds by 2^-24, as often up as down: sqrt(B M) 2^-24 of the gradient's norm; twice that,
// there being two results.
static void micro_batches_add_up(void **state) {
    (void)state;
    const pa_backend *be = fixture_backend();
    fixture f;
    fixture_step(&f, 0.2);
    double whole_sum, parts_sum = 0;
    double *whole = gradient(be, &f, PA_PRECISION_FP32, false, 1, &whole_sum);
    pa_context *c = fixture_training(be, &f, PA_PRECISION_FP32, false);
    for (int b = 1; b >= 0; b--) {
        pa_batch one = one_of(&f, b);
        parts_sum += add_gradient(be, c, &one, 1);
    }
    double *parts = fixture_read(be, c, &f.params, PA_GRAD);
    double rounding = 2 * sqrt(2 * 24) * 0x1p-24;
    assert_true(fabs(parts_sum - whole_sum) <= rounding * whole_sum);
    for (int t = 0; t < f.params.count; t++) {
        const pa_param *row = &f.params.row[t];
        double off = fixture_distance(whole + row->offset, parts + row->offset, row->size);
        if (!(off <= rounding * fixture_norm(whole + row->offset, row->size)))
            fail_msg("%s: off by %g", row->name, off);
    }
    be->close(c);
    free(whole);
    free(parts);
    fixture_clear(&f);
}

// A step's first call overwrites what the last step left of products' gradients, and later ones add: the same bits as
// if every call added to what was cleared before (as a tensor that is written clears all).
static void the_first_gradient_of_a_step_overwrites(void **state) {
    (void)state;
    const pa_backend *be = fixture_backend();
    const pa_update u = {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .step = 1};
    for (pa_precision p = PA_PRECISION_FP32; p <= PA_PRECISION_FP16; p++) {
        if (!fixture_has(be, p)) continue;
        fixture f;
        pa_err err;
        fixture_step(&f, 0.2);
        const float zeros[16] = {0}, scale = fixture_scale(p);
        const int bias = pa_params_find(&f.params, "layers.1.0.norm.bias");
        pa_context *c[2] = {fixture_training(be, &f, p, false), fixture_training(be, &f, p, false)};
        for (int step = 0; step < 2; step++) {
            fixture_ok(be->write(c[1], PA_GRAD, bias, zeros, &err), &err);
            for (int call = 0; call < 2; call++) {
                double *g[2];
                for (int i = 0; i < 2; i++) {
                    add_gradient(be, c[i], &f.batch, scale);
                    g[i] = fixture_read(be, c[i], &f.params, PA_GRAD);
                }
                for (size_t i = 0; i < f.params.floats; i++) assert_true(g[0][i] == g[1][i]);
                free(g[0]);
                free(g[1]);
            }
            double norm;
            for (int i = 0; i < 2; i++) fixture_ok(be->update(c[i], &u, &norm, NULL, &err), &err);
            assert_true(isfinite(norm) && norm > 0);
        }
        be->close(c[0]);
        be->close(c[1]);
        fixture_clear(&f);
    }
}

static void loss_leaves_gradients_alone(void **state) {
    (void)state;
    const pa_backend *be = fixture_backend();
    fixture f;
    fixture_step(&f, 0);
    pa_err err;
    pa_context *c = fixture_training(be, &f, PA_PRECISION_FP32, false);
    double sum = add_gradient(be, c, &f.batch, 1), evaluated, unscored;
    double *before = fixture_read(be, c, &f.params, PA_GRAD);
    fixture_ok(be->loss(c, &f.batch, &evaluated, NULL, &err), &err);
    pa_batch none = f.batch;
    none.target = NULL;
    fixture_ok(be->loss(c, &none, &unscored, NULL, &err), &err);
    double *after = fixture_read(be, c, &f.params, PA_GRAD);
    assert_true(evaluated == sum && unscored == 0);
    assert_memory_equal(before, after, f.params.floats * sizeof *before);
    be->close(c);
    free(before);
    free(after);
    fixture_clear(&f);
}

static void tensors_come_back_as_written(void **state) {
    (void)state;
    const pa_backend *be = fixture_backend();
    fixture f;
    fixture_step(&f, 0);
    pa_err err;
    float x[1] = {0};
    pa_context *c = fixture_training(be, &f, fixture_16_bits(be), false);
    for (int kind = PA_PARAM; kind <= PA_MOMENT2; kind++) {
        for (int t = 0; t < f.params.count; t++) {
            size_t size = f.params.row[t].size;
            float *in = calloc(size, sizeof *in), *out = calloc(size, sizeof *out);
            for (size_t i = 0; i < size; i++) in[i] = (float)(kind + 1) + (float)t / 64 + (float)i * 0x1p-20f;
            fixture_ok(be->write(c, (pa_kind)kind, t, in, &err), &err);
            fixture_ok(be->read(c, (pa_kind)kind, t, out, &err), &err);
            assert_memory_equal(in, out, size * sizeof *in);
            free(in);
            free(out);
        }
    }
    assert_int_equal(be->read(c, PA_PARAM, -1, x, &err), PA_USAGE);
    assert_int_equal(be->write(c, PA_PARAM, f.params.count, x, &err), PA_USAGE);
    be->close(c);
    fixture_clear(&f);
}

static size_t allocations_of_step(const pa_backend *be, pa_context *c, const fixture *f, int step) {
    pa_err err;
    double sum, norm;
    size_t before = allocations_so_far();
    pa_status s = be->loss_grad(c, &f->batch, 1, &sum, &err);
    pa_update u = {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .step = step};
    if (!s) s = be->update(c, &u, &norm, NULL, &err);
    size_t after = allocations_so_far();
    fixture_ok(s, &err);
    return after - before;
}

static size_t allocations_of_token(const pa_backend *be, pa_context *c, const uint16_t *token, float *logits) {
    pa_err err;
    size_t before = allocations_so_far();
    pa_status s = be->decode(c, token, logits, &err);
    size_t after = allocations_so_far();
    fixture_ok(s, &err);
    return after - before;
}

static void only_the_first_step_takes_memory(void **state) {
    (void)state;
    const pa_backend *be = fixture_backend();
    if (!allocations_counted() || be != pa_backend_cpu()) skip(); // a GPU's are counted in test_cuda_backend.c
    for (int precision = PA_PRECISION_FP32; precision <= PA_PRECISION_BF16; precision++)
        for (int recompute = 0; recompute < 2; recompute++) {
            fixture f;
            fixture_step(&f, 0.2);
            pa_err err;
            float logits[40];
            pa_context *c = fixture_training(be, &f, (pa_precision)precision, recompute);
            allocations_of_step(be, c, &f, 1);
            assert_int_equal(allocations_of_step(be, c, &f, 2), 0);
            assert_int_equal(allocations_of_step(be, c, &f, 3), 0);
            fixture_ok(be->prefill(c, 12, 3, f.input, logits, &err), &err);
            allocations_of_token(be, c, f.input, logits);
            assert_int_equal(allocations_of_token(be, c, f.input, logits), 0);
            be->close(c);
            fixture_clear(&f);
        }
}

// The plan of an open, in bytes; *c is NULL where only that was asked for.
static double planned(const pa_backend *be, const fixture *f, bool only, pa_context **c) {
    char *text = NULL, *all;
    size_t length = 0;
    FILE *plan = open_memstream(&text, &length);
    pa_comm single = pa_comm_single();
    pa_open o = {
        .params = &f->params, .precision = PA_PRECISION_FP32, .max_batch = 2, .training = true, .comm = &single};
    pa_err err;
    o.plan = plan;
    o.plan_only = only;
    fixture_ok(be->open(c, &o, &err), &err);
    fclose(plan);
    assert_non_null(all = strstr(text, "\n  all "));
    double megabytes = strtod(all + strlen("\n  all "), NULL);
    free(text);
    return 1e6 * megabytes;
}

static void the_plan_is_what_is_taken(void **state) {
    (void)state;
    const pa_backend *be = fixture_backend();
    fixture f;
    fixture_step(&f, 0);
    pa_context *c = (pa_context *)&f;
    double plan = planned(be, &f, true, &c);
    assert_null(c);
    assert_true(planned(be, &f, false, &c) == plan);
    assert_true(fabs((double)be->memory(c) - plan) <= 0.05e6);             // as it is printed
    assert_true(be->memory(c) >= 4 * sizeof(float) * f.params.parameters); // parameters, gradients, two moments
    assert_int_equal(be->precision(c), PA_PRECISION_FP32);
    be->close(c);
    be->close(NULL);
    fixture_clear(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recomputation_changes_no_bit),
        cmocka_unit_test(a_second_run_gives_the_same_bits),
        cmocka_unit_test(scale_multiplies_the_gradient),
        cmocka_unit_test(micro_batches_add_up),
        cmocka_unit_test(the_first_gradient_of_a_step_overwrites),
        cmocka_unit_test(loss_leaves_gradients_alone),
        cmocka_unit_test(tensors_come_back_as_written),
        cmocka_unit_test(only_the_first_step_takes_memory),
        cmocka_unit_test(the_plan_is_what_is_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
