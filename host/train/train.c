// train.c: see train.h. Knows nothing of devices. Speed and interruptions never change what a run computes.
#include "host/train/train.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/files/mapping.h"
#include "host/play/score.h"
#include "host/train/average.h"
#include "host/train/run_dir.h"
#include "host/train/same_ranks.h"
#include "host/train/sample.h"
#include "host/train/step.h"
#include "host/train/stop.h"

enum { QUIET_S = 60 }; // seconds after which a step prints its line whatever log.every

static bool due(int64_t step, int64_t every) {
    return every > 0 && step % every == 0;
}

// The bar covers the steps until the next line.
static void begin_bar(pa_trainer *t) {
    const pa_config *c = t->run.config;
    int64_t step = t->state.step, next = c->log.every ? (step / c->log.every + 1) * c->log.every : c->train.steps;
    if (c->train.steps && next > c->train.steps) next = c->train.steps;
    pa_progress_start(&t->bar, "training", "steps", (double)(next > step ? next - step : 0));
    t->bar_began = step;
    t->last_line = pa_clock();
}

// ---- checkpoints

// If somebody moved the run directory together with its lock, the run continues to save there. A save that the move
// has disturbed is made again.
static void follow_directory(pa_trainer *t) {
    if (!pa_lock_check(t->lock, NULL) || *t->moved) return;
    if (t->saver) pa_saver_wait(t->saver, NULL); // it reads both
    if (!pa_lock_follow(t->lock, t->moved, sizeof t->moved)) return;
    t->run.dir = t->moved;
    if (t->saver) pa_saver_forget(t->saver);
}

// Whether this rank can save without the others.
static bool saves_alone(const pa_trainer *t) {
    return !t->run.config->train.zero || t->comm->size == 1;
}

// A step whose loss is not finite is not saved: exit 0, `latest` and `best` promise a usable model.
static pa_status write_checkpoint(pa_trainer *t, bool best, pa_err *err) {
    if (t->bad_loss) return PA_OK;
    follow_directory(t);
    t->saved_step = t->state.step;
    t->state.seconds = pa_clock() - t->started;
    if (!t->is_root) return t->run.config->train.zero ? pa_saver_lend(&t->run, err) : PA_OK;
    pa_runlog_sync(&t->log);
    pa_status s = pa_saver_save(t->saver, &t->state, best, err);
    if (!s || *t->moved || !saves_alone(t)) return s;
    follow_directory(t); // s may be of the save before, which a move has disturbed
    return *t->moved ? pa_saver_save(t->saver, &t->state, best, err) : s;
}

static pa_status save(pa_trainer *t, bool best, pa_err *err) {
    if (t->options->no_save) return PA_OK;
    pa_status s = pa_same_weights(t, err);
    return s ? s : write_checkpoint(t, best, err);
}

// Saves the last step unless that is done, and waits until it is on disk. compares: with the other ranks, which call it
// too.
static pa_status save_last(pa_trainer *t, bool compares, pa_err *err) {
    if (t->options->no_save) return PA_OK;
    pa_status s = t->saved_step == t->state.step ? PA_OK
                  : compares                     ? save(t, false, err)
                                                 : write_checkpoint(t, false, err);
    if (!s && t->saver) s = pa_saver_wait(t->saver, err);
    if (!s || !t->saver || *t->moved || !saves_alone(t)) return s;
    follow_directory(t);
    if (!*t->moved || (s = write_checkpoint(t, false, err))) return s;
    return pa_saver_wait(t->saver, err);
}

// Ends a run whose directory was moved: its user may think of it as finished, and begin another at the old path.
static pa_status check_directory(pa_trainer *t, pa_err *err) {
    pa_status s = t->saver ? pa_saver_check(t->saver, err) : PA_OK;
    follow_directory(t);
    if (*t->moved && saves_alone(t))
        s = save_last(t, false, err);
    else if (!s)
        s = pa_lock_check(t->lock, err);
    if (s || !*t->moved) return s;
    return pa_error(err, PA_FAIL, "%s was moved to %s during this run; step %lld is saved there", t->options->run_dir,
                    t->moved, (long long)t->saved_step);
}

static void print_stopped(const pa_trainer *t, bool dropped) {
    if (dropped)
        fprintf(t->out, "step %lld took longer than train.grace, %d s, and was dropped\n", (long long)t->state.step + 1,
                t->run.config->train.grace);
    fprintf(t->out, "stopped on request at step %lld, ", (long long)t->state.step);
    if (t->options->no_save)
        fputs("not saved (--no-save)\n", t->out);
    else if (!t->bad_loss)
        fputs("saved; the same command resumes from there\n", t->out);
    else if (t->saved_step < 0)
        fputs("not saved: its loss is not finite\n", t->out);
    else
        fprintf(t->out, "not saved: its loss is not finite; the same command resumes from step %lld\n",
                (long long)t->saved_step);
}

