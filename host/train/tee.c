// tee.c: see tee.h.
#include "host/train/tee.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/base/file.h"

struct pa_tee {
    FILE *stream; // what callers print to
    FILE *log;    // the file, or `early` before it is known
    char *early;
    size_t early_length;
};

static ssize_t write_both(void *cookie, const char *text, size_t length) {
    pa_tee *t = cookie;
    char *safe = malloc(4 * length + 1); // the log may be read on a terminal, too
    fwrite(text, 1, length, stderr);
    fflush(stderr);
    if (safe) fwrite(safe, 1, pa_escape(text, length, true, safe, 4 * length + 1), t->log);
    free(safe);
    fflush(t->log);
    return (ssize_t)length; // a terminal that is gone or a full disk must not end the stream
}

pa_tee *pa_tee_open(void) {
    pa_tee *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->log = open_memstream(&t->early, &t->early_length);
    t->stream = t->log ? fopencookie(t, "w", (cookie_io_functions_t){.write = write_both}) : NULL;
    if (t->stream && !setvbuf(t->stream, NULL, _IOLBF, BUFSIZ)) return t;
    pa_tee_close(t);
    return NULL;
}

FILE *pa_tee_stream(pa_tee *t) {
    return t->stream;
}

pa_status pa_tee_attach(pa_tee *t, const char *path, pa_err *err) {
    int fd = pa_open_regular(path, O_WRONLY | O_APPEND | O_CREAT, err);
    if (fd < 0) return PA_FAIL;
    FILE *file = fdopen(fd, "a");
    if (!file) {
        close(fd);
        return pa_error(err, PA_FAIL, "cannot write %s: %s", path, strerror(errno));
    }
    fflush(t->stream);
    fflush(t->log);
    fwrite(t->early, 1, t->early_length, file);
    fflush(file);
    fclose(t->log);
    free(t->early);
    t->early = NULL;
    t->log = file;
    return PA_OK;
}

void pa_tee_note(pa_tee *t, const char *line) {
    fflush(t->stream);
    fprintf(t->log, "%s\n", line);
    fflush(t->log);
}

void pa_tee_close(pa_tee *t) {
    if (!t) return;
    if (t->stream) fclose(t->stream);
    if (t->log) fclose(t->log);
    free(t->early);
    free(t);
}
