// show.h: what pagen makes of takes beside their MIDI files: a piano roll, sound, a page.
#ifndef PA_SHOW_H
#define PA_SHOW_H

#include "host/play/output.h"
#include "host/play/sound.h"

// Paths are NULL for what is not wanted.
typedef struct {
    const char *roll, *page;
    const char *sound[PA_SOUND_FORMATS]; // of several takes FILE-1.wav, FILE-2.wav, …
    const char *font;                    // NULL: found by pa_show_check
} pa_show;

// Checks, before the work begins, names, libraries and SoundFont, and that the files can be created: PA_USAGE, PA_FAIL.
pa_status pa_show_check(pa_show *show, int number, pa_err *err);
// Makes all of it, behind the MIDI files that `o` names. `facts` is a line for the page: the settings.
pa_status pa_show_write(const pa_show *show, const pa_output *o, const pa_primer *p, const pa_takes *t,
                        const char *facts, pa_err *err);

#endif
