// train.c: the training loop. What a step computes is a function of (seed, step) alone; how long it takes and when it is interrupted
// never change it. Knows nothing of devices.
#include "host/train/trainer.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/play/generate.h"
#include "host/play/score.h"

enum { QUIET_S = 60 }; // most seconds without a line where steps are long

static volatile sig_atomic_t stop_signals, speaks; // speaks: rank 0

static void on_signal(int signal) {
    static const char text[] = "\nstopping after this step, once it is saved; Ctrl-C again ends at once, without saving\n";
    int was = errno; // of what was interrupted
    if (signal == SIGINT && stop_signals) _exit(130);
    if (!stop_signals++ && speaks && write(STDERR_FILENO, text, sizeof text - 1) < 0) {} // nobody to tell
    errno = was;
}

static void catch_signals(bool first) {
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    stop_signals = 0, speaks = first;
    sigaction(SIGTERM, &a, NULL), sigaction(SIGINT, &a, NULL), sigaction(SIGUSR1, &a, NULL);
}

double pa_learning_rate(const pa_config *c, int64_t step, double progress) {
    double warm = c->optimizer.warmup > 0 ? (double)(step + 1) / c->optimizer.warmup : 1, low = c->optimizer.final_lr, at = 1;
    progress = progress < 0 ? 0 : progress > 1 ? 1 : progress;
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
    return c->optimizer.lr * (warm < 1 ? warm : 1) * at;
}

static double epochs_done(const pa_trainer *t) {
    return (double)t->state.step * t->config->train.global_batch / (double)t->sampler.epoch_windows;
}

// Share of the run that is done, by the limit that is nearest; 0 without a limit.
static double progress(const pa_trainer *t) {
    const pa_config *c = t->config;
    double p = 0, by_steps = c->train.steps ? (double)t->state.step / (double)c->train.steps : 0;
    double by_epochs = c->train.epochs > 0 ? epochs_done(t) / c->train.epochs : 0;
    double by_time = c->train.minutes > 0 ? (pa_clock() - t->started) / (60 * c->train.minutes) : 0;
    p = by_steps > p ? by_steps : p, p = by_epochs > p ? by_epochs : p, p = by_time > p ? by_time : p;
    return p;
}

// This rank's windows of a step, and how many targets they score.
static void draw_windows(pa_trainer *t, int64_t step) {
    const pa_model *m = &t->config->model;
    size_t length = (size_t)m->context + 1;
    t->drawn = step, t->scored = 0;
    for (int i = 0; i < t->windows; i++) {
        uint16_t *w = t->tokens + (size_t)i * length;
        t->number[i] = (uint64_t)step * (uint64_t)t->config->train.global_batch + (uint64_t)(t->first + i);
        pa_sampler_window(&t->sampler, t->number[i], w);
        for (int at = m->prefix + 1; at <= m->context; at++) t->scored += w[at] != PA_PAD;
    }
}

// At most `micro` of the windows, from the given one.
static pa_batch micro_batch(pa_trainer *t, int from) {
    const pa_model *m = &t->config->model;
    int M = m->context, N = M - m->prefix, left = t->windows - from, count = left < t->micro ? left : t->micro;
    for (int i = 0; i < count; i++) {
        const uint16_t *w = t->tokens + (size_t)(from + i) * ((size_t)M + 1);
        memcpy(t->input + (size_t)i * (size_t)M, w, (size_t)M * 2);
        memcpy(t->target + (size_t)i * (size_t)N, w + m->prefix + 1, (size_t)N * 2);
        pa_keep_positions((uint64_t)t->config->train.seed, t->number[from + i], m->prefix, t->kept, t->keep + (size_t)i * (size_t)t->kept);
    }
    return (pa_batch){.batch = count,
                      .length = M,
                      .latents = N,
                      .input = t->input,
                      .target = t->target,
                      .keep = t->keep,
                      .kept = t->kept,
                      .window = t->number + from,
                      .last = from + count == t->windows};
}

// The bar stands for the steps until the next line is due.
static void begin_bar(pa_trainer *t) {
    const pa_config *c = t->config;
    int64_t step = t->state.step, next = c->log.every ? (step / c->log.every + 1) * c->log.every : c->train.steps;
    if (c->train.steps && next > c->train.steps) next = c->train.steps;
    pa_progress_start(&t->bar, "training", "steps", (double)(next > step ? next - step : 0));
    t->bar_began = step, t->spoke = pa_clock();
}

