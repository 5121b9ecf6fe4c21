// write.c: see write.h.
#include "tokenizer/write.h"

#include <math.h>
#include <stdlib.h>

#include "tokenizer/track.h"

// 500 ticks a quarter note at 120 bpm: a tick is 1 ms, so the steps of 10 ms are exact, also in pretty_midi's
// arithmetic.
enum { TICKS_A_QUARTER = 500, TICKS_A_SECOND = 1000, LONGEST_DELTA = (1 << 28) - 1 };

static int64_t tick_of(double seconds) {
    return llround(seconds * TICKS_A_SECOND);
}

pa_status pa_midi_write(const char *path, const pa_note *notes, size_t count, pa_err *err) {
    static const uint8_t tempo[] = {0xff, 0x51, 3, 0x07, 0xa1, 0x20}, piano[] = {0xc0, 0};
    for (size_t i = 0; i < count; i++)
        if (!(notes[i].start >= 0 && notes[i].end >= notes[i].start && notes[i].end * TICKS_A_SECOND < LONGEST_DELTA))
            return pa_error(err, PA_DATA, "%s: note %zu: expected a start and a later end within %d s, found %g and %g",
                            path, i, LONGEST_DELTA / TICKS_A_SECOND, notes[i].start, notes[i].end);
    pa_tick_note *note = malloc((count + 1) * sizeof *note);
    if (!note) return pa_error(err, PA_FAIL, "%s: no memory for %zu notes", path, count);
    for (size_t i = 0; i < count; i++)
        note[i] = (pa_tick_note){tick_of(notes[i].start), tick_of(notes[i].end), notes[i].pitch, notes[i].velocity};
    pa_track track = {0};
    pa_track_put(&track, 0, tempo, sizeof tempo);
    pa_track_put(&track, 0, piano, sizeof piano);
    pa_track_notes(&track, 0, note, count);
    pa_track_end(&track, 0);
    const pa_smf file = {.division = {TICKS_A_QUARTER >> 8, TICKS_A_QUARTER & 255}, .track = &track, .tracks = 1};
    pa_status s = pa_smf_write(path, &file, err);
    pa_track_clear(&track);
    free(note);
    return s;
}
