// step.c: see step.h.
#include "host/train/step.h"

#include <math.h>
#include <string.h>

#include "host/train/average.h"
#include "host/train/stop.h"

// ---- schedule

static double epochs_done(const pa_trainer *t) {
    return (double)t->state.step * t->run.config->train.global_batch / (double)t->sampler.epoch_windows;
}

double pa_train_progress(const pa_trainer *t) {
    const pa_config *c = t->run.config;
    double by_steps = c->train.steps ? (double)t->state.step / (double)c->train.steps : 0;
    double by_epochs = c->train.epochs > 0 ? epochs_done(t) / c->train.epochs : 0;
    double by_time = c->train.minutes > 0 ? (pa_clock() - t->started) / (60 * c->train.minutes) : 0;
    return fmax(by_steps, fmax(by_epochs, by_time));
}

// What learning rates are multiplied by.
static double schedule(const pa_trainer *t) {
    const pa_config *c = t->run.config;
    double warm = t->warmup > 0 ? (double)(t->state.step + 1) / t->warmup : 1;
    if (c->train.minutes > 0) warm = fmax(warm, t->progress / PA_WARMUP_SHARE);
    double progress = fmin(fmax(t->progress, 0), 1), low = c->optimizer.final_lr, at = 1;
    switch (c->optimizer.schedule) {
    case PA_SCHEDULE_CONSTANT:
        break;
    case PA_SCHEDULE_COSINE:
        at = low + (1 - low) * 0.5 * (1 + cos(M_PI * progress));
        break;
    case PA_SCHEDULE_LINEAR:
        at = low + (1 - low) * (1 - progress);
        break;
    case PA_SCHEDULE_WSD:
        at = progress > 1 - c->optimizer.decay ? low + (1 - low) * (1 - progress) / c->optimizer.decay : 1;
        break;
    }
    return fmin(warm, 1) * at;
}

// Learning rate of parameters without one of their own.
static double other_rate(const pa_config *c, double own) {
    return own > 0 ? own : c->optimizer.name == PA_MUON ? pa_config_lr(c) / 10 : pa_config_lr(c);
}

// ---- windows

static void draw_windows(pa_trainer *t, int64_t step) {
    const pa_config *c = t->run.config;
    const pa_model *m = &c->model;
    size_t length = (size_t)m->context + 1;
    t->drawn = step;
    t->scored = 0;
    for (int i = 0; i < t->windows; i++) {
        uint16_t *w = t->tokens + (size_t)i * length;
        t->number[i] = (uint64_t)step * (uint64_t)c->train.global_batch + (uint64_t)(t->first_window + i);
        pa_sampler_window(&t->sampler, t->number[i], w);
        int prefix = pa_window_prefix(c, t->number[i]);
        for (int at = prefix + 1; at <= prefix + t->latents; at++) t->scored += w[at] != PA_PAD;
    }
    t->are_tokens = pa_greatest(t->tokens, (size_t)t->windows * length) < PA_VOCAB;
}

// If a file is overwritten meanwhile, windows drawn from it may hold anything.
static pa_status check_windows(const pa_trainer *t, pa_err *err) {
    pa_status s = pa_token_set_check(&t->train, false, err);
    if (s || t->are_tokens) return s;
    return pa_error(err, PA_DATA, "%s was changed while it was open: expected token ids below %d, found another",
                    t->run.config->data.train, PA_VOCAB);
}

// Windows from `from` on that one call takes: at most micro_batch, of one prefix.
static int count_alike(const pa_trainer *t, int from, int prefix) {
    int count = 1;
    while (count < t->micro_batch && from + count < t->windows &&
           pa_window_prefix(t->run.config, t->number[from + count]) == prefix)
        count++;
    return count;
}