static void move_bar(pa_trainer *t, double share) {
    if (t->bar.terminal && !t->comm.rank && !t->options->dry_run)
        pa_progress_update(&t->bar, (double)(t->state.step - t->bar_began) + share);
}

// The gradient of all windows of this rank. Where the backend is still at work after it, the next step's windows are drawn meanwhile.
static pa_status gradient(pa_trainer *t, float scale, pa_err *err) {
    pa_status s = PA_OK;
    for (int from = 0; !s && from < t->windows; from += t->micro) {
        bool staged = t->staged;
        pa_batch b = {0};
        if (!staged) b = micro_batch(t, from);
        t->staged = false;
        s = t->backend->loss_grad(t->ctx, staged ? NULL : &b, scale, NULL, err);
        if (from + t->micro < t->windows) move_bar(t, (double)(from + t->micro) / t->windows);
    }
    if (s || !t->backend->stage || !t->windows || t->options->dry_run) return s;
    draw_windows(t, t->drawn + 1);
    pa_batch next = micro_batch(t, 0);
    t->staged = true;
    return t->backend->stage(t->ctx, &next, err);
}

// The same on every rank: loss and norm are.
static void note_spike(pa_trainer *t, pa_step_log *log) {
    log->loss_bound = pa_running_bound(&t->state.loss), log->norm_bound = pa_running_bound(&t->state.norm);
    pa_running_add(&t->state.loss, log->loss), pa_running_add(&t->state.norm, log->grad_norm);
    log->spikes = t->state.spikes += pa_runlog_spike(log);
}

static pa_status train_step(pa_trainer *t, pa_step_log *log, pa_err *err) {
    const pa_config *c = t->config;
    double began = pa_clock(), scored, sum;
    pa_comm_traffic before = pa_comm_sent(&t->comm);
    if (t->drawn != t->state.step) draw_windows(t, t->state.step);
    scored = t->scored;
    pa_status s = pa_comm_sum_f64(&t->comm, &scored, 1, err);
    if (!s) s = gradient(t, scored > 0 ? (float)(1 / scored) : 0, err);
    if (s) return s;
    pa_update u = {.lr = pa_learning_rate(c, t->state.step, t->progress),
                   .beta1 = c->optimizer.beta1,
                   .beta2 = c->optimizer.beta2,
                   .eps = c->optimizer.eps,
                   .weight_decay = c->optimizer.weight_decay,
                   .decoupled = c->optimizer.name == PA_ADAMW,
                   .clip = c->train.grad_clip,
                   .step = t->state.updates + 1};
    if ((s = t->backend->update(t->ctx, &u, &log->grad_norm, &sum, err)) || (s = pa_comm_sum_f64(&t->comm, &sum, 1, err))) return s;
    log->skipped = !isfinite(log->grad_norm), log->loss_bound = log->norm_bound = INFINITY;
    t->skips_in_a_row = log->skipped ? t->skips_in_a_row + 1 : 0;
    t->state.step++, t->state.updates += !log->skipped, t->state.skips += log->skipped;
    pa_flops f = pa_count_flops(&c->model, c->train.global_batch, t->kept, c->model.context - c->model.prefix);
    double took = pa_clock() - began;
    t->state.seconds = pa_clock() - t->started;
    log->step = t->state.step, log->epoch = epochs_done(t), log->loss = scored > 0 ? sum / scored : NAN, log->lr = u.lr;
    if (scored > 0 && !log->skipped) note_spike(t, log);
    log->tokens_per_s = scored / took, log->seconds = took, log->memory = t->backend->memory(t->ctx);
    log->mfu = t->peak > 0 ? (f.linear_forward + f.linear_backward + f.attention_forward + f.attention_backward) / took / t->peak : NAN;
    pa_comm_traffic after = pa_comm_sent(&t->comm);
    log->ranks = t->backend->own_links ? 1 : t->comm.size;
    log->sent = after.bytes - before.bytes, log->waited = after.waited - before.waited;
    double p = progress(t);
    log->eta = p > 0 ? t->state.seconds * (1 - p) / p : NAN;
    return PA_OK;
}

