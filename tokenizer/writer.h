// writer.h: a growing array of tokens.
#ifndef PA_WRITER_H
#define PA_WRITER_H

#include "tokenizer/tokens.h"

typedef struct {
    uint16_t *token; // malloc'ed
    size_t count, room;
} pa_writer;
// False without memory.
bool pa_writer_add(pa_writer *w, int token);
bool pa_writer_shift(pa_writer *w, int64_t steps); // TIME_SHIFTs of at most PA_MOST_STEPS; none for 0

#endif
