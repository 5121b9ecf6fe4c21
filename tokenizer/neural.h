// neural.h: `midi-neural`, the encoding of the original project.
#ifndef PA_NEURAL_H
#define PA_NEURAL_H

#include "tokenizer/encode.h"
#include "tokenizer/song.h"

// As pa_performance_encode and pa_performance_decode.
pa_status pa_neural_encode(const pa_song *song, const pa_encode_options *o, pa_piece *piece, pa_err *err);
bool pa_neural_decode(const uint16_t *token, size_t count, pa_part *part);

#endif
