// test_counts.c: what a step of v1 to v5 costs in numbers that no machine changes: flop, bytes by arena, matrix
// products' primitives. They are held against bench/counts.txt, so that whoever changes one sees it and says why. The
// memory is that of plain C, which widens bf16, and two threads.
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bench/cases.h"
#include "cpu/device.h"
#include "host/base/file.h"
#include "host/files/config.h"
#include "host/files/config_read.h"
#include "host/model/context.h"

static pa_err err;

static void ok(pa_status s) {
    if (s) fail_msg("%s", err.text);
}

// The table's shapes are the configuration's.
static pa_model configured(const case_model *v) {
    char path[512];
    pa_config c = pa_config_default();
    snprintf(path, sizeof path, PA_SOURCE_DIR "/configs/%s.ini", v->name);
    ok(pa_config_read(&c, path, &err));
    pa_model m = case_settings(v);
    c.model.vocab = m.vocab; // the data's
    ok(pa_config_same_model(&c.model, &m, &err));
    assert_true(c.model.prefix_dropout == m.prefix_dropout);
    return c.model;
}

static void plan(FILE *out, const pa_model *m, pa_open o) {
    pa_params p;
    pa_context *c;
    pa_comm single = pa_comm_single();
    ok(pa_params_init(&p, m, &err));
    o.params = &p;
    o.comm = &single;
    o.plan = out;
    o.plan_only = true;
    ok(pa_backend_cpu()->open(&c, &o, &err));
    pa_params_clear(&p);
}

// Of one training step, and none in the next. How many there are follows from which sizes are equal, so a model an
// eighth as wide and a 32nd as long has as many.
static int primitives(const case_model *v, pa_precision precision) {
    case_model small = *v;
    small.context /= 32, small.prefix /= 32, small.dim /= 8, small.dim_head /= 8;
    pa_model m = case_settings(&small);
    pa_params p;
    pa_context *c;
    pa_comm single = pa_comm_single();
    const pa_backend *be = pa_backend_cpu();
    ok(pa_params_init(&p, &m, &err));
    ok(be->open(&c, &(pa_open){.params = &p, .precision = precision, .max_batch = 1, .training = true, .comm = &single},
                &err));
    int N = m.context - m.prefix, K = pa_kept(m.prefix, m.prefix_dropout), first = 0;
    uint16_t *input = calloc((size_t)m.context, 2), *target = calloc((size_t)N, 2);
    int32_t *keep = calloc((size_t)K, 4);
    for (int i = 0; i < K; i++) keep[i] = i;
    pa_batch b = {
        .batch = 1, .length = m.context, .latents = N, .input = input, .target = target, .keep = keep, .kept = K};
    for (int step = 1; step <= 2; step++) {
        double sum, norm;
        ok(be->loss_grad(c, &b, 1, &sum, &err));
        ok(be->update(c, &(pa_update){.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .step = step}, &norm, NULL,
                      &err));
        if (step == 1) first = cpu_matmul_created(c->device->mm);
    }
    assert_int_equal(cpu_matmul_created(c->device->mm), first);
    be->close(c);
    pa_params_clear(&p);
    free(input);
    free(target);
    free(keep);
    return first;
}

static void counts_are_as_written_down(void **state) {
    (void)state;
    char *text = NULL, *expected = NULL;
    size_t length, expected_length;
    FILE *out = open_memstream(&text, &length);
    for (int i = 0; i < 5; i++) {
        const case_model *v = &case_models[i];
        pa_model m = configured(v);
        pa_flops f = pa_count_flops(&m, 1, pa_kept(m.prefix, m.prefix_dropout), m.context - m.prefix);
        fprintf(out, "%s, one window\n", v->name);
        fprintf(out, "flop: linear %.0f forward %.0f backward, attention %.0f forward %.0f backward\n",
                f.linear_forward, f.linear_backward, f.attention_forward, f.attention_backward);
        for (int precision = PA_PRECISION_FP32; precision <= PA_PRECISION_BF16; precision++) {
            fprintf(out, "training, %d primitives; ", primitives(v, (pa_precision)precision));
            plan(out, &m, (pa_open){.precision = (pa_precision)precision, .max_batch = 1, .training = true});
            fprintf(out, "generation; ");
            plan(out, &m, (pa_open){.precision = (pa_precision)precision, .streams = 1});
        }
    }
    fclose(out);
    ok(pa_read_text(PA_SOURCE_DIR "/bench/counts.txt", &expected, &expected_length, &err));
    if (strcmp(text, expected)) {
        fputs(text, stderr); // longer than cmocka prints
        fail_msg("bench/counts.txt differs from these counts");
    }
    free(text);
    free(expected);
}

int main(void) {
    setenv("PATRAIN_ISA", "generic", 1);
    omp_set_num_threads(2);
    const struct CMUnitTest tests[] = {cmocka_unit_test(counts_are_as_written_down)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
