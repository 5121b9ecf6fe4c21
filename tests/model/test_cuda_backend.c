// test_cuda_backend.c: what the CUDA backend promises beyond what every backend does (test_model.c, test_gradcheck.c,
// test_step.c): a step that is two graphs and one wait, inputs copied ahead, fp16 and its loss scaling, one size of
// plan. In the emulator, which counts.
#include "host/files/config_read.h"
#include "host/model/context.h"
#include "host/train/saver.h"
#include "tests/emulator/counts.h"
#include "tests/support/fixture.h"

#include "host/train/checkpoint.h"
#include "tests/support/scratch.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static pa_update update_of(int step) {
    return (pa_update){.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .clip = 1, .step = step};
}

// loss_grad that is not waited for, and update; *norm of it, and the loss.
static double step(pa_context *c, const pa_batch *b, float scale, int number, double *norm) {
    pa_err err;
    double nats;
    pa_update u = update_of(number);
    fixture_ok(pa_backend_cuda()->loss_grad(c, b, scale, NULL, &err), &err);
    fixture_ok(pa_backend_cuda()->update(c, &u, norm, &nats, &err), &err);
    return nats;
}

static emulator_counts since(emulator_counts then) {
    emulator_counts now = emulator_count();
    return (emulator_counts){now.allocations - then.allocations, now.waits - then.waits, now.launches - then.launches,
                             now.graphs - then.graphs};
}

// From the third step of a shape on (the first makes plans of products, the second captures), whatever else was done
// between.
static void a_step_is_two_graphs_and_one_wait(void **state) {
    (void)state;
    const pa_backend *be = pa_backend_cuda();
    for (int precision = PA_PRECISION_FP32; precision <= PA_PRECISION_FP16; precision++) {
        fixture f;
        pa_err err;
        double norm, sum;
        fixture_step(&f, 0.2);
        pa_open o = {.precision = (pa_precision)precision,
                     .max_batch = 2,
                     .training = true}; // times products, unlike fixture_training
        pa_context *c = fixture_open(be, &f, o);
        for (int i = 1; i <= 2; i++) step(c, &f.batch, 0x1p-8f, i, &norm);
        fixture_ok(be->loss(c, &f.batch, &sum, NULL, &err), &err);
        for (int i = 3; i <= 5; i++) {
            emulator_counts start = emulator_count();
            fixture_ok(be->loss_grad(c, &f.batch, 0x1p-8f, NULL, &err), &err);
            emulator_counts gradient = since(start);
            assert_int_equal(gradient.allocations, 0);
            assert_int_equal(gradient.waits, 0);
            assert_int_equal(gradient.graphs, 1);
            assert_int_equal(gradient.launches, 6); // the batch: copied, and copied on; scalars; events
            start = emulator_count();
            pa_update u = update_of(i);
            fixture_ok(be->update(c, &u, &norm, &sum, &err), &err);
            emulator_counts update = since(start);
            assert_int_equal(update.allocations, 0);
            assert_int_equal(update.waits, 1);
            assert_int_equal(update.graphs, 1);
            assert_int_equal(update.launches, 0);
        }
        be->close(c);
        fixture_clear(&f);
    }
}

// What is timed is waited for: with `deterministic` nothing is, so that each start chooses the same products.
static void a_deterministic_run_times_nothing(void **state) {
    (void)state;
    const pa_backend *be = pa_backend_cuda();
    fixture f;
    pa_err err;
    fixture_step(&f, 0.2);
    for (int deterministic = 0; deterministic < 2; deterministic++) {
        pa_open o = {.precision = PA_PRECISION_BF16, .max_batch = 2, .training = true, .deterministic = deterministic};
        pa_context *c = fixture_open(be, &f, o);
        emulator_counts start = emulator_count();
        fixture_ok(be->loss_grad(c, &f.batch, 1, NULL, &err), &err);
        assert_int_equal(since(start).waits == 0, deterministic);
        be->close(c);
    }
    fixture_clear(&f);
}

