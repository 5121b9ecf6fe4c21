// scorer.c: the public library's scorers. See include/patrain.h.
#include <stdlib.h>

#include "host/lib/engine.h"
#include "host/lib/pieces.h"

struct patrain_scorer {
    pa_engine engine;
};

static pa_status open_scorer(patrain_scorer *r, const patrain_model *m, const patrain_options *given, pa_err *err) {
    patrain_options o;
    pa_status s = pa_engine_options(&o, given, err);
    return s ? s : pa_engine_open(&r->engine, m, &o, o.batch ? o.batch : m->info.batch, 0, err);
}

patrain_status patrain_scorer_open(patrain_scorer **scorer, const patrain_model *model, const patrain_options *options,
                                   patrain_error *error) {
    pa_err err = {""};
    patrain_scorer *r = *scorer = calloc(1, sizeof *r);
    pa_status s = r ? open_scorer(r, model, options, &err) : pa_error(&err, PA_FAIL, "no memory for a scorer");
    if (s) {
        patrain_scorer_close(r);
        *scorer = NULL;
    }
    return pa_lib_result(s, &err, error);
}

void patrain_scorer_close(patrain_scorer *r) {
    if (!r) return;
    pa_engine_close(&r->engine);
    free(r);
}

const patrain_options *patrain_scorer_options(const patrain_scorer *r) {
    return &r->engine.options;
}

// ---- whole pieces

// One piece's errors name no piece.
static pa_status check_pieces(const patrain_piece *piece, size_t count, pa_err *err) {
    for (size_t p = 0; p < count; p++)
        for (size_t i = 0; i < piece[p].count; i++) {
            char where[40] = "";
            if (piece[p].tokens[i] < PATRAIN_PAD) continue;
            if (count > 1) snprintf(where, sizeof where, "piece %zu, ", p);
            return pa_error(err, PA_DATA, "%stoken %zu: expected a number below %d, found %d", where, i, PATRAIN_PAD,
                            piece[p].tokens[i]);
        }
    return PA_OK;
}

static pa_status score(patrain_scorer *r, pa_pieces *x, pa_err *err) {
    pa_status s = check_pieces(x->piece, x->pieces, err);
    if (s) return s;
    x->backend = r->engine.backend;
    x->ctx = r->engine.ctx;
    x->model = &r->engine.model->params.model;
    x->batch = r->engine.options.batch;
    pa_threads before = pa_engine_enter(&r->engine);
    s = pa_pieces_score(x, err);
    pa_threads_leave(before);
    return s;
}

patrain_status patrain_scorer_pieces(patrain_scorer *r, const patrain_piece *pieces, size_t count, int stride,
                                     void (*scored)(void *arg, const patrain_scored *run), void *arg,
                                     patrain_error *error) {
    pa_err err = {""};
    pa_pieces x = {.piece = pieces, .pieces = count, .stride = stride, .scored = scored, .arg = arg};
    return pa_lib_result(score(r, &x, &err), &err, error);
}

static void keep_nats(void *arg, const patrain_scored *run) {
    float *nats = arg;
    for (size_t i = 0; i < run->count; i++) nats[run->first + i] = run->nats[i];
}

patrain_status patrain_scorer_score(patrain_scorer *r, const uint16_t *tokens, size_t count, float *nats,
                                    patrain_error *error) {
    pa_err err = {""};
    const patrain_piece piece = {tokens, count};
    pa_pieces x = {.piece = &piece, .pieces = 1, .scored = keep_nats, .arg = nats};
    if (count) nats[0] = 0;
    return pa_lib_result(score(r, &x, &err), &err, error);
}

// ---- windows

patrain_status patrain_scorer_predict(patrain_scorer *r, const patrain_windows *w, patrain_error *error) {
    pa_err err = {""};
    pa_status s = pa_lib_size("patrain_windows", w->size, sizeof *w, &err);
    if (!s) {
        pa_batch b = {
            .batch = w->batch, .length = w->length, .latents = w->latents, .input = w->input, .target = w->target};
        double sum;
        b.kept = w->length - w->latents;
        pa_threads before = pa_engine_enter(&r->engine);
        s = r->engine.backend->loss(r->engine.ctx, &b, &sum,
                                    &(pa_scores){.nats = w->nats, .best = w->best, .logits = w->logits}, &err);
        pa_threads_leave(before);
    }
    return pa_lib_result(s, &err, error);
}
