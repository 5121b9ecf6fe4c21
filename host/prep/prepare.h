// prepare.h: a folder of MIDI files becomes a set of token files. Knows neither encoding's rules.
#ifndef PA_PREPARE_H
#define PA_PREPARE_H

#include "tokenizer/encode.h"

typedef struct {
    const char *midi, *out;
    const char *metadata; // NULL: MAESTRO's list in `midi`, if there is one
    pa_encode_options encode;
    int jobs;
    int64_t part_bytes;
    bool strict, keep_duplicates;
} pa_prepare_options;

// Writes OUT/{train,validation,test}.safetensors (or their parts), rejected.tsv and duplicates.tsv, and prints what
// they hold on stdout and what was refused, skipped, left out or moved on stderr. PA_DATA where nothing could be read
// or, with `strict`, anything was refused; then OUT has rejected.tsv, and an older set stays as it is. PA_FAIL, after
// the rest is done, where a folder or file could not be looked at.
pa_status pa_prepare(const pa_prepare_options *o, pa_err *err);

#endif
