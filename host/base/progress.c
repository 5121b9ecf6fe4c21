// progress.c: see progress.h.
#include "host/base/progress.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { PROGRESS_MS = 100, PLAIN_S = 10, QUIET_S = 1, BAR = 24 };

void pa_progress_start(pa_progress *p, const char *what, const char *unit, double total) {
    double now = pa_clock();
    *p = (pa_progress){what, unit, total,
                       now,  0,    isatty(STDERR_FILENO) && !(getenv("TERM") && !strcmp(getenv("TERM"), "dumb"))};
}

static int digits_after_point(double x) {
    return x < 10 ? 2 : x < 1000 ? 1 : 0;
}

static void format_duration(char *out, size_t size, double seconds) {
    long s = seconds < 1e9 ? (long)(seconds + 0.5) : 1000000000;
    if (s >= 3600)
        snprintf(out, size, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(out, size, "%ld:%02ld", s / 60, s % 60);
}

// "what  [#####.......]  40 %  2 of 5 files  0.50 files/s  0:06 left"; without a total, the count and the rate.
static void format_progress(const pa_progress *p, double done, double elapsed, bool bar, char *out, size_t size) {
    double rate = elapsed > 0 ? done / elapsed : 0;
    size_t n = (size_t)snprintf(out, size, "%s  ", p->what);
    if (p->total > 0) {
        double share = done < p->total ? done / p->total : 1;
        char left[32] = "?", marks[BAR + 1];
        int filled = (int)(share * BAR);
        if (rate > 0) format_duration(left, sizeof left, done < p->total ? (p->total - done) / rate : 0);
        for (int i = 0; i < BAR; i++) marks[i] = i < filled ? '#' : '.';
        marks[BAR] = 0;
        if (bar && n < size) n += (size_t)snprintf(out + n, size - n, "[%s]  ", marks);
        if (n < size)
            snprintf(out + n, size - n, "%.0f %%  %.0f of %.0f %s  %.*f %s/s  %s left", 100 * share, done, p->total,
                     p->unit, digits_after_point(rate), rate, p->unit, left);
    } else if (n < size) {
        snprintf(out + n, size - n, "%.0f %s  %.*f %s/s", done, p->unit, digits_after_point(rate), rate, p->unit);
    }
}

void pa_progress_update(pa_progress *p, double done) {
    double now = pa_clock(), elapsed = now - p->started;
    double since = p->shown > 0 ? now - p->shown : elapsed;
    char line[256];
    if (p->terminal) {
        if (p->shown > 0 ? since < 1e-3 * PROGRESS_MS : since < QUIET_S) return;
        struct winsize w;
        int columns = !ioctl(STDERR_FILENO, TIOCGWINSZ, &w) && w.ws_col > 1 ? w.ws_col - 1 : 79;
        format_progress(p, done, elapsed, columns >= 90, line, sizeof line);
        fflush(stderr);
        dprintf(STDERR_FILENO, "\r\033[K%.*s", columns, line);
    } else {
        if (since < PLAIN_S) return;
        format_progress(p, done, elapsed, false, line, sizeof line);
        fprintf(stderr, "%s\n", line);
    }
    p->shown = now;
}

void pa_progress_end(pa_progress *p) {
    if (p->terminal && p->shown > 0) {
        fflush(stderr);
        dprintf(STDERR_FILENO, "\r\033[K");
    }
    p->shown = 0;
}