// From the second token on (the first loads kernels), in a second window too.
static void a_token_is_one_graph_and_one_wait(void **state) {
    (void)state;
    const pa_backend *be = pa_backend_cuda();
    fixture f;
    pa_err err;
    float logits[40];
    fixture_step(&f, 0.2);
    pa_context *c = fixture_training(pa_backend_cuda(), &f, PA_PRECISION_BF16, false);
    for (int window = 0; window < 2; window++) {
        fixture_ok(be->prefill(c, 12, 3, f.input, logits, &err), &err);
        for (int i = 0; i < 4; i++) {
            emulator_counts start = emulator_count();
            fixture_ok(be->decode(c, f.input + i, logits, &err), &err);
            emulator_counts token = since(start);
            assert_int_equal(token.allocations, 0);
            assert_int_equal(token.waits, 1);
            if (!window && !i) continue;
            assert_int_equal(token.graphs, 1);
            assert_int_equal(token.launches, 0);
        }
    }
    be->close(c);
    fixture_clear(&f);
}

// v3's blocks: five kernels each and one more for the cross-attention, embedding, logits, and two copies; as many for
// eight streams, which read weights once.
static void a_token_of_v3_is_50_launches(void **state) {
    (void)state;
    const pa_backend *be = pa_backend_cuda();
    pa_model m = fixture_model();
    m.depth = 8; // and one block of cross-attention
    for (int i = 0; i < 8; i++) {
        const int streams = i % 2 ? 8 : 1;
        fixture f;
        pa_err err;
        float logits[8 * 40];
        m.qk_norm = i / 4;
        fixture_init(&f, &m, 31);
        fixture_batch(&f, 8, 24, 15, -1, 37);
        pa_open o = {.precision = PA_PRECISION_FP16, .streams = streams, .int8 = i / 2 % 2};
        pa_context *c = fixture_open(be, &f, o);
        fixture_ok(be->prefill(c, 12, 3, f.input, logits, &err), &err);
        emulator_counts start = emulator_count();
        fixture_ok(be->decode(c, f.input, logits, &err), &err);
        emulator_counts token = since(start); // the first, which is not replayed
        assert_int_equal(token.graphs, 0);
        if (token.launches > 50) fail_msg("%d streams: %zu launches, expected at most 50", streams, token.launches);
        be->close(c);
        fixture_clear(&f);
    }
}

// Three steps of two micro-batches, given as they are needed or ahead, with an evaluation between: the same bits.
static double *trained(const fixture *f, bool ahead, double *nats) {
    const pa_backend *be = pa_backend_cuda();
    pa_err err;
    double norm, sum;
    pa_context *c = fixture_training(pa_backend_cuda(), f, PA_PRECISION_FP32, false);
    pa_batch half[2] = {f->batch, f->batch};
    half[0].batch = half[1].batch = 1;
    half[1].input += f->batch.length, half[1].target += f->batch.latents, half[1].keep += f->batch.kept,
        half[1].window++;
    *nats = 0;
    for (int i = 1; i <= 3; i++) {
        bool staged = ahead && i > 1;
        fixture_ok(be->loss_grad(c, staged ? NULL : &half[0], 0.5f, NULL, &err), &err);
        fixture_ok(be->loss_grad(c, &half[1], 0.5f, NULL, &err), &err);
        if (ahead) fixture_ok(be->stage(c, &half[0], &err), &err);
        pa_update u = update_of(i);
        fixture_ok(be->update(c, &u, &norm, &sum, &err), &err);
        *nats += sum;
        if (ahead) fixture_ok(be->loss(c, &f->batch, &sum, NULL, &err), &err);
        if (ahead) fixture_ok(be->loss(c, &half[1], &sum, NULL, &err), &err);
    }
    double *w = fixture_read(be, c, &f->params, PA_PARAM);
    if (!ahead) assert_int_equal(be->loss_grad(c, NULL, 1, NULL, &err), PA_USAGE); // none was staged
    be->close(c);
    return w;
}

static void a_batch_given_ahead_is_the_one_computed_on(void **state) {
    (void)state;
    fixture f;
    fixture_step(&f, 0.2);
    double nats[2], *now = trained(&f, false, &nats[0]), *ahead = trained(&f, true, &nats[1]);
    assert_true(nats[0] == nats[1] && nats[0] > 0);
    assert_memory_equal(now, ahead, f.params.floats * sizeof *now);
    free(now), free(ahead);
    fixture_clear(&f);
}

