// sound.c: see sound.h.
#include "host/play/sound.h"

const char *pa_sound_format_name(pa_sound_format format) {
    static const char *const name[] = {"wav", "flac", "ogg", "mp3"};
    return name[format];
}

#ifndef PA_WITH_SOUND
pa_status pa_sound_font(const char *wanted, const char **found, pa_err *err) {
    (void)wanted;
    (void)found;
    return pa_error(err, PA_USAGE,
                    "built without sound; install libfluidsynth-dev, libsndfile1-dev and libebur128-dev, then "
                    "configure and build again");
}

pa_status pa_piano_open(pa_piano **piano, const char *font, pa_err *err) {
    *piano = NULL;
    return pa_sound_font(font, &font, err);
}

void pa_piano_close(pa_piano *piano) {
    (void)piano;
}

pa_status pa_piano_play(pa_piano *piano, const pa_rendition *r, pa_sound *sound, pa_err *err) {
    const char *font;
    (void)piano;
    (void)r;
    *sound = (pa_sound){0};
    return pa_sound_font(NULL, &font, err);
}

void pa_sound_clear(pa_sound *sound) {
    *sound = (pa_sound){0};
}

pa_status pa_sound_check_output(pa_err *err) {
    const char *font;
    return pa_sound_font(NULL, &font, err);
}

pa_status pa_sound_play(const pa_sound *sound, const volatile sig_atomic_t *stop, pa_err *err) {
    (void)sound;
    (void)stop;
    return pa_sound_check_output(err);
}

pa_status pa_sound_encode(const pa_sound *sound, FILE *stream, pa_sound_format format, const char *title, pa_err *err) {
    const char *font;
    (void)sound;
    (void)stream;
    (void)format;
    (void)title;
    return pa_sound_font(NULL, &font, err);
}

pa_status pa_sound_write(const pa_sound *sound, const char *path, pa_sound_format format, const char *title,
                         pa_err *err) {
    (void)path;
    return pa_sound_encode(sound, NULL, format, title, err);
}
#else

#include <ebur128.h>
#include <errno.h>
#include <fluidsynth.h>
#include <math.h>
#include <sndfile.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "host/base/file.h"

enum {
    BLOCK = 64,         // frames; FluidSynth works in blocks of 64, so that a note begins at most 1.5 ms late
    LONGEST = 3 * 3600, // seconds of music: 3.8 GB
    LONGEST_TAIL = 20,  // seconds that the last notes may take to die away
    PART = 4096,        // frames written at a time
    VOICES = 512,       // sounding at a time; a piano note has two or more
};
static const double LOUDNESS = -16;       // LUFS
static const double HIGHEST_PEAK = 0.891; // -1 dBFS
static const float SILENCE = 1e-4F;       // -80 dBFS, of the rendered sound before it is levelled

// FluidSynth prints nothing: our errors say it.
static void quieten(void) {
    for (int level = 0; level < LAST_LOG_LEVEL; level++) fluid_set_log_function(level, NULL, NULL);
}

// ---- SoundFont

static const char *const FONT[] = {
    "/usr/share/sounds/sf3/MuseScore_General_Full.sf3", // musescore-general-soundfont
    "/usr/share/sounds/sf3/MuseScore_General_Lite.sf3", // musescore-general-soundfont-small
    "/usr/share/sounds/sf2/FluidR3_GM.sf2",             // fluid-soundfont-gm
    "/usr/share/sounds/sf2/TimGM6mb.sf2",               // timgm6mb-soundfont
    "/usr/share/sounds/sf3/default-GM.sf3",             // whatever else is installed
    "/usr/share/sounds/sf2/default-GM.sf2",
    "/usr/share/soundfonts/default.sf2", // Fedora, Arch
};

pa_status pa_sound_font(const char *wanted, const char **found, pa_err *err) {
    quieten();
    if (wanted) {
        *found = wanted;
        if (access(wanted, R_OK))
            return pa_error(err, PA_USAGE, "cannot open SoundFont %s: %s", wanted, strerror(errno));
        return fluid_is_soundfont(wanted) ? PA_OK : pa_error(err, PA_USAGE, "%s: not a SoundFont", wanted);
    }
    for (size_t i = 0; i < sizeof FONT / sizeof *FONT; i++) {
        *found = FONT[i];
        if (!access(FONT[i], R_OK) && fluid_is_soundfont(FONT[i])) return PA_OK;
    }
    return pa_error(err, PA_USAGE,
                    "no SoundFont found; install musescore-general-soundfont-small or give --soundfont FILE.sf2");
}

// ---- events

typedef struct {
    double second;
    int key;
    int value; // velocity; 0 ends
} event;

