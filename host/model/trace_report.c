// trace_report.c: see trace_report.h.
#include "host/model/trace_report.h"

#include <stdlib.h>
#include <string.h>

#include "host/base/file.h"

// Calls of one operation and shape.
typedef struct {
    const pa_trace_call *of;
    int count;
    double seconds, flop, bytes;
} row;

static pa_status create(pa_file *file, const char *name, const char *what, const char *ending, pa_err *err) {
    char path[4096];
    if (snprintf(path, sizeof path, "%s-%s.%s", name, what, ending) >= (int)sizeof path)
        return pa_error(err, PA_USAGE, "PATRAIN_TRACE: the name is longer than %d bytes", (int)sizeof path - 16);
    return pa_file_create(file, path, err);
}

// Row 0 is the device. On the CPU a call returns when it is done, so that the host's row would be the same.
static pa_status write_events(const char *name, const char *device, const char *what, const pa_trace_call *call,
                              int calls, pa_err *err) {
    pa_file file;
    pa_status s = create(&file, name, what, "json", err);
    if (s) return s;
    FILE *out = file.stream;
    const bool host = strcmp(device, "cpu");
    fprintf(out, "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n");
    fprintf(out, "{\"name\": \"thread_name\", \"ph\": \"M\", \"pid\": 0, \"tid\": 0, \"args\": {\"name\": \"%s\"}}",
            device);
    if (host)
        fprintf(out, ",\n{\"name\": \"thread_name\", \"ph\": \"M\", \"pid\": 0, \"tid\": 1, \"args\": {\"name\": "
                     "\"host\"}}");
    for (int i = 0; i < calls; i++) {
        const pa_trace_call *c = &call[i];
        const double from = i ? call[i - 1].done : 0;
        fprintf(out,
                ",\n{\"name\": \"%s\", \"ph\": \"X\", \"pid\": 0, \"tid\": 0, \"ts\": %.3f, \"dur\": %.3f, \"args\": "
                "{\"shape\": \"%s\"}}",
                c->name, 1e6 * from, 1e6 * (c->done - from), c->shape);
        if (host)
            fprintf(out, ",\n{\"name\": \"%s\", \"ph\": \"X\", \"pid\": 0, \"tid\": 1, \"ts\": %.3f, \"dur\": %.3f}",
                    c->name, 1e6 * (c->begins - call[0].begins), 1e6 * (c->returns - c->begins));
    }
    fprintf(out, "\n]}\n");
    return pa_file_commit(&file, err);
}

static int by_kind(const void *a, const void *b) {
    const pa_trace_call *x = a, *y = b;
    int names = strcmp(x->name, y->name);
    return names ? names : strcmp(x->shape, y->shape);
}
static int by_time(const void *a, const void *b) {
    const double x = ((const row *)a)->seconds, y = ((const row *)b)->seconds;
    return (x < y) - (x > y);
}

// Calls of one kind beside each other become rows. `done` holds each call's own seconds.
static int make_rows(row *rows, const pa_trace_call *call, int calls) {
    int count = 0;
    for (int i = 0; i < calls; i++) {
        if (!i || by_kind(&call[i - 1], &call[i])) rows[count++] = (row){.of = &call[i]};
        row *r = &rows[count - 1];
        r->count++;
        r->seconds += call[i].done;
        r->flop += call[i].flop;
        r->bytes += call[i].bytes;
    }
    return count;
}

static void write_rows(FILE *out, const row *rows, int count, double seconds) {
    fprintf(out, "%-16s %-44s %6s %10s %6s %12s %9s %8s\n", "operation", "shape", "calls", "ms", "%", "us a call",
            "TFLOP/s", "GB/s");
    for (int i = 0; i < count; i++) {
        const row *r = &rows[i];
        fprintf(out, "%-16s %-44s %6d %10.3f %6.1f %12.2f", r->of->name, r->of->shape, r->count, 1e3 * r->seconds,
                100 * r->seconds / seconds, 1e6 * r->seconds / r->count);
        if (r->flop > 0 && r->seconds > 0) fprintf(out, " %9.2f", r->flop / r->seconds / 1e12);
        if (r->bytes > 0 && r->seconds > 0) fprintf(out, " %9s %8.1f", "", r->bytes / r->seconds / 1e9);
        fputc('\n', out);
    }
}

static pa_status write_table(const char *name, const char *device, const char *what, pa_trace_call *call, int calls,
                             pa_err *err) {
    pa_file file;
    row *rows = malloc((size_t)calls * sizeof *rows);
    if (!rows) return pa_error(err, PA_FAIL, "no memory for a trace");
    pa_status s = create(&file, name, what, "txt", err);
    if (s) {
        free(rows);
        return s;
    }
    const double seconds = call[calls - 1].done, host = call[calls - 1].returns - call[0].begins;
    for (int i = calls - 1; i > 0; i--) call[i].done -= call[i - 1].done;
    qsort(call, (size_t)calls, sizeof *call, by_kind);
    int count = make_rows(rows, call, calls);
    qsort(rows, (size_t)count, sizeof *rows, by_time);
    fprintf(file.stream, "One %s on %s: %d operations in %.3f ms; the host's calls took %.3f ms.\n\n", what, device,
            calls, 1e3 * seconds, 1e3 * host);
    write_rows(file.stream, rows, count, seconds);
    free(rows);
    return pa_file_commit(&file, err);
}

pa_status pa_trace_report(const char *name, const char *device, const char *what, pa_trace_call *call, int calls,
                          pa_err *err) {
    if (!calls) return PA_OK;
    pa_status s = write_events(name, device, what, call, calls, err);
    if (!s) s = write_table(name, device, what, call, calls, err);
    if (!s) fprintf(stderr, "trace: %s-%s.txt and .json\n", name, what);
    return s;
}