// A gradient that overflows fp16: the step is skipped and the scaling halved; after 2,000 steps without it is doubled.
// The gradient itself does not depend on the scaling.
static void loss_scaling_halves_and_grows(void **state) {
    (void)state;
    const pa_backend *be = pa_backend_cuda();
    fixture f;
    pa_err err;
    fixture_step(&f, 0.2);
    pa_context *c = fixture_training(pa_backend_cuda(), &f, PA_PRECISION_FP16, false);
    double norm, *before = fixture_read(be, c, &f.params, PA_PARAM);
    float scaling = c->loss_scaling;
    assert_true(scaling == 65536);
    int skips = 0;
    for (step(c, &f.batch, 1, 1, &norm); !isfinite(norm); step(c, &f.batch, 1, 1, &norm)) {
        double *after = fixture_read(be, c, &f.params, PA_PARAM);
        assert_memory_equal(before, after, f.params.floats * sizeof *before);
        free(after);
        assert_true(++skips < 16);
        assert_true(c->loss_scaling == scaling / 2 && c->good_steps == 0);
        scaling = c->loss_scaling;
    }
    assert_true(skips > 0 && c->loss_scaling == scaling && c->good_steps == 1);
    fixture_ok(be->loss_grad(c, &f.batch, 0x1p-10f, NULL, &err), &err);
    double *small = fixture_read(be, c, &f.params, PA_GRAD);
    pa_update u = update_of(2);
    fixture_ok(be->update(c, &u, &norm, NULL, &err), &err);
    fixture_write(be, c, &f.params, before);
    c->good_steps = 1999;
    step(c, &f.batch, 0x1p-10f, 3, &norm);
    assert_true(isfinite(norm) && c->loss_scaling == 2 * scaling && c->good_steps == 0);
    assert_true(norm > 0 && fabs(norm - fixture_norm(small, f.params.floats)) < 0.5 * norm);
    free(before), free(small);
    be->close(c);
    fixture_clear(&f);
}

static pa_context *resumed(fixture *f, const pa_run *run, pa_run_state *state, bool save) {
    pa_saver *saver;
    pa_run own = *run;
    pa_err err;
    bool found;
    own.ctx = fixture_training(pa_backend_cuda(), f, PA_PRECISION_FP16, false);
    if (save) {
        fixture_ok(pa_saver_open(&saver, run, &err), &err);
        fixture_ok(pa_saver_save(saver, state, false, &err), &err);
        pa_saver_close(saver);
    }
    fixture_ok(pa_checkpoint_resume(&own, state, &found, &err), &err);
    assert_true(found);
    return own.ctx;
}

// With a scaling lowered by the run, where the default one would overflow, the next step equals the uninterrupted
// run's; a CPU that has the run meanwhile keeps it.
static void a_resumed_run_scales_as_before(void **state) {
    (void)state;
    const pa_backend *be = pa_backend_cuda();
    fixture f;
    pa_config config = pa_config_default();
    pa_run_state at = {.step = 1, .best = INFINITY, .seed = 1, .evaluated = -1};
    pa_err err;
    double norm[2];
    fixture_step(&f, 0.2);
    config.model = f.params.model;
    pa_context *c = fixture_training(be, &f, PA_PRECISION_FP16, false), *on_cpu;
    do step(c, &f.batch, 1, 1, &norm[0]);
    while (!isfinite(norm[0]));
    step(c, &f.batch, 1, 2, &norm[0]);
    assert_true(c->loss_scaling < 65536 && c->good_steps == 2);
    pa_run run = {.dir = scratch("run"),
                  .config = &config,
                  .encoding = PA_MIDI_NEURAL,
                  .corpus = 7,
                  .params = &f.params,
                  .backend = be,
                  .ctx = c};
    pa_run elsewhere = run;
    pa_context *again = resumed(&f, &run, &at, true);
    assert_true(again->loss_scaling == c->loss_scaling && again->good_steps == 2);
    be->close(again);
    elsewhere.backend = pa_backend_cpu();
    elsewhere.ctx = on_cpu = fixture_training(pa_backend_cpu(), &f, PA_PRECISION_FP32, false);
    bool found;
    fixture_ok(pa_checkpoint_resume(&elsewhere, &at, &found, &err), &err);
    at.step = 2;
    pa_saver *saver;
    fixture_ok(pa_saver_open(&saver, &elsewhere, &err), &err);
    fixture_ok(pa_saver_save(saver, &at, false, &err), &err);
    pa_saver_close(saver);
    pa_backend_cpu()->close(on_cpu);
    at.scaling = (pa_scaling){0};
    again = resumed(&f, &run, &at, false);
    assert_true(at.step == 2);
    step(c, &f.batch, 1, 3, &norm[0]), step(again, &f.batch, 1, 3, &norm[1]);
    assert_true(isfinite(norm[0]) && norm[0] == norm[1]);
    double *ours = fixture_read(be, c, &f.params, PA_PARAM), *theirs = fixture_read(be, again, &f.params, PA_PARAM);
    assert_memory_equal(ours, theirs, f.params.floats * sizeof *ours);
    free(ours), free(theirs);
    be->close(c), be->close(again);
    fixture_clear(&f);
}