static int earlier(const void *a, const void *b) { // what ends goes first
    const event *x = a, *y = b;
    if (x->second != y->second) return x->second < y->second ? -1 : 1;
    return (x->value > 0) - (y->value > 0);
}

static event *list_events(const pa_rendition *r, size_t *count) {
    event *e = malloc((2 * r->notes + 1) * sizeof *e);
    size_t n = 0;
    if (!e) return NULL;
    for (size_t i = 0; i < r->notes; i++) {
        const pa_note *note = &r->note[i];
        if (!note->velocity || !(note->end > note->start)) continue;
        e[n++] = (event){note->start, note->pitch & 127, note->velocity & 127};
        e[n++] = (event){note->end, note->pitch & 127, 0};
    }
    qsort(e, n, sizeof *e, earlier);
    *count = n;
    return e;
}

// ---- rendering

struct pa_piano {
    fluid_settings_t *settings;
    fluid_synth_t *synth;
    int down[128]; // how often a key was struck and not yet released
};

void pa_piano_close(pa_piano *piano) {
    if (!piano) return;
    if (piano->synth) delete_fluid_synth(piano->synth);
    if (piano->settings) delete_fluid_settings(piano->settings);
    free(piano);
}

static pa_status load(pa_piano *p, const char *font, pa_err *err) {
    if (!(p->settings = new_fluid_settings())) return pa_error(err, PA_FAIL, "no memory for FluidSynth");
    fluid_settings_setnum(p->settings, "synth.sample-rate", PA_SOUND_RATE);
    fluid_settings_setnum(p->settings, "synth.gain", 1); // near the level wanted, for the meter's gate is absolute
    fluid_settings_setint(p->settings, "synth.polyphony", VOICES);
    fluid_settings_setint(p->settings, "synth.chorus.active", 0);
    fluid_settings_setint(p->settings, "synth.dynamic-sample-loading", 1); // the piano, not the whole orchestra
    if (!(p->synth = new_fluid_synth(p->settings))) return pa_error(err, PA_FAIL, "no memory for FluidSynth");
    if (fluid_synth_sfload(p->synth, font, 1) == FLUID_FAILED)
        return pa_error(err, PA_DATA, "cannot load SoundFont %s", font);
    if (fluid_synth_program_change(p->synth, 0, 0) == FLUID_FAILED || !fluid_synth_get_channel_preset(p->synth, 0))
        return pa_error(err, PA_DATA, "%s: no piano in this SoundFont (bank 0, program 0)", font);
    return PA_OK;
}

pa_status pa_piano_open(pa_piano **piano, const char *font, pa_err *err) {
    pa_piano *p = calloc(1, sizeof *p);
    pa_status s = p ? pa_sound_font(font, &font, err) : pa_error(err, PA_FAIL, "no memory for FluidSynth");
    if (!s) s = load(p, font, err);
    if (s) {
        pa_piano_close(p);
        p = NULL;
    }
    *piano = p;
    return s;
}

// A key that is struck twice sounds until it is released twice.
static void play_event(pa_piano *p, const event *e) {
    if (e->value) {
        p->down[e->key]++;
        fluid_synth_noteon(p->synth, 0, e->key, e->value);
    } else if (!--p->down[e->key]) {
        fluid_synth_noteoff(p->synth, 0, e->key);
    }
}

static bool make_room(pa_sound *s, size_t *room, size_t frames) {
    if (frames <= *room) return true;
    size_t wanted = frames + PA_SOUND_RATE * 4;
    float *larger = realloc(s->sample, wanted * 2 * sizeof *larger);
    if (!larger) return false;
    s->sample = larger;
    *room = wanted;
    return true;
}

static pa_status render(pa_sound *s, pa_piano *p, const event *e, size_t events, double seconds, pa_err *err) {
    size_t least = (size_t)ceil(seconds * PA_SOUND_RATE), most = least + (size_t)LONGEST_TAIL * PA_SOUND_RATE, room = 0,
           next = 0;
    if (!make_room(s, &room, least + PA_SOUND_RATE))
        return pa_error(err, PA_FAIL, "no memory for %.0f s of sound", seconds);
    for (bool sounds = true; s->frames < least || (sounds && s->frames < most); s->frames += BLOCK) {
        for (; next < events && e[next].second * PA_SOUND_RATE < (double)(s->frames + BLOCK / 2); next++)
            play_event(p, &e[next]);
        if (!make_room(s, &room, s->frames + BLOCK))
            return pa_error(err, PA_FAIL, "no memory for %.0f s of sound", seconds);
        float *block = s->sample + 2 * s->frames;
        fluid_synth_write_float(p->synth, BLOCK, block, 0, 2, block, 1, 2);
        sounds = fluid_synth_get_active_voice_count(p->synth) > 0;
        for (int i = 0; i < 2 * BLOCK && !sounds; i++) sounds = fabsf(block[i]) > SILENCE; // the room still sounds
    }
    return PA_OK;
}