static pa_batch fill_micro_batch(pa_trainer *t, int from) {
    const pa_config *c = t->run.config;
    int prefix = pa_window_prefix(c, t->number[from]), kept = pa_kept(prefix, c->model.prefix_dropout);
    int N = t->latents, M = prefix + N, count = count_alike(t, from, prefix);
    for (int i = 0; i < count; i++) {
        const uint16_t *w = t->tokens + (size_t)(from + i) * ((size_t)c->model.context + 1);
        memcpy(t->input + (size_t)i * (size_t)M, w, (size_t)M * 2);
        memcpy(t->target + (size_t)i * (size_t)N, w + prefix + 1, (size_t)N * 2);
        pa_keep_positions((uint64_t)c->train.seed, t->number[from + i], prefix, kept,
                          t->keep + (size_t)i * (size_t)kept);
    }
    return (pa_batch){.batch = count,
                      .length = M,
                      .latents = N,
                      .input = t->input,
                      .target = t->target,
                      .keep = t->keep,
                      .kept = kept,
                      .window = t->number + from,
                      .last = from + count == t->windows};
}

// ---- gradient and update

void pa_train_move_bar(pa_trainer *t, double share) {
    if (t->bar.terminal && t->is_root && !t->options->dry_run)
        pa_progress_update(&t->bar, (double)(t->state.step - t->bar_began) + share);
}

// Draws and sends the next step's windows while the device still works on this one's.
static pa_status stage_next(pa_trainer *t, pa_err *err) {
    const pa_backend *backend = t->run.backend;
    if (!backend->stage || !t->windows || t->options->dry_run) return PA_OK;
    draw_windows(t, t->drawn + 1);
    if (!t->are_tokens) return PA_OK; // the next step will report it
    pa_batch next = fill_micro_batch(t, 0);
    t->staged = next.batch;
    return backend->stage(t->run.ctx, &next, err);
}

// Adds the gradient of this rank's windows. It only reads weights and moments, so the step can be dropped at any moment
// in here.
static pa_status gradient(pa_trainer *t, float scale, pa_err *err) {
    bool may_drop = t->run.backend->own_transport && t->comm->size == 1; // else train.c drops it from another thread
    pa_status s = PA_OK;
    for (int from = 0; !s && from < t->windows;) {
        if (may_drop && pa_stop_grace_over()) return PA_STOPPED;
        pa_batch b = {.batch = t->staged};
        bool staged = t->staged > 0;
        if (!staged) b = fill_micro_batch(t, from);
        t->staged = 0;
        s = t->run.backend->loss_grad(t->run.ctx, staged ? NULL : &b, scale, NULL, err);
        from += b.batch;
        if (from < t->windows) pa_train_move_bar(t, (double)from / t->windows);
    }
    return s ? s : stage_next(t, err);
}

static pa_update update_of(const pa_trainer *t) {
    const pa_config *c = t->run.config;
    const double at = schedule(t);
    return (pa_update){.lr = pa_config_lr(c) * at,
                       .lr_embedding = other_rate(c, c->optimizer.lr_embedding) * at,
                       .lr_head = other_rate(c, c->optimizer.lr_head) * at,
                       .lr_rest = other_rate(c, c->optimizer.lr_rest) * at,
                       .momentum = c->optimizer.momentum,
                       .beta1 = c->optimizer.beta1,
                       .beta2 = c->optimizer.beta2,
                       .eps = c->optimizer.eps,
                       .weight_decay = c->optimizer.weight_decay,
                       .decoupled = c->optimizer.name != PA_ADAM,
                       .clip = c->train.grad_clip,
                       .step = t->state.updates + 1};
}

// ---- record

// All ranks note the same: loss and norm are the same on each.
static void note_spike(pa_trainer *t, pa_step_log *log) {
    log->loss_bound = pa_running_bound(&t->state.loss);
    log->norm_bound = pa_running_bound(&t->state.norm);
    pa_running_add(&t->state.loss, log->loss);
    pa_running_add(&t->state.norm, log->grad_norm);
    t->state.spikes += pa_runlog_spike(log);
    log->spikes = t->state.spikes;
}

