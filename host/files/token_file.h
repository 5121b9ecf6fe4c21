// token_file.h: token files: written from pieces, mapped and checked when read. Knows the layout and nothing of music or of training.
#ifndef PA_TOKEN_FILE_H
#define PA_TOKEN_FILE_H

#include "host/files/safetensors.h"
#include "tokenizer/tokens.h"

// A token file, memory-mapped and checked: `tokens` U16 [n], `offsets` I64 [pieces + 1], `seconds` F32, `notes` I64.
typedef struct {
    pa_st *file;
    const uint16_t *tokens;
    const int64_t *offsets; // piece p is tokens[offsets[p] .. offsets[p + 1])
    const float *seconds;
    const int64_t *notes;
    int64_t pieces;
    pa_encoding encoding;
} pa_tokens;
// Every id < PA_PAD, offsets ascending. PA_USAGE where there is no such file.
pa_status pa_tokens_open(pa_tokens *t, const char *path, pa_err *err);
void pa_tokens_close(pa_tokens *t);
// Writes such a file. names: one a piece; what is not UTF-8 is taken for Latin-1.
pa_status pa_tokens_write(const char *path, const pa_piece *pieces, const char *const *names, size_t count, pa_encoding e,
                          const char *split, pa_err *err);

#endif
