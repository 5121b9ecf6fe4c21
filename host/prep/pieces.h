// pieces.h: the pieces of a corpus while it is prepared: a row of numbers each in memory, their tokens in a temporary
// file. Knows nothing of splits and token files.
#ifndef PA_PIECES_H
#define PA_PIECES_H

#include "host/prep/corpus.h"
#include "tokenizer/encode.h"

typedef enum { PA_ROW_REFUSED, PA_ROW_READ, PA_ROW_COPY } pa_row_state;

typedef struct {
    int64_t at;          // in the temporary file: its tokens, or the reason why it is refused
    uint64_t notes_hash; // of the intervals from each note-on to the next: the same however the notes are moved,
                         // stretched or transposed
    double seconds;
    uint32_t crc;   // of its tokens
    uint32_t count; // its tokens, or the characters of the reason
    uint32_t notes, dropped;
    uint32_t like; // the first piece with the same notes_hash, or with the same tokens where it is a copy; its own
                   // number without one
    uint8_t state, split;
} pa_row;

typedef struct {
    const pa_corpus *corpus;
    pa_row *row;            // by file of the corpus
    size_t refused, unseen; // unseen: of the refused, those that could not be opened
    pa_findings findings;
    FILE *tokens; // has no name any more
    int64_t end;  // of the file
} pa_pieces;

typedef struct {
    const char *folder; // for the temporary file
    const pa_encode_options *encode;
    int jobs;
} pa_pieces_options;

pa_status pa_pieces_read(pa_pieces *p, const pa_corpus *corpus, const pa_pieces_options *o, pa_err *err);
void pa_pieces_clear(pa_pieces *p);
// `count` bytes of the temporary file.
pa_status pa_pieces_fetch(const pa_pieces *p, int64_t at, void *bytes, size_t count, pa_err *err);

#endif
