// trainer.c: a run before its first step: its data, its memory on the device, its first weights or its newest checkpoint.
#include "host/train/trainer.h"

#include <math.h>
#include <stdlib.h>

#include "host/files/weights.h"
#include "host/train/run_dir.h"

// Windows that end within model.prefix + 1 tokens score nothing. How many pieces are too short for others.
static int64_t too_short(const pa_token_set *t, const pa_model *m) {
    int64_t count = 0;
    for (int64_t i = 0; i < t->pieces; i++) count += pa_token_set_piece(t, i).count <= m->prefix;
    return count;
}

static pa_status check_lengths(pa_trainer *t, pa_err *err) {
    const pa_config *c = t->config;
    const pa_model *m = &c->model;
    int64_t shorts = too_short(&t->train, m), all = t->train.pieces;
    if (all && shorts == all)
        return pa_error(err, PA_DATA,
                        "%s: expected pieces of more than model.prefix = %d tokens, of which nothing is predicted, found none",
                        c->data.train, m->prefix);
    if (shorts && !t->comm.rank)
        fprintf(stderr, "%s: %lld of %lld pieces have no more than model.prefix = %d tokens; nothing is learnt from them\n", c->data.train,
                (long long)shorts, (long long)all, m->prefix);
    if (!t->validation.files) return PA_OK;
    t->has_validation = too_short(&t->validation, m) < t->validation.pieces;
    if (!t->has_validation && !t->comm.rank)
        fprintf(stderr, "%s: no piece has more than model.prefix = %d tokens; no evaluation, no best checkpoint, no samples\n",
                c->data.validation, m->prefix);
    return PA_OK;
}

static pa_status open_tokens(pa_token_set *t, const char *key, const char *list, bool weighted, pa_err *err) {
    pa_status s = pa_token_set_open(t, list, weighted, err);
    return s ? pa_error(err, s, "%s: %s", key, err->text) : PA_OK;
}

static pa_status open_data(pa_trainer *t, pa_err *err) {
    const pa_config *c = t->config;
    pa_status s = open_tokens(&t->train, "data.train", c->data.train, true, err);
    if (s) return s;
    if (*c->data.validation) {
        if ((s = open_tokens(&t->validation, "data.validation", c->data.validation, false, err))) return s;
        if (t->train.encoding != t->validation.encoding)
            return pa_error(err, PA_USAGE, "%s: expected the encoding of %s, %s, found %s", c->data.validation, c->data.train,
                            pa_encoding_name(t->train.encoding), pa_encoding_name(t->validation.encoding));
        if ((s = pa_token_sets_match(&t->train, &t->validation, err))) return s;
    }
    s = pa_sampler_init(&t->sampler, &t->train, c, err);
    return s ? s : check_lengths(t, err);
}

// Rows that keep the matrix products at their peak and the activations small.
static int choose_micro(const pa_config *c, int windows) {
    int rows = c->model.context - c->model.prefix, fit = (8192 + rows - 1) / rows;
    int micro = c->train.micro_batch ? c->train.micro_batch : fit;
    return micro < windows ? micro : windows;
}

static pa_status open_backend(pa_trainer *t, pa_err *err) {
    const pa_config *c = t->config;
    pa_open o = {.params = &t->params,
                 .precision = c->train.precision,
                 .max_batch = t->micro,
                 .training = true,
                 .recompute = c->train.recompute,
                 .deterministic = c->train.deterministic,
                 .streams = c->log.sample_every && t->has_validation ? 1 : 0,
                 .seed = (uint64_t)c->train.seed,
                 .comm = &t->comm,
                 .zero = t->config->train.zero == 1,
                 .plan = t->comm.rank ? NULL : stderr};
    // The plan is told without a device too.
    o.plan_only = t->options->dry_run && t->backend->present(&t->absent);
    pa_status s = t->backend->open(&t->ctx, &o, err);
    if (s || !t->ctx) return s;
    t->peak = t->backend->peak(t->ctx);
    return pa_comm_sum_f64(&t->comm, &t->peak, 1, err);
}

static pa_status take_buffers(pa_trainer *t, pa_err *err) {
    const pa_model *m = &t->config->model;
    size_t M = (size_t)m->context, B = (size_t)t->micro, W = (size_t)t->windows;
    t->tokens = malloc(W * (M + 1) * 2 + 1), t->number = malloc(W * 8 + 1);
    t->input = malloc(B * M * 2 + 1), t->target = malloc(B * (M - (size_t)m->prefix) * 2 + 1),
    t->keep = malloc(B * (size_t)t->kept * 4 + 1);
    return t->tokens && t->number && t->input && t->target && t->keep ? PA_OK : pa_error(err, PA_FAIL, "no memory for a step's windows");
}

static pa_status first_weights(pa_trainer *t, pa_err *err) {
    pa_weights w;
    if (!t->options->init) {
        float *values = malloc(t->params.floats * 4);
        if (!values) return pa_error(err, PA_FAIL, "no memory to draw the first weights");
        pa_status s = PA_OK;
        for (int i = 0; !s && i < t->params.count; i++) {
            pa_params_draw(&t->params, i, (uint64_t)t->config->train.seed, values);
            s = t->backend->write(t->ctx, PA_PARAM, i, values, err);
        }
        free(values);
        return s;
    }
    pa_status s = pa_weights_open(&w, t->options->init, NULL, &t->config->model, err);
    if (s) return s;
    s = pa_weights_load(&w, &t->params, t->backend, t->ctx, err);
    if (!s && !t->comm.rank) fprintf(stderr, "weights of %s\n", w.path);
    pa_weights_close(&w);
    return s;
}

