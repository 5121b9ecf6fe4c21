// performance.h: the default encoding, Magenta's.
#ifndef PA_PERFORMANCE_H
#define PA_PERFORMANCE_H

#include "tokenizer/encode.h"
#include "tokenizer/song.h"

// A song without notes is an empty piece. Fills in what the report says of silence and pauses.
pa_status pa_performance_encode(const pa_song *song, const pa_encode_options *o, pa_piece *piece, pa_err *err);
// Notes in order of start, added to an empty part. Every token is below PA_VOCAB. False without memory.
bool pa_performance_decode(const uint16_t *token, size_t count, pa_part *part);

#endif