static void print_finished(const pa_trainer *t, const pa_step_log *log) {
    fprintf(t->out, "finished at step %lld", (long long)t->state.step);
    if (log->tokens_per_s > 0) fprintf(t->out, ", loss %.4f", log->loss);
    fprintf(t->out, ": %s\n", t->run.dir);
}

// Ends the process in the middle of a step, from the thread of stop.c. Weights and moments in memory are still those of
// the last finished step. The training thread can't be interrupted, so nothing that it uses is freed.
static void drop_step(void *trainer) {
    pa_trainer *t = trainer;
    pa_err err;
    pa_status s = save_last(t, false, &err);
    if (s)
        fprintf(t->out, "patrain: %s\n", err.text);
    else
        print_stopped(t, true);
    pa_runlog_close(&t->log);
    pa_lock_release(t->lock);
    _exit(s ? (int)s : PA_STOPPED);
}

// The other ranks: the root will end the run.
static void expect_drop(void *trainer) {
    pa_trainer *t = trainer;
    pa_comm_expect_end(t->comm, PA_STOPPED);
}

// Only a CPU's memory can be read while a step computes, and the root has all of it unless moments are shared out.
static bool can_drop(const pa_trainer *t) {
    return !t->run.backend->own_transport && !(t->run.config->train.zero && t->comm->size > 1);
}

// ---- evaluation

static pa_status predict(void *arg, const patrain_windows *w, pa_err *err) {
    const pa_trainer *t = arg;
    double sum;
    const uint16_t input = pa_greatest(w->input, (size_t)w->batch * (size_t)w->length);
    const uint16_t target = pa_greatest(w->target, (size_t)w->batch * (size_t)w->latents),
                   greatest = input > target ? input : target;
    if (greatest >= PA_VOCAB)
        return pa_error(err, PA_DATA, "%s was changed while it was open: expected token ids below %d, found %d",
                        t->run.config->data.validation, PA_VOCAB, greatest);
    pa_batch b = {
        .batch = w->batch, .length = w->length, .latents = w->latents, .input = w->input, .target = w->target};
    b.kept = w->length - w->latents;
    return t->run.backend->loss(t->run.ctx, &b, &sum,
                                &(pa_scores){.nats = w->nats, .best = w->best, .logits = w->logits}, err);
}

// Scores one crop of each validation piece, always the same ones.
static pa_status score_weights(pa_trainer *t, pa_score *score, pa_err *err) {
    const pa_config *c = t->run.config;
    const pa_scoring scoring = {.predict = predict,
                                .arg = t,
                                .context = c->model.context,
                                .prefix = c->model.prefix,
                                .vocab = c->model.vocab,
                                .tokens = &t->validation,
                                .pieces = c->log.eval_pieces,
                                .batch = t->micro_batch};
    const pa_crops crops = {
        .seed = (uint64_t)c->train.seed, .seed_too = true, .comm = t->comm, .stop = pa_stop_requested()};
    pa_status s = pa_score_crops(&scoring, &crops, score, err);
    return s ? s : pa_share_lost(t->comm, pa_token_set_check(&t->validation, false, err), err);
}

static pa_status score_average(pa_trainer *t, pa_score *score, pa_err *err) {
    pa_status s = pa_average_swap(&t->run, err);
    if (s) return s;
    pa_status scored = score_weights(t, score, err);
    if (scored && scored != PA_STOPPED && scored != PA_DATA) return scored;
    s = pa_average_swap(&t->run, err);
    return s ? s : scored;
}

// Scores the weights and their average, and saves if what a checkpoint holds as the model is the best so far. A signal
// ends it without a result; the resumed run repeats it.
static pa_status evaluate(pa_trainer *t, pa_err *err) {
    const pa_config *c = t->run.config;
    double began = pa_clock();
    int64_t correct = 0;
    pa_score score, average;
    pa_status s = score_weights(t, &score, err);
    if (!s && t->run.average) s = score_average(t, &average, err);
    if (s) return s == PA_STOPPED ? PA_OK : s; // the loop sees the signal too
    for (int i = 0; i < PA_CLASSES; i++) correct += score.correct[i];
    int64_t tokens = pa_score_tokens(&score);
    double loss = pa_score_loss(t->run.average ? &average : &score); // of what a checkpoint holds as the model
    t->state.evaluated = t->state.step;
    const pa_eval_log log = {.step = t->state.step,
                             .loss = pa_score_loss(&score),
                             .averages = t->run.average,
                             .loss_ema = loss,
                             .loss_seed = pa_score_loss_seed(&score),
                             .accuracy = tokens ? (double)correct / (double)tokens : 0,
                             .seconds = pa_clock() - began};
    if (t->is_root) pa_runlog_eval(&t->log, &log);
    if (c->checkpoint.best_by != PA_BEST_BY_EVAL_LOSS || !t->state.step || !(loss < t->state.best) || t->bad_loss)
        return PA_OK;
    t->state.best = loss;
    t->state.best_step = t->state.step;
    return save(t, true, err);
}

