// sound.h: a rendition as a piano plays it: rendered by FluidSynth from a SoundFont, levelled (libebur128) and written
// by libsndfile. Knows nothing of models and tokens.
#ifndef PA_SOUND_H
#define PA_SOUND_H

#include <signal.h>

#include "host/play/rendition.h"

typedef enum { PA_SOUND_WAV, PA_SOUND_FLAC, PA_SOUND_OGG, PA_SOUND_MP3, PA_SOUND_FORMATS } pa_sound_format;
const char *pa_sound_format_name(pa_sound_format format); // "wav", as in its option and its files' names

enum { PA_SOUND_RATE = 44100 }; // frames a second, of two channels

typedef struct {
    float *sample; // (frames, 2)
    size_t frames;
    double lufs; // integrated loudness; -HUGE_VAL: silent
    double peak; // true peak, full scale is 1
} pa_sound;

// *found: `wanted`, or where it is NULL the first SoundFont of those that Debian's packages install, the best piano
// first. PA_USAGE where there is none, it is no SoundFont, or this build has no FluidSynth: for a check before long
// work.
pa_status pa_sound_font(const char *wanted, const char **found, pa_err *err);

// A piano: FluidSynth with its samples loaded, which takes seconds for some SoundFonts. `font` as in pa_sound_font;
// PA_DATA where it holds no piano.
typedef struct pa_piano pa_piano;
pa_status pa_piano_open(pa_piano **piano, const char *font, pa_err *err);
void pa_piano_close(pa_piano *piano);

// Renders it from second 0 until the last note has died away. Its loudness is -16 LUFS, or less where the true peak
// would pass -1 dBFS. Frees with pa_sound_clear.
pa_status pa_piano_play(pa_piano *piano, const pa_rendition *r, pa_sound *sound, pa_err *err);
void pa_sound_clear(pa_sound *sound);

// PA_USAGE where this machine has no audio output.
pa_status pa_sound_check_output(pa_err *err);
// Plays it through the default audio output, to its end or until *stop is not 0. PA_FAIL where the output goes away.
pa_status pa_sound_play(const pa_sound *sound, const volatile sig_atomic_t *stop, pa_err *err);

// Encodes it: WAV and FLAC with 24 bits, Ogg Vorbis and MP3 at variable rate. `title` may be NULL. The stream can seek;
// a failed write may show only in its error flag.
pa_status pa_sound_encode(const pa_sound *sound, FILE *stream, pa_sound_format format, const char *title, pa_err *err);
// The same to a file. Atomic (file.h).
pa_status pa_sound_write(const pa_sound *sound, const char *path, pa_sound_format format, const char *title,
                         pa_err *err);

#endif