// ---- level

static pa_status measure(pa_sound *s, pa_err *err) {
    ebur128_state *meter = ebur128_init(2, PA_SOUND_RATE, EBUR128_MODE_I | EBUR128_MODE_TRUE_PEAK);
    double left = 0, right = 0;
    if (!meter) return pa_error(err, PA_FAIL, "no memory for a loudness meter");
    int failed = ebur128_add_frames_float(meter, s->sample, s->frames);
    failed = failed || ebur128_loudness_global(meter, &s->lufs) || ebur128_true_peak(meter, 0, &left) ||
             ebur128_true_peak(meter, 1, &right);
    ebur128_destroy(&meter);
    s->peak = fmax(left, right);
    return failed ? pa_error(err, PA_FAIL, "no memory for a loudness meter") : PA_OK;
}

static pa_status level(pa_sound *s, pa_err *err) {
    pa_status status = measure(s, err);
    if (status || !(s->peak > 0) || s->lufs == -HUGE_VAL) return status; // silence stays silent
    double gain = fmin(pow(10, (LOUDNESS - s->lufs) / 20), HIGHEST_PEAK / s->peak);
    for (size_t i = 0; i < 2 * s->frames; i++) s->sample[i] *= (float)gain;
    s->lufs += 20 * log10(gain);
    s->peak *= gain;
    return PA_OK;
}

pa_status pa_piano_play(pa_piano *piano, const pa_rendition *r, pa_sound *sound, pa_err *err) {
    double seconds = pa_rendition_seconds(r);
    size_t events;
    *sound = (pa_sound){0};
    if (seconds > LONGEST)
        return pa_error(err, PA_USAGE, "sound: expected at most %d s of music, found %.0f", LONGEST, seconds);
    event *e = list_events(r, &events);
    if (!e) return pa_error(err, PA_FAIL, "no memory for %zu notes", r->notes);
    fluid_synth_all_sounds_off(piano->synth, 0);
    memset(piano->down, 0, sizeof piano->down);
    pa_status s = render(sound, piano, e, events, seconds, err);
    if (!s) s = level(sound, err);
    free(e);
    if (s) pa_sound_clear(sound);
    return s;
}

void pa_sound_clear(pa_sound *sound) {
    free(sound->sample);
    *sound = (pa_sound){0};
}

// ---- audio output

typedef struct {
    fluid_settings_t *settings;
    fluid_audio_driver_t *driver;
    const pa_sound *sound;
    atomic_size_t next; // frame
} output;

// The driver's thread calls this.
static int play_part(void *data, int frames, int effects, float *effect[], int channels, float *out[]) {
    output *o = data;
    const size_t from = atomic_load(&o->next), left = o->sound->frames - from, wanted = (size_t)frames;
    const size_t part = left < wanted ? left : wanted;
    (void)effects;
    (void)effect;
    for (int c = 0; c < channels; c++)
        for (size_t i = 0; i < wanted; i++)
            out[c][i] = i < part ? o->sound->sample[2 * (from + i) + (size_t)(c & 1)] : 0;
    atomic_store(&o->next, from + part);
    return FLUID_OK;
}

static void close_output(output *o) {
    if (o->driver) delete_fluid_audio_driver(o->driver);
    if (o->settings) delete_fluid_settings(o->settings);
}

static pa_status open_output(output *o, pa_err *err) {
    static const char *const name[] = {"pulseaudio", "alsa"}; // PipeWire answers to both
    quieten();
    if (!(o->settings = new_fluid_settings())) return pa_error(err, PA_FAIL, "no memory for FluidSynth");
    fluid_settings_setnum(o->settings, "synth.sample-rate", PA_SOUND_RATE);
    for (size_t i = 0; i < sizeof name / sizeof *name && !o->driver; i++)
        if (fluid_settings_setstr(o->settings, "audio.driver", name[i]) == FLUID_OK)
            o->driver = new_fluid_audio_driver2(o->settings, play_part, o);
    if (o->driver) return PA_OK;
    close_output(o);
    return pa_error(err, PA_USAGE, "no audio output found (PulseAudio, PipeWire or ALSA)");
}

pa_status pa_sound_check_output(pa_err *err) {
    const pa_sound silence = {0};
    output o = {.sound = &silence};
    pa_status s = open_output(&o, err);
    if (!s) close_output(&o);
    return s;
}

