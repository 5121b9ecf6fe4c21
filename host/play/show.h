// show.h: what pagen writes of takes besides MIDI files: a piano roll, sound, a page.
#ifndef PA_SHOW_H
#define PA_SHOW_H

#include "host/play/appraisal.h"
#include "host/play/output.h"
#include "host/play/sound.h"

// Paths are NULL for what is not wanted.
typedef struct {
    const char *roll, *page;
    const char *sound[PA_SOUND_FORMATS]; // of several takes FILE-1.wav, FILE-2.wav, …
    const char *font;                    // NULL: found by pa_show_check
    bool play;                           // through the audio output
} pa_show;

// Checks, before the work begins, names, libraries, SoundFont and audio output, and that the files can be created:
// PA_USAGE, PA_FAIL.
pa_status pa_show_check(pa_show *show, int number, pa_err *err);

// What is shown.
typedef struct {
    const pa_output *output; // whose MIDI files are written
    const pa_primer *primer;
    const pa_takes *takes;
    const pa_appraisals *appraisals;
    const char *facts; // a line for the page: the settings
} pa_shown;

// The files appear together (pa_file_group_begin).
pa_status pa_show_write(const pa_show *show, const pa_shown *x, pa_err *err);

// Plays the takes, one after another, until *stop is not 0.
pa_status pa_show_play(const pa_show *show, const pa_shown *x, const volatile sig_atomic_t *stop, pa_err *err);

#endif