static pa_status save(pa_trainer *t, bool best, pa_err *err) {
    t->saved_step = t->state.step;
    if (t->comm.rank) return t->config->train.zero ? pa_saver_lend(&t->run, err) : PA_OK;
    return pa_saver_save(t->saver, &t->state, best, err);
}

// One crop of each validation piece, the same ones each time. Saves where it is the best so far. A signal to stop ends it without a result
// (PA_STOPPED); the run that goes on begins with it.
static pa_status evaluate(pa_trainer *t, pa_err *err) {
    const pa_config *c = t->config;
    double began = pa_clock();
    int64_t correct = 0, tokens;
    pa_score score;
    const pa_scoring scoring = {.backend = t->backend,
                                .ctx = t->ctx,
                                .model = &c->model,
                                .tokens = &t->validation,
                                .pieces = c->log.eval_pieces,
                                .batch = t->micro};
    const pa_crops crops = {.seed = (uint64_t)c->train.seed, .seed_too = true, .comm = &t->comm, .stop = &stop_signals};
    pa_status s = pa_score_crops(&scoring, &crops, &score, err);
    if (s) return s;
    for (int i = 0; i < PA_CLASSES; i++) correct += score.correct[i];
    tokens = pa_score_tokens(&score);
    double loss = pa_score_loss(&score), took = pa_clock() - began;
    t->state.evaluated = t->state.step;
    if (!t->comm.rank)
        s = pa_runlog_eval(&t->log, t->state.step, loss, pa_score_loss_seed(&score), tokens ? (double)correct / (double)tokens : 0, took,
                           err);
    if (s || c->checkpoint.best_by != PA_BEST_BY_EVAL_LOSS || !t->state.step || !(loss < t->state.best)) return s;
    t->state.best = loss, t->state.best_step = t->state.step;
    return save(t, true, err);
}

static pa_status evaluate_or_stop(pa_trainer *t, pa_err *err) {
    pa_status s = evaluate(t, err);
    return s == PA_STOPPED ? PA_OK : s; // the loop sees the signal too
}

// A continuation of the first validation piece's opening, to hear how the run is doing.
static pa_status sample(pa_trainer *t, pa_err *err) {
    enum { length = 1024 };
    const pa_token_piece v = pa_token_set_piece(&t->validation, 0);
    pa_encoding encoding = t->validation.encoding;
    const pa_model *m = &t->config->model;
    uint16_t *out = malloc(((size_t)m->context + length) * sizeof *out);
    pa_note *notes = NULL;
    size_t made = 0, count = 0, primer = (size_t)v.count;
    char path[4096 + 64];
    if (!out) return pa_error(err, PA_FAIL, "no memory for a sample");
    if (primer > (size_t)m->prefix + 1) primer = (size_t)m->prefix + 1;
    memcpy(out, v.token, primer * sizeof *out);
    pa_sampling_options o = pa_sampling_default();
    o.seed = (uint64_t)t->state.step, o.keys = encoding == PA_PERFORMANCE;
    const pa_generation g = {.backend = t->backend,
                             .ctx = t->ctx,
                             .model = m,
                             .options = &o,
                             .primer = v.token,
                             .primer_count = primer,
                             .streams = 1,
                             .length = length,
                             .out = out + primer,
                             .count = &made};
    pa_status s = pa_generate(&g, err);
    if (!s) s = pa_decode(out, primer + made, encoding, &notes, &count, err);
    snprintf(path, sizeof path, "%s/samples/step-%08lld.mid", t->options->run, (long long)t->state.step);
    if (!s) s = pa_midi_write(path, notes, count, err);
    free(notes), free(out);
    return s;
}

// Clocks and signals differ between ranks: rank 0's share of the run that is done holds for all, and a signal to any of them.
static pa_status agree(pa_trainer *t, pa_err *err) {
    double said[] = {t->comm.rank ? 0 : progress(t), stop_signals != 0};
    pa_status s = pa_comm_sum_f64(&t->comm, said, 2, err);
    t->progress = said[0], t->stopping = said[1] > 0;
    return s;
}

static bool due(int64_t step, int64_t every) {
    return every > 0 && step % every == 0;
}

// Until the last checkpoint is on the disk.
static pa_status saved(pa_trainer *t, pa_err *err) {
    return t->saver ? pa_saver_wait(t->saver, err) : PA_OK;
}

