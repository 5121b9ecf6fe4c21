// trainer.c: everything before a run's first step: data, memory on the device, first weights or the checkpoint to
// resume from.
#include "host/train/trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/file.h"
#include "host/files/weights.h"
#include "host/train/average.h"
#include "host/train/run_dir.h"
#include "host/train/same_ranks.h"
#include "host/train/starts.h"

// ---- data

// Pieces too short to predict anything from: windows of up to model.prefix + 1 tokens score nothing.
static int64_t count_short(const pa_token_set *t, const pa_model *m) {
    int64_t count = 0;
    for (int64_t i = 0; i < t->pieces; i++) count += pa_token_set_piece(t, i).count <= m->prefix;
    return count;
}

static pa_status check_lengths(pa_trainer *t, pa_err *err) {
    const pa_config *c = t->run.config;
    const pa_model *m = &c->model;
    int64_t shorts = count_short(&t->train, m), all = t->train.pieces;
    const bool starts = c->data.piece_starts > 0; // they score something of a short piece too
    if (all && shorts == all && !starts)
        return pa_error(err, PA_DATA, "%s: expected pieces longer than model.prefix, %d tokens, found none",
                        c->data.train, m->prefix);
    if (shorts && t->is_root)
        fprintf(t->out, "%s: %lld of %lld pieces are no longer than model.prefix, %d tokens; the run %s\n",
                c->data.train, (long long)shorts, (long long)all, m->prefix,
                starts ? "trains on them only by data.piece_starts" : "does not train on them");
    if (!t->validation.files) return PA_OK;
    t->has_validation = count_short(&t->validation, m) < t->validation.pieces;
    if (!t->has_validation && t->is_root)
        fprintf(t->out,
                "%s: no piece is longer than model.prefix, %d tokens: no evaluation, no best checkpoint, no samples\n",
                c->data.validation, m->prefix);
    return PA_OK;
}

static pa_status open_tokens(pa_token_set *t, const char *key, const char *list, bool weighted, pa_err *err) {
    pa_status s = pa_token_set_open(t, list, weighted, err);
    return s ? pa_error(err, s, "%s: %s", key, err->text) : PA_OK;
}

static bool uses_validation(const pa_trainer *t) {
    const pa_config *c = t->run.config;
    return *c->data.validation && !t->options->dry_run && (c->log.eval_every || c->log.sample_every);
}

static pa_status open_data(pa_trainer *t, pa_err *err) {
    const pa_config *c = t->run.config;
    pa_status s = open_tokens(&t->train, "data.train", c->data.train, true, err);
    if (s) return s;
    t->run.encoding = t->train.encoding;
    t->run.corpus = t->train.crc;
    if (uses_validation(t)) {
        if ((s = open_tokens(&t->validation, "data.validation", c->data.validation, false, err))) return s;
        if (t->train.encoding != t->validation.encoding)
            return pa_error(err, PA_USAGE, "%s: expected the encoding of %s, %s, found %s", c->data.validation,
                            c->data.train, pa_encoding_name(t->train.encoding),
                            pa_encoding_name(t->validation.encoding));
        t->run.validation = t->validation.crc;
    }
    s = pa_sampler_init(&t->sampler, &t->train, c, err);
    return s ? s : check_lengths(t, err);
}

// ---- sizes

// Enough rows for the matrix products to reach their peak, few enough for small activations.
static int choose_micro_batch(const pa_config *c, int windows) {
    int rows = pa_latents(&c->model), fit = (PA_BUSY_LATENTS + rows - 1) / rows;
    int micro_batch = c->train.micro_batch ? c->train.micro_batch : fit;
    return micro_batch < windows ? micro_batch : windows;
}

static void share_windows(pa_trainer *t) {
    const pa_config *c = t->run.config;
    int batch = c->train.global_batch, rank = t->comm->rank, size = t->comm->size;
    t->micro_batch = choose_micro_batch(c, (batch + size - 1) / size); // the same on every rank
    t->kept = pa_kept(c->model.prefix, c->model.prefix_dropout);
    t->first_window = (int)((int64_t)batch * rank / size);
    t->windows = (int)((int64_t)batch * (rank + 1) / size) - t->first_window;
    t->step_windows = batch;
    t->latents = pa_latents(&c->model);
    if (!t->options->dry_run) return;
    if (t->latents > PA_DRY_LATENTS) t->latents = PA_DRY_LATENTS;
    t->windows = t->windows > 0;
    t->step_windows = batch < size ? batch : size;
}

