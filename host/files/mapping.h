// mapping.h: maps a file that others may change while it is read. Knows nothing of its content.
#ifndef PA_MAPPING_H
#define PA_MAPPING_H

#include <time.h>

#include "host/base/base.h"

typedef struct {
    int fd;
    uint8_t *bytes; // (count)
    size_t count;
    struct timespec changed; // when it was opened
    int slot;
} pa_mapping;

// Maps a file of `count` bytes that was last changed at `changed`; m takes fd, also on an error.
pa_status pa_mapping_open(pa_mapping *m, int fd, size_t count, struct timespec changed, const char *path, pa_err *err);
// PA_DATA if the file was written to, cut short or could not be read since. Costs one fstat.
pa_status pa_mapping_check(const pa_mapping *m, const char *path, pa_err *err);
void pa_mapping_close(pa_mapping *m);

// For a program, once: from then on a page that can't be read becomes zeros instead of raising SIGBUS, and
// pa_mapping_check reports it.
void pa_mapping_guard(void);

#endif