// After too many skipped steps. None of them was saved: the newest checkpoint is of the last step that was finite, or before.
static pa_status give_up(pa_trainer *t, pa_err *err) {
    pa_status s = saved(t, err);
    if (s) return s;
    char last[64] = "there is no checkpoint";
    if (t->saved_step >= 0) snprintf(last, sizeof last, "the last checkpoint is step %lld", (long long)t->saved_step);
    return pa_error(err, PA_FAIL, "step %lld: loss or gradient not finite %d times in a row; %s", (long long)t->state.step,
                    t->skips_in_a_row, last);
}

static pa_status loop(pa_trainer *t, pa_err *err) {
    const pa_config *c = t->config;
    pa_status s = PA_OK;
    pa_step_log log = {0};
    bool first = !t->comm.rank, hears = t->has_validation, evaluates = hears && c->log.eval_every;
    const int64_t began = t->state.step;
    if (evaluates && due(t->state.step, c->log.eval_every) && t->state.evaluated != t->state.step && (s = evaluate_or_stop(t, err)))
        return s;
    begin_bar(t);
    while (!(s = agree(t, err)) && t->progress < 1 && !t->stopping) {
        s = train_step(t, &log, err);
        int64_t step = t->state.step;
        bool tells = due(step, c->log.every) || step == 1 || log.skipped || pa_runlog_spike(&log) || pa_clock() > t->spoke + QUIET_S;
        move_bar(t, 0);
        if (s || tells || due(step, c->log.eval_every)) pa_progress_end(&t->bar);
        if (s || (t->saver && (s = pa_saver_check(t->saver, err)))) return s;
        if ((s = pa_runlog_step(&t->log, &log, first && tells, err))) return s;
        if (tells) begin_bar(t);
        if (t->skips_in_a_row >= c->train.max_skips && c->train.max_skips) return give_up(t, err);
        if (hears && due(step, c->log.eval_every) && (s = evaluate_or_stop(t, err))) return s;
        if (first && hears && due(step, c->log.sample_every) && (s = sample(t, err))) return s;
        if (due(step, c->checkpoint.every) && !log.skipped && t->saved_step != step && (s = save(t, false, err))) return s;
    }
    pa_progress_end(&t->bar);
    if (s) return s;
    if (!t->stopping && evaluates && t->state.evaluated != t->state.step && (s = evaluate_or_stop(t, err))) return s;
    if (t->stopping) {
        if (t->saved_step != t->state.step && (s = save(t, false, err))) return s;
        if ((s = saved(t, err))) return s;
        if (first)
            fprintf(stderr, "stopped on request at step %lld, saved; the same command goes on from there\n", (long long)t->state.step);
        return PA_STOPPED;
    }
    if (t->saved_step != t->state.step && (s = save(t, false, err))) return s;
    if ((s = saved(t, err)) || !first) return s;
    if (t->state.step > began)
        fprintf(stderr, "finished at step %lld, loss %.4f: %s\n", (long long)t->state.step, log.loss, t->options->run);
    else
        fprintf(stderr, "finished before, at step %lld; more train.steps, train.epochs or train.minutes go on\n", (long long)t->state.step);
    return s;
}

static pa_status dry_step(pa_trainer *t, pa_err *err) {
    pa_step_log log = {0};
    pa_status s = agree(t, err);
    if (!s) s = train_step(t, &log, err);
    if (!s) s = pa_runlog_step(&t->log, &log, !t->comm.rank, err);
    if (!s && !t->comm.rank) fprintf(stderr, "dry run: one step of %.2f s done, nothing written\n", log.seconds);
    return s;
}

pa_status pa_train(const pa_config *config, const pa_train_options *options, pa_err *err) {
    pa_trainer t;
    signal(SIGHUP, SIG_IGN), signal(SIGPIPE, SIG_IGN); // a terminal, or a pipe of messages, that is gone ends no run
    pa_status s = pa_trainer_open(&t, config, options, err);
    bool first = !t.comm.rank;
    if (!s && !t.ctx) {
        if (first) fprintf(stderr, "dry run: %s; no step was run, nothing written\n", t.absent.text);
    } else if (!s) {
        catch_signals(first);
        s = options->dry_run ? dry_step(&t, err) : loop(&t, err);
    }
    pa_trainer_close(&t);
    return s;
}