// Before --fresh moves a run aside for one that would not begin.
static pa_status check_init(const pa_trainer *t, pa_err *err) {
    pa_weights w;
    if (t->comm.rank || !t->options->fresh || !t->options->init) return PA_OK;
    pa_status s = pa_weights_open(&w, t->options->init, NULL, &t->config->model, err);
    if (!s) pa_weights_close(&w);
    return s;
}

static pa_status start_run(pa_trainer *t, pa_err *err) {
    const pa_train_options *o = t->options;
    bool found = false;
    t->state = (pa_run_state){.best = INFINITY, .seed = (uint64_t)t->config->train.seed, .evaluated = -1};
    t->saved_step = -1;
    t->run = (pa_run){o->run, t->config, t->train.encoding, t->train.crc, &t->params, t->backend, t->ctx};
    pa_status s = PA_OK;
    if (!o->dry_run) {
        if ((s = check_init(t, err))) return s;
        if (!t->comm.rank && (s = pa_saver_open(&t->saver, &t->run, err))) return s;
        if (!t->comm.rank && (s = pa_rundir_open(o->run, o->fresh, &t->lock, err))) return s;
        double tidy = 0, at; // the others read once rank 0 has the lock and has removed what an interrupted save left
        if (t->comm.rank && (s = pa_comm_sum_f64(&t->comm, &tidy, 1, err))) return s;
        if ((s = pa_checkpoint_resume(&t->run, &t->state, &found, err))) return s;
        if (!t->comm.rank && (s = pa_comm_sum_f64(&t->comm, &tidy, 1, err))) return s;
        at = (double)t->state.step;
        if ((s = pa_comm_sum_f64(&t->comm, &at, 1, err))) return s;
        if (at != (double)t->state.step * t->comm.size)
            return pa_error(err, PA_FAIL, "%s: rank %d found another checkpoint than the others, step %lld", o->run, t->comm.rank,
                            (long long)t->state.step);
    }
    if (!found && (s = first_weights(t, err))) {
        if (!o->dry_run && !t->comm.rank) pa_rundir_abandon(o->run);
        return s;
    }
    if (found) {
        if (!t->comm.rank && (s = pa_checkpoint_links(o->run, &t->state, err))) return s;
        if (!t->comm.rank)
            fprintf(stderr, "%s: going on from step %lld%s\n", o->run, (long long)t->state.step,
                    o->init ? "; --init is for a new run" : "");
        t->saved_step = t->state.step;
    }
    if (!o->dry_run && !t->comm.rank &&
        ((s = pa_rundir_write_config(o->run, t->config, found, err)) ||
         (s = pa_runlog_open(&t->log, o->run, found ? t->state.step : -1, t->state.evaluated, err))))
        return s;
    t->started = pa_clock() - t->state.seconds;
    return PA_OK;
}

pa_status pa_trainer_open(pa_trainer *t, const pa_config *config, const pa_train_options *options, pa_err *err) {
    *t = (pa_trainer){.config = config, .options = options, .backend = options->backend, .comm = options->comm, .lock = -1, .drawn = -1};
    int batch = config->train.global_batch, rank = t->comm.rank, size = t->comm.size;
    t->first = (int)((int64_t)batch * rank / size), t->windows = (int)((int64_t)batch * (rank + 1) / size) - t->first;
    t->micro = choose_micro(config, (batch + size - 1) / size); // the same on every rank
    t->kept = pa_kept(config->model.prefix, config->model.prefix_dropout);
    pa_status s = pa_params_init(&t->params, &config->model, err);
    if (s || (s = open_data(t, err)) || (s = take_buffers(t, err))) return s;
    if (!rank)
        fprintf(stderr, "%.2f million parameters in %d tensors; %d windows a step, %d at a time; %lld windows an epoch\n",
                (double)t->params.parameters / 1e6, t->params.count, batch, t->micro, (long long)t->sampler.epoch_windows);
    if (!rank && batch < size) fprintf(stderr, "%d of %d ranks have no window: train.global_batch is %d\n", size - batch, size, batch);
    if ((s = open_backend(t, err))) return s;
    if (!rank)
        fprintf(stderr, "  and of the host's memory, from the first checkpoint on, %.1f MB for a copy of weights and moments\n",
                (double)t->params.floats * 12e-6);
    return t->ctx ? start_run(t, err) : PA_OK;
}

void pa_trainer_close(pa_trainer *t) {
    pa_saver_close(t->saver); // what is being written is finished, whatever ended the run
    pa_runlog_close(&t->log);
    if (t->ctx) t->backend->close(t->ctx);
    pa_rundir_close(t->lock);
    pa_sampler_clear(&t->sampler);
    pa_token_set_close(&t->train);
    pa_token_set_close(&t->validation);
    pa_params_clear(&t->params);
    free(t->tokens), free(t->number), free(t->input), free(t->target), free(t->keep);
}
