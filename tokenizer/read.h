// read.h: a MIDI file's bytes to notes and pedals in seconds. Private to tokenizer/.
#ifndef PA_READ_H
#define PA_READ_H

#include "tokenizer/encode.h"
#include "tokenizer/song.h"

// PA_DATA with a reason where the file is refused.
pa_status pa_song_read(pa_song *song, const uint8_t *bytes, size_t count, const pa_encode_options *o, pa_report *report,
                       pa_err *err);

#endif
