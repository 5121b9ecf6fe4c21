// run_log.c: see run_log.h.
#include "host/train/run_log.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "host/base/file.h"
#include "host/train/tensorboard.h"

enum { BLOCK = 1 << 16 }; // no line is longer

static int64_t number_after(const char *line, const char *key) {
    const char *found = strstr(line, key);
    return found ? atoll(found + strlen(key)) : -1;
}

// The end of the last whole line of a block that is kept; -1 if none is. *step: its step. text is NUL-terminated.
static ssize_t last_kept(char *text, int64_t resumed, int64_t evaluated, int64_t *step) {
    ssize_t kept = -1;
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        int64_t own = number_after(line, "\"step\":");
        if (own >= 0 && own <= (strstr(line, "\"eval_loss\":") ? evaluated : resumed)) {
            kept = end + 1 - text;
            *step = own;
        }
    }
    return kept;
}

// Finds from the end how much of metrics.jsonl stays: lines are in the order of their steps, an evaluation behind its
// step. A line that a crash has torn is not whole.
static pa_status find_end(int fd, off_t size, int64_t resumed, int64_t evaluated, off_t *stays, int64_t *step) {
    char *text = malloc(2 * BLOCK + 1);
    if (!text) return PA_FAIL;
    pa_status s = PA_OK;
    *stays = 0;
    *step = 0;
    for (off_t end = resumed < 0 ? 0 : size, begin; end > 0 && !*stays; end = begin) {
        begin = end > BLOCK ? end - BLOCK : 0;
        off_t most = size - begin < 2 * BLOCK ? size - begin : 2 * BLOCK; // with the rest of a line that begins here
        ssize_t got = pread(fd, text, (size_t)most, begin);
        if (got < 0) {
            s = PA_FAIL;
            break;
        }
        text[got] = 0;
        for (char *p = text; (p = memchr(p, 0, (size_t)(text + got - p)));)
            *p = ' '; // which a disk that lost power may leave
        char *from = begin ? strchr(text, '\n') : text - 1;
        ssize_t kept = from ? last_kept(from + 1, resumed, evaluated, step) : -1;
        if (kept >= 0) *stays = begin + (from + 1 - text) + kept;
    }
    free(text);
    return s;
}

static pa_status open_metrics(pa_runlog *l, const char *path, int64_t resumed, int64_t evaluated, pa_err *err) {
    struct stat info;
    off_t stays;
    int64_t step;
    l->metrics = pa_open_regular(path, O_RDWR | O_APPEND | O_CREAT, err);
    if (l->metrics < 0) return PA_FAIL;
    l->opened = true;
    if (fstat(l->metrics, &info) || find_end(l->metrics, info.st_size, resumed, evaluated, &stays, &step) ||
        (stays < info.st_size && ftruncate(l->metrics, stays)))
        return pa_error(err, PA_FAIL, "cannot read and shorten %s: %s", path, strerror(errno));
    if (resumed > step)
        fprintf(l->out, "warning: %s lacks steps %lld to %lld\n", path, (long long)step + 1, (long long)resumed);
    return PA_OK;
}

pa_status pa_runlog_open(pa_runlog *l, const char *run, int64_t resumed, int64_t evaluated, pa_err *err) {
    char path[4096 + 64];
    pa_err why;
    snprintf(path, sizeof path, "%s/metrics.jsonl", run);
    pa_status s = open_metrics(l, path, resumed, evaluated, err);
    if (s) pa_runlog_close(l);
    if (!s && !(l->events = pa_tensorboard_open(run, resumed + 1, &why)))
        fprintf(l->out, "warning: no TensorBoard events: %s\n", why.text);
    return s;
}

void pa_runlog_close(pa_runlog *l) {
    if (l->opened) close(l->metrics);
    if (l->events) fclose(l->events);
    l->opened = false;
    l->events = NULL;
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

// Writes the fewest digits that read back as v, so that two runs can be compared to the bit. JSON has no NaN or
// infinity.
static void put_number(FILE *f, const char *key, double v) {
    char text[40] = "null";
    for (int digits = 6; isfinite(v) && digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    fprintf(f, ",\"%s\":%s", key, text);
}

static void warn(pa_runlog *l, const char *what) {
    if (!l->warned)
        fprintf(l->out, "warning: cannot %s metrics.jsonl: %s; training continues\n", what, strerror(errno));
    l->warned = true;
}

typedef struct {
    FILE *stream;
    char text[1024];
} object;

// An object of one line, written by one call.
static bool begin_object(object *o, int64_t step) {
    o->stream = fmemopen(o->text, sizeof o->text, "w");
    if (o->stream) fprintf(o->stream, "{\"step\":%lld", (long long)step);
    return o->stream;
}

static void end_object(pa_runlog *l, object *o) {
    char time[32];
    pa_time_text(time);
    fprintf(o->stream, ",\"time\":\"%s\"}\n", time);
    fclose(o->stream);
    size_t length = strlen(o->text);
    if (l->torn && write(l->metrics, "\n", 1) == 1) l->torn = false;
    errno = ENOSPC; // of a write that is cut short
    ssize_t put = l->torn ? -1 : write(l->metrics, o->text, length);
    if (put == (ssize_t)length) return;
    if (put > 0) l->torn = true;
    warn(l, "write");
}

void pa_runlog_sync(pa_runlog *l) {
    if (l->opened && fsync(l->metrics) && errno != EINVAL && errno != ENOTSUP) warn(l, "sync");
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

void pa_runlog_step(pa_runlog *l, const pa_step_log *s, bool show) {
    if (show) show_step(l->out, s);
    if (l->events && show) {
        if (s->tokens_per_s > 0) pa_tensorboard_scalar(l->events, s->step, "train/loss", (float)s->loss);
        pa_tensorboard_scalar(l->events, s->step, "train/lr", (float)s->lr);
        pa_tensorboard_scalar(l->events, s->step, "train/grad_norm", (float)s->grad_norm);
        pa_tensorboard_scalar(l->events, s->step, "train/tokens_per_s", (float)s->tokens_per_s);
    }
    object o;
    if (!l->opened || !begin_object(&o, s->step)) return;
    FILE *f = o.stream;
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
        fprintf(f, ",\"spike\":\"%s\",\"spikes\":%lld", s->loss > s->loss_bound ? "loss" : "grad_norm",
                (long long)s->spikes);
    end_object(l, &o);
}

void pa_runlog_eval(pa_runlog *l, const pa_eval_log *e) {
    fprintf(l->out, "step %lld  evaluation: %.4f nats a token, ", (long long)e->step, e->loss);
    if (e->averages) fprintf(l->out, "%.4f by the average, ", e->loss_ema);
    fprintf(l->out, "accuracy %.1f%%, %.1f s\n", 100 * e->accuracy, e->seconds);
    if (l->events) pa_tensorboard_scalar(l->events, e->step, "eval/loss", (float)e->loss);
    if (l->events && e->averages) pa_tensorboard_scalar(l->events, e->step, "eval/loss_ema", (float)e->loss_ema);
    object o;
    if (!l->opened || !begin_object(&o, e->step)) return;
    put_number(o.stream, "eval_loss", e->loss);
    if (e->averages) put_number(o.stream, "eval_loss_ema", e->loss_ema);
    put_number(o.stream, "eval_loss_seed", e->loss_seed);
    put_number(o.stream, "eval_accuracy", e->accuracy);
    put_number(o.stream, "eval_seconds", e->seconds);
    end_object(l, &o);
}