pa_status pa_sound_play(const pa_sound *sound, const volatile sig_atomic_t *stop, pa_err *err) {
    enum { TICKS_A_SECOND = 50, PATIENCE = 5 * TICKS_A_SECOND, TAIL = TICKS_A_SECOND / 2 };
    const struct timespec tick = {.tv_nsec = 1000000000 / TICKS_A_SECOND};
    output o = {.sound = sound};
    pa_status s = open_output(&o, err);
    if (s) return s;
    size_t at = 0;
    for (int waited = 0; at < sound->frames && !*stop && waited < PATIENCE; waited++) {
        nanosleep(&tick, NULL);
        if (atomic_load(&o.next) == at) continue;
        at = atomic_load(&o.next);
        waited = 0;
    }
    if (at < sound->frames && !*stop) s = pa_error(err, PA_FAIL, "the audio output takes no more sound");
    for (int i = 0; i < TAIL && !s && !*stop; i++) nanosleep(&tick, NULL); // until the output has played what it holds
    close_output(&o);
    return s;
}

// ---- files

// libsndfile's writing goes through the stream, whose error pa_file_commit finds: its MP3 encoder ignores a full disk.
static sf_count_t stream_tell(void *stream) {
    return ftello(stream);
}

static sf_count_t stream_seek(sf_count_t offset, int whence, void *stream) {
    return fseeko(stream, offset, whence) ? -1 : ftello(stream);
}

static sf_count_t stream_length(void *stream) {
    off_t at = ftello(stream);
    sf_count_t length = stream_seek(0, SEEK_END, stream);
    return fseeko(stream, at, SEEK_SET) ? -1 : length;
}

static sf_count_t stream_read(void *bytes, sf_count_t count, void *stream) {
    (void)bytes;
    (void)count;
    (void)stream;
    return 0; // never asked for
}

static sf_count_t stream_write(const void *bytes, sf_count_t count, void *stream) {
    return (sf_count_t)fwrite(bytes, 1, (size_t)count, stream);
}

static void set_up(SNDFILE *out, pa_sound_format format, const char *title) {
    static const double compression[] = {0, 0.5, 0.4, 0.2}; // 0 largest to 1 smallest
    double share = compression[format];
    if (format != PA_SOUND_WAV) sf_command(out, SFC_SET_COMPRESSION_LEVEL, &share, sizeof share);
    sf_command(out, SFC_SET_CLIPPING, NULL, SF_TRUE);
    sf_set_string(out, SF_STR_SOFTWARE, "patrain " PA_VERSION);
    if (title) sf_set_string(out, SF_STR_TITLE, title);
}

pa_status pa_sound_encode(const pa_sound *sound, FILE *stream, pa_sound_format format, const char *title, pa_err *err) {
    static const int code[] = {SF_FORMAT_WAV | SF_FORMAT_PCM_24, SF_FORMAT_FLAC | SF_FORMAT_PCM_24,
                               SF_FORMAT_OGG | SF_FORMAT_VORBIS, SF_FORMAT_MPEG | SF_FORMAT_MPEG_LAYER_III};
    SF_VIRTUAL_IO io = {stream_length, stream_seek, stream_read, stream_write, stream_tell};
    SF_INFO info = {.samplerate = PA_SOUND_RATE, .channels = 2, .format = code[format]};
    const char *name = pa_sound_format_name(format);
    pa_status s = PA_OK;
    if (!sf_format_check(&info)) return pa_error(err, PA_USAGE, "this libsndfile writes no %s", name);
    SNDFILE *out = sf_open_virtual(&io, SFM_WRITE, &info, stream);
    if (!out) return pa_error(err, PA_FAIL, "cannot write %s: %s", name, sf_strerror(NULL));
    set_up(out, format, title);
    for (size_t done = 0, part; done < sound->frames && !s; done += part) { // libvorbis has all of a part on its stack
        part = sound->frames - done < PART ? sound->frames - done : PART;
        if (sf_writef_float(out, sound->sample + 2 * done, (sf_count_t)part) != (sf_count_t)part)
            s = pa_error(err, PA_FAIL, "cannot write %s: %s", name, sf_strerror(out));
    }
    int closed = sf_close(out);
    if (closed && !s) s = pa_error(err, PA_FAIL, "cannot write %s: %s", name, sf_error_number(closed));
    return s;
}

pa_status pa_sound_write(const pa_sound *sound, const char *path, pa_sound_format format, const char *title,
                         pa_err *err) {
    pa_file file;
    pa_err why = {""};
    pa_status s = pa_file_create(&file, path, err);
    if (s) return s;
    s = pa_sound_encode(sound, file.stream, format, title, &why);
    if (!s || ferror(file.stream)) return pa_file_commit(&file, err);
    pa_file_abandon(&file);
    return pa_error(err, s, "%s: %s", path, why.text);
}
#endif