static double flop_of(const pa_trainer *t, int windows, int kept) {
    pa_flops f = pa_count_flops(&t->run.config->model, windows, kept, t->latents);
    return f.linear_forward + f.linear_backward + f.attention_forward + f.attention_backward;
}

// Useful flop of the step just done, over all ranks.
static double useful_flop(const pa_trainer *t) {
    const pa_config *c = t->run.config;
    int starts = t->options->dry_run ? 0 : pa_step_starts(c, (uint64_t)t->state.step - 1);
    int prefix = pa_window_prefix(c, (uint64_t)t->state.step * (uint64_t)c->train.global_batch - 1); // of the starts
    return flop_of(t, t->step_windows - starts, t->kept) + flop_of(t, starts, pa_kept(prefix, c->model.prefix_dropout));
}

// Share of the measured peak. A step that beats the peak shows that the machine was busy when it was measured: measures
// again.
static double utilisation(pa_trainer *t, double seconds) {
    if (!(t->peak > 0)) return NAN;
    double rate = useful_flop(t) / seconds;
    if (rate > t->peak && t->is_root) {
        double again = t->run.backend->peak(t->run.ctx) * t->comm->size; // only this rank measures
        t->peak = fmax(rate, again);
    }
    return fmin(rate / t->peak, 1);
}

pa_status pa_train_step(pa_trainer *t, pa_step_log *log, pa_err *err) {
    const pa_backend *backend = t->run.backend;
    double began = pa_clock(), nats, progress;
    pa_comm_traffic before = pa_comm_sent(t->comm), after;
    pa_err why;
    if (t->drawn != t->state.step) draw_windows(t, t->state.step);
    pa_status s, lost = check_windows(t, err);
    double shared[] = {t->scored, lost != PA_OK}; // over all ranks, below
    if ((s = pa_comm_sum_f64(t->comm, shared, 2, &why))) return pa_error(err, s, "%s", why.text);
    if (shared[1] > 0) return pa_comm_first_error(t->comm, lost, err);
    const double scored = shared[0];
    pa_stop_allow();
    s = gradient(t, scored > 0 ? (float)(1 / scored) : 0, err);
    pa_stop_forbid();
    if (s) return s;
    pa_update update = update_of(t);
    if ((s = backend->update(t->run.ctx, &update, &log->grad_norm, &nats, err))) return s;
    if ((s = pa_comm_sum_f64(t->comm, &nats, 1, err))) return s;
    log->skipped = !isfinite(log->grad_norm);
    t->skips_in_a_row = log->skipped ? t->skips_in_a_row + 1 : 0;
    t->state.step++;
    t->state.updates += !log->skipped;
    t->state.skips += log->skipped;
    if (t->run.average && (s = pa_average_add(&t->run, t->state.step, err))) return s;
    t->state.seconds = pa_clock() - t->started;
    log->step = t->state.step;
    log->epoch = epochs_done(t);
    log->loss = scored > 0 ? nats / scored : NAN;
    t->bad_loss = scored > 0 && !isfinite(log->loss);
    log->lr = update.lr;
    log->loss_bound = log->norm_bound = INFINITY;
    if (scored > 0 && !log->skipped) note_spike(t, log);
    log->seconds = pa_clock() - began;
    log->tokens_per_s = scored / log->seconds;
    log->memory = backend->memory(t->run.ctx);
    log->mfu = utilisation(t, log->seconds);
    after = pa_comm_sent(t->comm);
    log->ranks = backend->own_transport ? 1 : t->comm->size;
    log->sent = after.bytes - before.bytes;
    log->waited = after.waited - before.waited;
    progress = pa_train_progress(t);
    log->eta = progress > 0 ? t->state.seconds * (1 - progress) / progress : NAN;
    return PA_OK;
}
