// music.h: what pagen reads and writes: a primer from a MIDI or token file, its continuations to such files, and what they are like.
// Knows nothing of how they are made.
#ifndef PA_MUSIC_H
#define PA_MUSIC_H

#include "host/play/inference.h"

typedef struct {
    uint16_t *token;
    size_t count;
} pa_take;

typedef struct {
    pa_encoding encoding;
    char name[256];   // of the primer; empty without
    uint16_t *primer; // tokens
    size_t primer_count;
    pa_take *take; // continuations
    size_t takes;
} pa_music;

// Reads `path`: TOKENS.safetensors[:PIECE] (piece 0 if none is said), else a MIDI file, which is encoded as the checkpoint's music is.
pa_status pa_music_read_primer(pa_music *m, const pa_inference *model, const char *path, pa_err *err);
// Keeps the primer's tokens up to `steps` of 10 ms, at most `tokens` of them. PA_USAGE where nothing would be left of it.
pa_status pa_music_cut_primer(pa_music *m, int64_t steps, size_t tokens, pa_err *err);
// Adds a copy of a continuation, cut off at `limit` steps of 10 ms (0: whole).
pa_status pa_music_add(pa_music *m, const uint16_t *token, size_t count, int64_t limit, pa_err *err);
void pa_music_clear(pa_music *m);

// Output is FILE.mid or FILE.midi (in any case, as every extension here), for one of several takes FILE-1.mid, …; or FILE.safetensors with
// one piece a take. Checks before the work begins that files can be made there, and that none is the primer's: PA_USAGE, PA_FAIL.
pa_status pa_music_check_output(const char *path, const char *primer, int number, pa_err *err);
// Whether such an output spares another file that is read (pa_check_spares).
pa_status pa_music_check_spares(const char *path, int number, const char *what, const char *input, pa_err *err);
// Writes every take, behind the primer or alone. In MIDI, notes still sounding at the end are ended there, and a take alone holds the
// notes that start in it; in a token file the tokens are as they were made.
pa_status pa_music_write(const pa_music *m, const char *path, int number, bool without_primer, pa_err *err);
// Prints a line for the primer and one a take: notes, pace, range, loudness, and how much it repeats what was played before. Of a row's
// last 65536 notes, all but their number and pace, and runs begin at most PA_LOOK_BACK + PA_RUN notes ahead of those: each note costs
// PA_LOOK_BACK steps (repetition.h).
pa_status pa_music_report(const pa_music *m, const char *path, int number, pa_err *err);

#endif