// The run was killed between a checkpoint and its sample.
static bool lacks_sample(const pa_trainer *t) {
    return t->is_root && t->has_validation && t->state.step && due(t->state.step, t->run.config->log.sample_every) &&
           !pa_sample_exists(t);
}

// ---- the loop

static int64_t epoch_of(const pa_trainer *t) {
    return t->state.step * t->run.config->train.global_batch / t->sampler.epoch_windows;
}

// Token files as they were opened, which read them whole; again once an epoch.
static pa_status check_tokens(pa_trainer *t, pa_err *err) {
    int64_t epoch = epoch_of(t);
    bool whole = epoch != t->verified;
    t->verified = epoch;
    pa_status s = pa_token_set_check(&t->train, whole, err);
    return s ? s : pa_token_set_check(&t->validation, whole, err);
}

// Clocks, signals and files differ between ranks: all use the root's progress, and stop if any got a signal or lost a
// file.
static pa_status agree(pa_trainer *t, pa_err *err) {
    pa_err why;
    pa_status s, lost = check_tokens(t, err) ? PA_DATA : PA_OK; // what is sound is saved, whatever is wrong with them
    double shared[] = {t->is_root ? pa_train_progress(t) : 0, *pa_stop_requested() != 0, lost != PA_OK};
    if ((s = pa_comm_sum_f64(t->comm, shared, 3, &why))) return pa_error(err, s, "%s", why.text);
    t->progress = shared[0];
    t->stopping = shared[1] > 0;
    return shared[2] > 0 ? pa_comm_first_error(t->comm, lost, err) : PA_OK;
}

// err holds the reason to stop; weights and moments are those of the last step.
static pa_status save_and_end(pa_trainer *t, pa_status s, pa_err *err) {
    pa_err why;
    if (!t->state.step || t->options->no_save) return s;
    if (save_last(t, true, &why))
        return pa_error(err, s, "%s; step %lld could not be saved: %s", err->text, (long long)t->state.step, why.text);
    return pa_error(err, s, "%s; the run is saved at step %lld", err->text, (long long)t->state.step);
}

// Skipped steps are never saved, so the newest checkpoint is finite.
static pa_status give_up(pa_trainer *t, pa_err *err) {
    pa_status s = t->saver ? pa_saver_wait(t->saver, err) : PA_OK;
    if (s) return s;
    char last[64] = "there is no checkpoint";
    if (t->saved_step >= 0) snprintf(last, sizeof last, "the last checkpoint is step %lld", (long long)t->saved_step);
    return pa_error(err, PA_FAIL, "step %lld: loss or gradient not finite %d times in a row; %s",
                    (long long)t->state.step, t->skips_in_a_row, last);
}

// What follows a step: log, evaluation, sample, checkpoint, as they are due.
static pa_status after_step(pa_trainer *t, const pa_step_log *log, pa_err *err) {
    const pa_config *c = t->run.config;
    int64_t step = t->state.step;
    bool shows = due(step, c->log.every) || step == 1 || log->skipped || pa_runlog_spike(log) ||
                 pa_clock() > t->last_line + QUIET_S;
    pa_status s = check_directory(t, err);
    pa_train_move_bar(t, 0);
    if (s || shows || due(step, c->log.eval_every)) pa_progress_end(&t->bar);
    if (s) return s;
    pa_runlog_step(&t->log, log, t->is_root && shows);
    if (shows) begin_bar(t);
    if (c->train.max_skips && t->skips_in_a_row >= c->train.max_skips) return give_up(t, err);
    if (t->has_validation && due(step, c->log.eval_every) && (s = evaluate(t, err))) return s;
    if (due(step, c->checkpoint.every) && !log->skipped && t->saved_step != step && (s = save(t, false, err))) return s;
    if (due(step, PA_COMPARE_EVERY) && t->saved_step != step && (s = pa_same_weights(t, err))) return s;
    return t->is_root && t->has_validation && due(step, c->log.sample_every) ? pa_sample_write(t, err) : PA_OK;
}

