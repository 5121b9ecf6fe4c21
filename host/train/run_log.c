// run_log.c: see run_log.h.
#include "host/train/run_log.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "host/base/file.h"
#include "host/train/tensorboard.h"

// Rewrites metrics.jsonl with the steps up to `last` and the evaluations up to `evaluated`. A line that a crash has torn ends the file.
static pa_status cut_metrics(const char *path, int64_t last, int64_t evaluated, pa_err *err) {
    char *text;
    size_t length;
    pa_file f;
    if (access(path, F_OK)) return PA_OK;
    pa_status s = pa_read_text(path, &text, &length, err);
    if (s) return s;
    if (!(s = pa_file_create(&f, path, err))) {
        for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
            const char *step = strstr(line, "\"step\":"), *eval = strstr(line, "\"eval_loss\":");
            if (step && step < end && atoll(step + 7) <= (eval && eval < end ? evaluated : last))
                fwrite(line, 1, (size_t)(end - line) + 1, f.stream);
        }
        s = pa_file_commit(&f, err);
    }
    free(text);
    return s;
}

pa_status pa_runlog_open(pa_runlog *l, const char *run, int64_t resumed, int64_t evaluated, pa_err *err) {
    char path[4096 + 64];
    snprintf(path, sizeof path, "%s/metrics.jsonl", run);
    pa_status s = cut_metrics(path, resumed, evaluated, err);
    if (s) return s;
    if (!(l->metrics = fopen(path, "a"))) return pa_error(err, PA_FAIL, "cannot write %s: %s", path, strerror(errno));
    if (!(l->events = pa_tensorboard_open(run, resumed + 1, err))) {
        pa_runlog_close(l);
        return PA_FAIL;
    }
    return PA_OK;
}

void pa_runlog_close(pa_runlog *l) {
    if (l->metrics) fclose(l->metrics);
    if (l->events) fclose(l->events);
    l->metrics = l->events = NULL;
}

void pa_time_text(char out[static 32]) {
    struct timespec now;
    struct tm utc;
    char seconds[24];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(seconds, sizeof seconds, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(out, 32, "%s.%03dZ", seconds, (int)(now.tv_nsec / 1000000));
}

// Writes the fewest digits that read back as v, so that two runs can be compared to the bit. JSON has no NaN or infinity.
static void put_number(FILE *f, const char *key, double v) {
    char text[40] = "null";
    for (int digits = 6; isfinite(v) && digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    fprintf(f, ",\"%s\":%s", key, text);
}

static pa_status end_object(FILE *f, pa_err *err) {
    char time[32];
    pa_time_text(time);
    fprintf(f, ",\"time\":\"%s\"}\n", time);
    return fflush(f) || ferror(f) ? pa_error(err, PA_FAIL, "cannot write metrics.jsonl: %s", strerror(errno)) : PA_OK;
}

static void show_eta(FILE *out, double seconds) {
    if (!(seconds < 1e9)) return; // NAN too
    long s = (long)seconds;
    if (s < 86400)
        fprintf(out, "  left %ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else
        fprintf(out, "  left %ld d %ld h", s / 86400, s / 3600 % 24);
}

static void show_step(FILE *out, const pa_step_log *s) {
    fprintf(out, "step %lld  epoch %.2f  ", (long long)s->step, s->epoch);
    if (s->tokens_per_s == 0)
        fputs("nothing to score: no window reaches beyond model.prefix", out);
    else
        fprintf(out, "loss %.4f  lr %.3g  norm %.3g  %.0f tokens/s", s->loss, s->lr, s->grad_norm, s->tokens_per_s);
    if (isfinite(s->mfu)) fprintf(out, "  %.1f%% of measured peak", 100 * s->mfu);
    fprintf(out, "  %.2f GB", (double)s->memory / 1e9);
    show_eta(out, s->eta);
    if (s->skipped) fputs("  (skipped: not finite)", out);
    if (s->loss > s->loss_bound) fprintf(out, "  (spike: loss above %.4f)", s->loss_bound);
    if (s->grad_norm > s->norm_bound) fprintf(out, "  (spike: norm above %.3g)", s->norm_bound);
    fputc('\n', out);
}

bool pa_runlog_spike(const pa_step_log *s) {
    return !s->skipped && (s->loss > s->loss_bound || s->grad_norm > s->norm_bound);
}

pa_status pa_runlog_step(pa_runlog *l, const pa_step_log *s, bool show, pa_err *err) {
    if (show) show_step(l->out, s);
    if (l->events && show) {
        if (s->tokens_per_s > 0) pa_tensorboard_scalar(l->events, s->step, "train/loss", (float)s->loss);
        pa_tensorboard_scalar(l->events, s->step, "train/lr", (float)s->lr);
        pa_tensorboard_scalar(l->events, s->step, "train/grad_norm", (float)s->grad_norm);
        pa_tensorboard_scalar(l->events, s->step, "train/tokens_per_s", (float)s->tokens_per_s);
    }
    if (!l->metrics) return PA_OK;
    FILE *f = l->metrics;
    fprintf(f, "{\"step\":%lld", (long long)s->step);
    put_number(f, "epoch", s->epoch);
    put_number(f, "loss", s->loss);
    put_number(f, "lr", s->lr);
    put_number(f, "grad_norm", s->grad_norm);
    put_number(f, "tokens_per_s", s->tokens_per_s);
    put_number(f, "mfu", s->mfu);
    put_number(f, "seconds", s->seconds);
    if (s->ranks > 1) {
        put_number(f, "sent_bytes", (double)s->sent);
        put_number(f, "waited", s->waited);
    }
    if (s->skipped) fputs(",\"skipped\":true", f);
    if (pa_runlog_spike(s))
        fprintf(f, ",\"spike\":\"%s\",\"spikes\":%lld", s->loss > s->loss_bound ? "loss" : "grad_norm", (long long)s->spikes);
    return end_object(f, err);
}

pa_status pa_runlog_eval(pa_runlog *l, const pa_eval_log *e, pa_err *err) {
    fprintf(l->out, "step %lld  evaluation: %.4f nats a token, ", (long long)e->step, e->loss);
    if (e->averages) fprintf(l->out, "%.4f by the average, ", e->loss_ema);
    fprintf(l->out, "accuracy %.1f%%, %.1f s\n", 100 * e->accuracy, e->seconds);
    if (l->events) pa_tensorboard_scalar(l->events, e->step, "eval/loss", (float)e->loss);
    if (l->events && e->averages) pa_tensorboard_scalar(l->events, e->step, "eval/loss_ema", (float)e->loss_ema);
    if (!l->metrics) return PA_OK;
    fprintf(l->metrics, "{\"step\":%lld", (long long)e->step);
    put_number(l->metrics, "eval_loss", e->loss);
    if (e->averages) put_number(l->metrics, "eval_loss_ema", e->loss_ema);
    put_number(l->metrics, "eval_loss_seed", e->loss_seed);
    put_number(l->metrics, "eval_accuracy", e->accuracy);
    put_number(l->metrics, "eval_seconds", e->seconds);
    return end_object(l->metrics, err);
}
