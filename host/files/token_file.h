// token_file.h: token files: written from pieces, mapped and checked when read. Knows the layout and nothing of music
// or of training.
#ifndef PA_TOKEN_FILE_H
#define PA_TOKEN_FILE_H

#include "host/files/safetensors_write.h"
#include "tokenizer/tokens.h"

#define PA_TOKENS_FORMAT "patrain-tokens-1" // metadata "format"

// A token file, memory-mapped and checked: `tokens` U16 [n], `offsets` I64 [pieces + 1], `seconds` F32, `notes` I64.
typedef struct {
    pa_st *file;
    const uint16_t *tokens;
    int64_t *offsets; // piece p is tokens[offsets[p] .. offsets[p + 1])
    const float *seconds;
    const int64_t *notes;
    int64_t pieces;
    pa_encoding encoding;
} pa_tokens;
// Every id < PA_PAD, offsets ascending. PA_USAGE where there is no such file.
pa_status pa_tokens_open(pa_tokens *t, const char *path, pa_err *err);
void pa_tokens_close(pa_tokens *t);
// Writes such a file. names: one a piece; what is not UTF-8 is taken for Latin-1.
pa_status pa_tokens_write(const char *path, const pa_piece *pieces, const char *const *names, size_t count,
                          pa_encoding e, const char *split, pa_err *err);

// What a file says of its pieces, for a corpus whose tokens are not in memory.
typedef struct {
    size_t pieces;
    const int64_t *offsets; // (pieces + 1)
    const float *seconds;
    const int64_t *notes;
    const char *const *names;
    pa_encoding encoding;
    const char *split, *set; // set: the id of all files of a run of paprep; NULL: none
} pa_token_rows;
// Begins a file; the pieces' tokens are to follow with pa_st_put, then pa_st_finish.
pa_status pa_tokens_begin(pa_st_writer **w, const char *path, const pa_token_rows *rows, pa_err *err);

#endif
