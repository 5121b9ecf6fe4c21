// token_memory.h: a set of token files that lies in a test's memory: one file, in one part.
#ifndef PA_TESTS_TOKEN_MEMORY_H
#define PA_TESTS_TOKEN_MEMORY_H

#include "host/files/token_set.h"

typedef struct {
    pa_tokens file;
    pa_token_part part;
    pa_token_set set;
} token_memory;

// The set points into *m: it stays where it is.
static inline void token_memory_open(token_memory *m, pa_tokens file) {
    m->file = file;
    m->part = (pa_token_part){.file = &m->file};
    m->set = (pa_token_set){.part = &m->part, .parts = 1, .pieces = file.pieces, .tokens = file.offsets[file.pieces]};
}

#endif