// Gradients come back as written where they are kept scaled.
static void scaled_gradients_come_back(void **state) {
    (void)state;
    const pa_backend *be = pa_backend_cuda();
    fixture f;
    pa_err err;
    fixture_step(&f, 0.2);
    pa_context *c = fixture_training(pa_backend_cuda(), &f, PA_PRECISION_FP16, false);
    float in[16], out[16];
    for (int i = 0; i < 16; i++) in[i] = (float)i / 3 - 2;
    int t = pa_params_find(&f.params, "layers.1.0.norm.bias");
    fixture_ok(be->write(c, PA_GRAD, t, in, &err), &err);
    fixture_ok(be->read(c, PA_GRAD, t, out, &err), &err);
    assert_memory_equal(in, out, sizeof in);
    be->close(c);
    fixture_clear(&f);
}

// v4 with 12 layers at batch 1 trains in a T4's 16 GB: the aim is 6 GB.
static void v4_fits_a_t4(void **state) {
    (void)state;
    pa_config config = pa_config_default();
    pa_params p;
    pa_err err;
    pa_comm single = pa_comm_single();
    fixture_ok(pa_config_read(&config, "configs/v4.ini", &err), &err);
    config.model.depth = 12;
    fixture_ok(pa_params_init(&p, &config.model, &err), &err);
    for (int recompute = 0; recompute < 2; recompute++) {
        char *text = NULL, *all;
        size_t length;
        FILE *plan = open_memstream(&text, &length);
        pa_context *c = NULL;
        pa_open o = {.params = &p,
                     .precision = PA_PRECISION_FP16,
                     .max_batch = 1,
                     .training = true,
                     .recompute = recompute,
                     .comm = &single};
        o.plan = plan, o.plan_only = true;
        fixture_ok(pa_backend_cuda()->open(&c, &o, &err), &err);
        fclose(plan);
        print_message("%s%s", recompute ? "with recomputation: " : "", text);
        assert_non_null(all = strstr(text, "\n  all "));
        double megabytes = strtod(all + strlen("\n  all "), NULL);
        assert_true(megabytes > 500 && megabytes <= (recompute ? 3000 : 6000));
        free(text);
    }
    pa_params_clear(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_is_two_graphs_and_one_wait),
        cmocka_unit_test(a_deterministic_run_times_nothing),
        cmocka_unit_test(a_token_is_one_graph_and_one_wait),
        cmocka_unit_test(a_token_of_v3_is_50_launches),
        cmocka_unit_test(a_batch_given_ahead_is_the_one_computed_on),
        cmocka_unit_test(loss_scaling_halves_and_grows),
        cmocka_unit_test_setup_teardown(a_resumed_run_scales_as_before, scratch_setup, scratch_teardown),
        cmocka_unit_test(scaled_gradients_come_back),
        cmocka_unit_test(v4_fits_a_t4),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