// A warm-up longer than the run would never reach the learning rate. (How many steps fit into train.minutes is known
// only during the run: step.c.)
static void clamp_warmup(pa_trainer *t) {
    const pa_config *c = t->run.config;
    double steps = c->train.steps ? (double)c->train.steps : INFINITY;
    if (c->train.epochs > 0)
        steps = fmin(steps, ceil(c->train.epochs * (double)t->sampler.epoch_windows / c->train.global_batch));
    t->warmup = c->optimizer.warmup;
    if (t->warmup <= steps) return;
    t->warmup = fmax(1, floor(steps * PA_WARMUP_SHARE));
    if (t->is_root)
        fprintf(t->out, "warning: optimizer.warmup, %g steps, is longer than the run: using %g\n", c->optimizer.warmup,
                t->warmup);
}

static pa_status take_buffers(pa_trainer *t, pa_err *err) {
    const pa_model *m = &t->run.config->model;
    size_t M = (size_t)m->context, B = (size_t)t->micro_batch, W = (size_t)t->windows;
    t->tokens = malloc(W * (M + 1) * 2 + 1); // one byte more: malloc(0) may return NULL
    t->number = malloc(W * 8 + 1);
    t->input = malloc(B * M * 2 + 1);
    t->target = malloc(B * (M - (size_t)m->prefix) * 2 + 1);
    t->keep = malloc(B * (size_t)t->kept * 4 + 1);
    return t->tokens && t->number && t->input && t->target && t->keep
               ? PA_OK
               : pa_error(err, PA_FAIL, "no memory for a step's windows");
}

static void print_sizes(const pa_trainer *t) {
    const pa_config *c = t->run.config;
    int size = t->comm->size;
    fprintf(t->out, "%.2f million parameters in %d tensors; %d windows a step, %d at a time; %lld windows an epoch\n",
            (double)t->params.parameters / 1e6, t->params.count, c->train.global_batch, t->micro_batch,
            (long long)t->sampler.epoch_windows);
    if (c->train.global_batch < size)
        fprintf(t->out, "%d of %d ranks are idle: train.global_batch is %d\n", size - c->train.global_batch, size,
                c->train.global_batch);
    if (!c->train.steps && !(c->train.epochs > 0) && !(c->train.minutes > 0))
        fprintf(
            t->out,
            "no train.steps, train.epochs or train.minutes: the run continues until it is stopped (Ctrl-C saves)\n");
}

// On disk at most: the newest, the best, and one that is being written.
static void print_checkpoint_sizes(const pa_trainer *t) {
    const pa_config *c = t->run.config;
    bool keeps_best = *c->data.validation && c->log.eval_every && c->checkpoint.best_by != PA_BEST_BY_NONE;
    const bool averages = c->train.ema > 0, muon = c->optimizer.name == PA_MUON;
    double bytes = (double)t->params.parameters * (averages ? 12 : 8);
    for (int i = 0; i < t->params.count; i++)
        if (!muon || t->params.row[i].group != PA_GROUP_MATRIX) bytes += (double)t->params.row[i].size * 4;
    if (t->params.pos_emb < 0) bytes += (double)c->model.context * c->model.dim * 4; // zeros, for PyTorch
    int most = c->checkpoint.keep + keeps_best + 1;
    if (averages)
        fprintf(t->out, "  and %.1f MB of host memory for the average of weights\n",
                (double)pa_average_bytes(&t->params) * 1e-6);
    fprintf(t->out, "  and from the first checkpoint on %.1f MB of host memory for a copy of weights and moments\n",
            (double)pa_saver_floats(&t->params, muon, averages) * 4e-6);
    fprintf(t->out,
            "checkpoints: %.1f MB each, at most %d on disk, %.1f MB (checkpoint.keep = %d%s, one being written)\n",
            bytes * 1e-6, most, most * bytes * 1e-6, c->checkpoint.keep, keeps_best ? ", the best" : "");
}

