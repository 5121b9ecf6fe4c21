// output.h: the files that pagen writes. FILE.mid or FILE.midi (in any case, as every extension here), for one of
// several takes FILE-1.mid, FILE-2.mid, …; or FILE.safetensors with one piece a take.
#ifndef PA_OUTPUT_H
#define PA_OUTPUT_H

#include "host/play/takes.h"

typedef struct {
    const char *path;
    int number;          // of takes
    bool without_primer; // the takes start at 0
} pa_output;

// Checks, before the work begins, that the files can be created and that none is the primer's, a run's or, for tokens,
// something else than tokens: PA_USAGE, PA_FAIL.
pa_status pa_output_check(const pa_output *o, const char *primer, pa_err *err);
// Whether no file overwrites another one that is read (pa_check_spares).
pa_status pa_output_check_spares(const pa_output *o, const char *what, const char *input, pa_err *err);
// The file of take k.
pa_status pa_output_name(const pa_output *o, size_t k, char *name, size_t size, pa_err *err);
bool pa_output_is_tokens(const pa_output *o);

// Writes all takes; their files appear together (pa_file_group_begin). A MIDI file that continues a MIDI file is
// a splice (splice.h); what still sounds at the end of a take ends there. In a token file the tokens are as the model
// gave them.
pa_status pa_output_write(const pa_output *o, const pa_primer *p, const pa_takes *t, pa_err *err);

#endif
