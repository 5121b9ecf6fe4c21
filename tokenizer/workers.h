// workers.h: encoding many files in forked processes, so that a file that kills its reader costs a row in a report and no more.
#ifndef PA_WORKERS_H
#define PA_WORKERS_H

#include "tokenizer/tokens.h"

// Called for each file, in the order in which they are done. piece is the callee's to keep (empty unless status is PA_OK).
typedef void pa_encoded(void *user, size_t index, pa_status status, pa_piece piece, const char *reason);

// Encodes path[0 .. count) in `jobs` processes. Fails only where there can be no processes; a refused file is done() with PA_DATA.
pa_status pa_encode_files(const char *const *path, size_t count, pa_encoding e, int jobs, pa_encoded *done, void *user, pa_err *err);

#endif