static pa_status open_backend(pa_trainer *t, pa_err *err) {
    const pa_config *c = t->run.config;
    if (c->train.gradient_sums == PA_SUMS_BF16 && t->comm->size > 1 && !t->run.backend->own_transport)
        return pa_error(err, PA_USAGE, "train.gradient_sums: expected fp32 on the CPU, found bf16, which is for GPUs");
    pa_open o = {.params = &t->params,
                 .precision = c->train.precision,
                 .max_batch = t->micro_batch,
                 .training = true,
                 .recompute = c->train.recompute,
                 .deterministic = c->train.deterministic,
                 .streams =
                     c->log.sample_every && (t->has_validation || (t->options->dry_run && *c->data.validation)) ? 1 : 0,
                 .seed = (uint64_t)c->train.seed,
                 .comm = t->comm,
                 .muon = c->optimizer.name == PA_MUON,
                 .rates = c->optimizer.lr_embedding > 0 || c->optimizer.lr_head > 0 || c->optimizer.lr_rest > 0,
                 .sum_bf16 = c->train.gradient_sums == PA_SUMS_BF16,
                 .zero = c->train.zero == 1,
                 .plan = t->is_root ? t->out : NULL};
    o.plan_only = t->options->dry_run && t->run.backend->check_machine(&t->absent); // the plan needs no device
    pa_status s = t->run.backend->open(&t->run.ctx, &o, err);
    if (s || !t->run.ctx) return s;
    t->peak = t->run.backend->peak(t->run.ctx);
    return pa_comm_sum_f64(t->comm, &t->peak, 1, err);
}

// ---- weights

static pa_status draw_weights(pa_trainer *t, pa_err *err) {
    float *values = malloc(t->params.floats * 4);
    if (!values) return pa_error(err, PA_FAIL, "no memory to draw the first weights");
    pa_status s = PA_OK;
    for (int i = 0; !s && i < t->params.count; i++) {
        pa_params_draw(&t->params, i, (uint64_t)t->run.config->train.seed, values);
        s = t->run.backend->write(t->run.ctx, PA_PARAM, i, values, err);
    }
    free(values);
    return s;
}

static pa_status first_weights(pa_trainer *t, pa_err *err) {
    pa_weights w;
    if (!t->options->init) return draw_weights(t, err);
    pa_status s = pa_weights_open(&w, t->options->init, NULL, &t->run.config->model, err);
    if (s) return s;
    s = pa_weights_load(&w, &t->params, t->run.backend, t->run.ctx, err);
    if (!s && t->is_root) fprintf(t->out, "weights from %s\n", w.path);
    pa_weights_close(&w);
    return s;
}

// Finds a bad --init before --fresh moves the run aside.
static pa_status check_init(const pa_trainer *t, pa_err *err) {
    pa_weights w;
    if (!t->is_root || !t->options->fresh || !t->options->init) return PA_OK;
    pa_status s = pa_weights_open(&w, t->options->init, NULL, &t->run.config->model, err);
    if (!s) pa_weights_close(&w);
    return s;
}

// ---- start

// The root locks and tidies the run directory before the others read it, then all load the newest checkpoint.
static pa_status resume(pa_trainer *t, bool *found, pa_err *err) {
    const pa_train_options *o = t->options;
    double barrier = 0, sum;
    pa_status s = check_init(t, err);
    if (s) return s;
    if (t->is_root && (s = pa_saver_open(&t->saver, &t->run, err))) return s;
    if (t->is_root && (s = pa_rundir_open(o->run_dir, o->fresh, &t->lock, t->out, err))) return s;
    t->run.lock = t->lock;
    if (!t->is_root && (s = pa_comm_sum_f64(t->comm, &barrier, 1, err))) return s;
    if ((s = pa_checkpoint_resume(&t->run, &t->state, found, err))) return s;
    if (t->is_root && (s = pa_comm_sum_f64(t->comm, &barrier, 1, err))) return s;
    sum = (double)t->state.step;
    if ((s = pa_comm_sum_f64(t->comm, &sum, 1, err))) return s;
    if (sum == (double)t->state.step * t->comm->size) return PA_OK;
    return pa_error(err, PA_FAIL, "%s: rank %d found another checkpoint than the other ranks, step %lld", o->run_dir,
                    t->comm->rank, (long long)t->state.step);
}

