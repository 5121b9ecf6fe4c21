// token_set.h: token files read as one corpus, from a list of names and patterns: "maestro.safetensors*3,
// aria-*.safetensors". Knows nothing of training.
#ifndef PA_TOKEN_SET_H
#define PA_TOKEN_SET_H

#include "host/files/token_file.h"

typedef enum { PA_SPLIT_TRAIN, PA_SPLIT_VALIDATION, PA_SPLIT_TEST, PA_SPLITS } pa_split;
const char *pa_split_name(pa_split split); // "train"

typedef struct {
    const pa_tokens *file;
    int64_t piece, token; // of the set, where the file begins
} pa_token_part;

typedef struct {
    pa_tokens *file; // each opened once
    size_t files;
    pa_token_part *part; // in the order of the list; a file with weight n is n parts
    size_t parts;
    int64_t pieces, tokens;
    pa_encoding encoding;
    uint32_t crc; // one file: of its data; several: of their checksums in order
} pa_token_set;

typedef struct {
    const uint16_t *token;
    int64_t count, notes;
    double seconds;
} pa_token_piece;

// list: names and patterns (glob(7)) separated by commas, the files of a pattern in order of name. With `weighted`,
// "*N" behind one repeats its pieces N times. PA_USAGE for a list that is wrong or names no file; PA_DATA where the
// files don't belong together, or where the folder of one has files of different runs of paprep, or not all of its
// split: an old test.safetensors beside a new train.safetensors may hold what is trained on.
pa_status pa_token_set_open(pa_token_set *s, const char *list, bool weighted, pa_err *err);
void pa_token_set_close(pa_token_set *s);
// PA_DATA names a file that was changed since it was opened: by its size and time, with `whole` by its checksum.
pa_status pa_token_set_check(const pa_token_set *s, bool whole, pa_err *err);
pa_token_piece pa_token_set_piece(const pa_token_set *s, int64_t piece);
// The piece that holds token `at` of the set, each piece's END counted as one of its tokens.
int64_t pa_token_set_find(const pa_token_set *s, int64_t at);
// Number of files of a split, from the name that paprep gives to one of them; 0 for other names. The first
// *split_length letters are the split's name.
int pa_set_parts(const char *name, size_t *split_length);

#endif
