// workers.h: encodes many files in forked processes, so that a file that crashes its reader costs only a row in a
// report.
#ifndef PA_WORKERS_H
#define PA_WORKERS_H

#include <sys/types.h>

#include "tokenizer/encode.h"

// Called for each file, in the order in which they are done. piece is the callee's to keep; without tokens unless
// status is PA_OK.
typedef void pa_encoded(void *user, size_t index, pa_status status, pa_piece piece, const char *reason);

// Encodes path[0 .. count) in `jobs` processes. A refused file is done() with PA_DATA. PA_FAIL if processes can't be
// started, or if a file's reader is killed from outside or runs out of memory twice, the second time with no other
// reader running.
pa_status pa_encode_files(const char *const *path, size_t count, const pa_encode_options *o, int jobs, pa_encoded *done,
                          void *user, pa_err *err);

// pa_encode_file in a worker of its own: a file that kills it is PA_DATA, "… the MIDI reader stopped with signal …".
// PA_USAGE where there is no such file.
pa_status pa_encode_isolated(const char *path, const pa_encode_options *o, pa_piece *piece, pa_err *err);

// pa_read_pedal likewise. PA_FAIL where its process dies twice: for want of memory, as the file has been read before.
pa_status pa_pedal_isolated(const uint8_t *bytes, size_t count, const pa_encode_options *o, pa_pedal_span **span,
                            size_t *spans, pa_err *err);

// pa_encode_isolated for a process that has several threads: a fork may then copy a lock that another thread holds,
// which the worker would wait for without end. So a process with one thread, started before the others, forks the
// workers.
typedef struct {
    pid_t process;
    int socket;
} pa_reader;

pa_status pa_reader_start(pa_reader *r, pa_err *err);
pa_status pa_reader_encode(pa_reader *r, const char *path, const pa_encode_options *o, pa_piece *piece, pa_err *err);
void pa_reader_stop(pa_reader *r);

#endif