static pa_status record_start(pa_trainer *t, pa_err *err) {
    static const char *const names[] = {"auto", "fp32", "bf16", "fp16"};
    const pa_config *c = t->run.config;
    pa_start start = {.command = t->options->command ? t->options->command : "",
                      .backend = t->run.backend->name,
                      .precision = names[t->run.backend->precision(t->run.ctx)],
                      .ranks = t->comm->size,
                      .deterministic = c->train.deterministic,
                      .corpus = t->run.corpus,
                      .step = t->state.step};
    t->run.backend->describe(t->run.ctx, &start.device);
    return pa_starts_add(t->run.dir, &start, t->out, err);
}

// The root's files in the run directory.
static pa_status open_records(pa_trainer *t, bool found, pa_err *err) {
    char path[4096 + 32];
    snprintf(path, sizeof path, "%s/train.log", t->run.dir);
    pa_status s = pa_tee_attach(t->tee, path, err);
    if (!s && found) s = pa_checkpoint_links(t->run.dir, &t->state, err);
    if (!s && found)
        fprintf(t->out, "%s: resuming from step %lld%s\n", t->run.dir, (long long)t->state.step,
                t->options->init ? "; --init applies to new runs only" : "");
    if (!s) s = pa_rundir_write_config(t->run.dir, t->run.config, found ? t->out : NULL, err);
    if (!s) s = record_start(t, err);
    if (!s) s = pa_runlog_open(&t->log, t->run.dir, found ? t->state.step : -1, t->state.evaluated, err);
    return s ? s : pa_sync_dir(t->run.dir, err); // metrics.jsonl outlasts a power cut as the checkpoints do
}

static pa_status start_run(pa_trainer *t, pa_err *err) {
    const pa_train_options *o = t->options;
    bool found = false;
    pa_status s = PA_OK;
    t->state = (pa_run_state){.best = INFINITY, .seed = (uint64_t)t->run.config->train.seed, .evaluated = -1};
    t->saved_step = -1;
    if (!o->dry_run && (s = resume(t, &found, err))) return s;
    if (!found && (s = first_weights(t, err))) {
        if (!o->dry_run && t->is_root) pa_rundir_abandon(o->run_dir);
        return s;
    }
    if (!found && t->run.average && (s = pa_average_begin(&t->run, err))) return s;
    if (found) t->saved_step = t->state.step;
    if (t->run.validation) t->state.validation = t->run.validation;
    if ((s = pa_same_weights(t, err))) return s;
    if (!o->dry_run && t->is_root && (s = open_records(t, found, err))) return s;
    t->started = pa_clock() - t->state.seconds;
    return PA_OK;
}

pa_status pa_trainer_open(pa_trainer *t, const pa_config *config, const pa_train_options *options, pa_err *err) {
    *t = (pa_trainer){
        .options = options,
        .run = {.dir = options->run_dir, .config = config, .params = &t->params, .backend = options->backend},
        .comm = options->comm,
        .is_root = !options->comm->rank,
        .drawn = -1};
    if (t->is_root && !(t->tee = pa_tee_open())) return pa_error(err, PA_FAIL, "no memory");
    t->out = t->run.out = t->log.out = t->tee ? pa_tee_stream(t->tee) : stderr;
    pa_status s = pa_params_init(&t->params, &config->model, err);
    if (s || (s = open_data(t, err)) || (s = pa_same_start(t, err))) return s;
    share_windows(t);
    if ((s = take_buffers(t, err))) return s;
    if (t->is_root) print_sizes(t);
    clamp_warmup(t);
    if ((s = open_backend(t, err)) || (s = pa_same_device(t, err))) return s;
    if (t->is_root) print_checkpoint_sizes(t);
    if (config->train.ema > 0 && !options->dry_run && (s = pa_average_open(&t->run, err))) return s;
    return t->run.ctx ? start_run(t, err) : PA_OK;
}

void pa_trainer_close(pa_trainer *t) {
    pa_saver_close(t->saver); // waits for the checkpoint that is being written
    pa_runlog_close(&t->log);
    if (t->run.ctx) t->run.backend->close(t->run.ctx);
    pa_lock_release(t->lock);
    pa_tee_close(t->tee);
    pa_sampler_clear(&t->sampler);
    pa_token_set_close(&t->train);
    pa_token_set_close(&t->validation);
    pa_params_clear(&t->params);
    free(t->run.average);
    free(t->tokens);
    free(t->number);
    free(t->input);
    free(t->target);
    free(t->keep);
}
