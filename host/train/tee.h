// tee.h: a stream for the messages of a run: they go to stderr and to a log file.
#ifndef PA_TEE_H
#define PA_TEE_H

#include "host/base/base.h"

typedef struct pa_tee pa_tee;

// Opens a tee; NULL if out of memory. It keeps what is printed in memory until pa_tee_attach names the file.
pa_tee *pa_tee_open(void);
// Prints to stderr and to the log. A failed write is no error: the log is a copy.
FILE *pa_tee_stream(pa_tee *t);
// Appends what was printed so far to `path`, and from then on each line as it is printed.
pa_status pa_tee_attach(pa_tee *t, const char *path, pa_err *err);
// Appends a line to the log only: an error that the program itself prints.
void pa_tee_note(pa_tee *t, const char *line);
void pa_tee_close(pa_tee *t); // NULL is fine

#endif
