// training.h: a tiny model in training and its run directory, for tests of checkpoints.
#ifndef PA_TEST_TRAINING_H
#define PA_TEST_TRAINING_H

#include <math.h>

#include "host/train/checkpoint.h"
#include "host/train/saver.h"
#include "tests/support/fixture.h"
#include "tests/support/scratch.h"

// A tiny model in training, and its run directory RUN.
typedef struct {
    fixture f;
    pa_config config;
    pa_run_state state;
    pa_context *ctx;
    char run[SCRATCH_PATH];
} bench;

static inline void begin(bench *b) {
    pa_model m = fixture_model();
    *b = (bench){.config = pa_config_default()};
    b->config.model = m;
    b->state = (pa_run_state){.best = INFINITY, .seed = 1, .evaluated = -1};
    fixture_init(&b->f, &m, 31);
    fixture_batch(&b->f, 2, 24, 15, 4, 37);
    b->ctx = fixture_open(fixture_backend(), &b->f,
                          (pa_open){.max_batch = 2, .training = true, .precision = PA_PRECISION_FP32});
    snprintf(b->run, sizeof b->run, "%s/run", scratch_folder);
}

static inline void end(bench *b) {
    fixture_backend()->close(b->ctx);
    fixture_clear(&b->f);
}

static inline double train(bench *b) {
    const pa_backend *be = fixture_backend();
    pa_err err;
    double sum, norm;
    fixture_ok(be->loss_grad(b->ctx, &b->f.batch, 1.0f / 30, &sum, &err), &err);
    b->state.step++;
    b->state.updates++;
    pa_update u = {
        .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.01, .decoupled = true, .clip = 1};
    u.step = b->state.updates;
    fixture_ok(be->update(b->ctx, &u, &norm, NULL, &err), &err);
    return sum;
}

static inline pa_run run_of(const bench *b) {
    return (pa_run){.dir = b->run,
                    .config = &b->config,
                    .encoding = PA_MIDI_NEURAL,
                    .corpus = 0xc0ffee,
                    .params = &b->f.params,
                    .backend = fixture_backend(),
                    .ctx = b->ctx};
}

static inline pa_status try_save(bench *b, bool best, pa_err *err) {
    pa_run run = run_of(b);
    pa_saver *saver;
    pa_status s = pa_saver_open(&saver, &run, err);
    if (!s) s = pa_saver_save(saver, &b->state, best, err);
    if (!s) s = pa_saver_wait(saver, err);
    pa_saver_close(saver);
    return s;
}

static inline void save(bench *b, int64_t step, bool best) {
    pa_err err;
    b->state.step = step;
    fixture_ok(try_save(b, best, &err), &err);
}

static inline pa_status resume(bench *b, bool *found, pa_err *err) {
    pa_run run = run_of(b);
    return pa_checkpoint_resume(&run, &b->state, found, err);
}

static inline const char *in_run(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/run/%s", scratch_folder, name);
    return path;
}

#endif