static pa_status run_steps(pa_trainer *t, pa_err *err) {
    const pa_config *c = t->run.config;
    bool evaluates = t->has_validation && c->log.eval_every, dropped = false;
    const int64_t began = t->state.step;
    pa_step_log log = {0};
    pa_status s = PA_OK;
    if (evaluates && due(t->state.step, c->log.eval_every) && t->state.evaluated != t->state.step &&
        (s = evaluate(t, err)))
        return s;
    if (lacks_sample(t) && (s = pa_sample_write(t, err))) return s;
    t->verified = epoch_of(t);
    begin_bar(t);
    while (!dropped && !(s = agree(t, err)) && t->progress < 1 && !t->stopping) {
        s = pa_train_step(t, &log, err);
        dropped = s == PA_STOPPED;
        if (!s) s = after_step(t, &log, err);
        if (s && !dropped) break;
    }
    pa_progress_end(&t->bar);
    if (s == PA_DATA) return save_and_end(t, s, err);
    if (s && !dropped) return s;
    bool stopped = t->stopping || dropped;
    if (!stopped && t->bad_loss) return give_up(t, err);
    if (!stopped && evaluates && t->state.evaluated != t->state.step && (s = evaluate(t, err)))
        return s == PA_DATA ? save_and_end(t, s, err) : s;
    if ((s = save_last(t, true, err))) return s;
    if (!t->is_root) return stopped ? PA_STOPPED : PA_OK;
    if (stopped) {
        print_stopped(t, dropped);
        return PA_STOPPED;
    }
    if (t->state.step > began)
        print_finished(t, &log);
    else
        fprintf(t->out, "already finished at step %lld; raise train.steps, train.epochs or train.minutes to continue\n",
                (long long)t->state.step);
    return PA_OK;
}

// Flop of a window with so many latents.
static double work(const pa_trainer *t, int latents) {
    pa_flops f = pa_count_flops(&t->run.config->model, 1, t->kept, latents);
    return f.linear_forward + f.linear_backward + f.attention_forward + f.attention_backward;
}

static pa_status dry_run(pa_trainer *t, pa_err *err) {
    const pa_config *c = t->run.config;
    pa_step_log log = {0};
    pa_status s = PA_OK;
    if (!t->run.ctx) {
        if (t->is_root) fprintf(t->out, "dry run: %s; no step was run, nothing written\n", t->absent.text);
        return PA_OK;
    }
    if (!(s = agree(t, err))) s = pa_train_step(t, &log, err);
    if (s) return s;
    int latents = pa_latents(&c->model),
        windows = (c->train.global_batch + t->comm->size - 1) / t->comm->size; // of a rank
    double seconds = log.seconds * work(t, latents) / work(t, t->latents);
    log.eta *= seconds * windows / log.seconds;
    pa_runlog_step(&t->log, &log, t->is_root);
    if (!t->is_root) return PA_OK;
    if (t->latents < latents)
        fprintf(t->out, "dry run: %d of the %d latents of a window took %.2f s, so all take about %.1f s", t->latents,
                latents, log.seconds, seconds);
    else
        fprintf(t->out, "dry run: one window took %.2f s", seconds);
    fprintf(t->out, ", and a step of %d at most about %.1f s; nothing written\n", windows, seconds * windows);
    return PA_OK;
}

// A rank that loses the root because it dropped the step has stopped too.
static pa_status run(pa_trainer *t, pa_err *err) {
    pa_stop_options stop = {.grace = t->run.config->train.grace, .prints = t->is_root, .context = t};
    if (can_drop(t)) stop.drop = t->is_root ? drop_step : expect_drop;
    pa_status s = pa_stop_begin(&stop, err);
    if (s) return s;
    s = run_steps(t, err);
    bool left_behind = s == PA_FAIL && !t->is_root && pa_stop_grace_over();
    pa_stop_end();
    return left_behind ? PA_STOPPED : s;
}

pa_status pa_train(const pa_config *config, const pa_train_options *options, pa_err *err) {
    pa_trainer t;
    pa_mapping_guard();
    signal(SIGHUP, SIG_IGN); // a run survives its terminal
    signal(SIGPIPE, SIG_IGN);
    pa_status s = pa_trainer_open(&t, config, options, err);
    if (!s) s = options->dry_run ? dry_run(&t, err) : run(&t, err);
    if (s && s != PA_STOPPED && t.tee) {
        char line[sizeof err->text + 16];
        snprintf(line, sizeof line, "patrain: %s", err->text);
        pa_tee_note(t.tee, line);
    }
    pa_trainer_close(&t);
    return s;
}
