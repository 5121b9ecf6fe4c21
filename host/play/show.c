// show.c: see show.h.
#include "host/play/show.h"

#include <stdlib.h>
#include <string.h>

#include "host/base/file.h"
#include "host/play/page.h"
#include "host/play/roll.h"

enum { PATH_SIZE = 4096 };

// ---- checks

static pa_status check_file(const char *path, const char *option, const char *end, pa_err *err) {
    pa_file created;
    if (!pa_ends_with(path, end)) return pa_error(err, PA_USAGE, "--%s: expected a name in %s, found %s", option, end, path);
    pa_status s = pa_file_create(&created, path, err);
    if (!s) pa_file_abandon(&created);
    return s;
}

static pa_status check_sound(const char *path, pa_sound_format format, int number, pa_err *err) {
    const char *option = pa_sound_format_name(format);
    const pa_output o = {.path = path, .number = number};
    char end[8], name[PATH_SIZE];
    pa_status s = PA_OK;
    snprintf(end, sizeof end, ".%s", option);
    if (!pa_ends_with(path, end)) return pa_error(err, PA_USAGE, "--%s: expected a name in %s, found %s", option, end, path);
    for (int k = 0; k < number && !s; k++) {
        s = pa_output_name(&o, (size_t)k, name, sizeof name, err);
        if (!s) s = check_file(name, option, end, err);
    }
    return s;
}

pa_status pa_show_check(pa_show *show, int number, pa_err *err) {
    bool sound = show->page;
    pa_status s = PA_OK;
    for (pa_sound_format f = 0; f < PA_SOUND_FORMATS && !s; f++) {
        if (!show->sound[f]) continue;
        sound = true;
        s = check_sound(show->sound[f], f, number, err);
    }
    if (!s && show->page) s = check_file(show->page, "html", ".html", err);
    if (!s && show->page) s = pa_roll_check("roll.svg", err);
    if (!s && show->roll && !(s = pa_roll_check(show->roll, err))) s = check_file(show->roll, "piano-roll", strrchr(show->roll, '.'), err);
    if (!s && sound) return pa_sound_font(show->font, &show->font, err);
    if (!s && show->font) s = pa_error(err, PA_USAGE, "expected --wav, --flac, --ogg, --mp3 or --html with --soundfont, found none");
    return s;
}

// ---- takes

// Takes as they are shown.
typedef struct {
    pa_rendition *take;
    pa_take_notes *notes;    // theirs
    char (*name)[PATH_SIZE]; // of the MIDI files
    const char **midi;       // the same
    size_t count;
} shown;

static void clear(shown *x) {
    for (size_t k = 0; k < x->count && x->notes; k++) free(x->notes[k].note);
    free(x->take);
    free(x->notes);
    free(x->name);
    free(x->midi);
}

static pa_status add_take(shown *x, size_t k, const pa_output *o, const pa_primer *p, const pa_take *take, pa_err *err) {
    pa_take_notes *n = &x->notes[k];
    double primer = pa_primer_seconds(p), from = o->without_primer ? primer : 0;
    pa_status s = pa_take_decode(p, take, p->bytes ? p->before : p->count, n, err);
    if (s) return s;
    size_t first = o->without_primer ? n->primer : 0;
    for (size_t i = first; i < n->count; i++) {
        n->note[i].start -= from;
        n->note[i].end -= from;
    }
    if (pa_output_is_tokens(o))
        snprintf(x->name[k], sizeof *x->name, "continuation %zu", k + 1);
    else if ((s = pa_output_name(o, k, x->name[k], sizeof *x->name, err)))
        return s;
    const char *slash = strrchr(x->name[k], '/');
    x->midi[k] = x->name[k];
    x->take[k] = (pa_rendition){.name = slash ? slash + 1 : x->name[k],
                                .note = n->note + first,
                                .notes = n->count - first,
                                .begins = primer - from,
                                .seconds = primer - from + pa_token_seconds(take->token, take->count)};
    return PA_OK;
}

static pa_status take_all(shown *x, const pa_output *o, const pa_primer *p, const pa_takes *t, pa_err *err) {
    pa_status s = PA_OK;
    x->count = t->count;
    x->take = calloc(t->count, sizeof *x->take);
    x->notes = calloc(t->count, sizeof *x->notes);
    x->name = calloc(t->count, sizeof *x->name);
    x->midi = calloc(t->count, sizeof *x->midi);
    if (!x->take || !x->notes || !x->name || !x->midi) return pa_error(err, PA_FAIL, "no memory for %zu takes", t->count);
    for (size_t k = 0; k < t->count && !s; k++) s = add_take(x, k, o, p, &t->take[k], err);
    return s;
}

// ---- files

static pa_status write_sound(const pa_show *show, int number, const pa_rendition *r, size_t k, pa_piano *piano, pa_err *err) {
    pa_sound sound;
    pa_status s = pa_piano_play(piano, r, &sound, err);
    for (pa_sound_format f = 0; f < PA_SOUND_FORMATS && !s; f++) {
        const pa_output o = {.path = show->sound[f], .number = number};
        char name[PATH_SIZE];
        if (!o.path) continue;
        s = pa_output_name(&o, k, name, sizeof name, err);
        if (!s) s = pa_sound_write(&sound, name, f, r->name, err);
    }
    pa_sound_clear(&sound);
    return s;
}

static pa_status write_sounds(const pa_show *show, int number, const shown *x, pa_err *err) {
    pa_piano *piano;
    bool wanted = false;
    for (pa_sound_format f = 0; f < PA_SOUND_FORMATS; f++) wanted = wanted || show->sound[f];
    if (!wanted) return PA_OK;
    pa_status s = pa_piano_open(&piano, show->font, err);
    for (size_t k = 0; k < x->count && !s; k++) s = write_sound(show, number, &x->take[k], k, piano, err);
    pa_piano_close(piano);
    return s;
}

pa_status pa_show_write(const pa_show *show, const pa_output *o, const pa_primer *p, const pa_takes *t, const char *facts, pa_err *err) {
    shown x = {0};
    pa_status s = take_all(&x, o, p, t, err);
    if (!s && show->roll) s = pa_roll_write(show->roll, x.take, x.count, err);
    if (!s) s = write_sounds(show, o->number, &x, err);
    if (!s && show->page) {
        char title[300];
        snprintf(title, sizeof title, "%s%s", p->count ? p->name : "Piano music", p->count ? ", continued" : "");
        const pa_page page = {.title = title,
                              .facts = facts,
                              .take = x.take,
                              .takes = x.count,
                              .midi = pa_output_is_tokens(o) ? NULL : x.midi,
                              .font = show->font};
        s = pa_page_write(show->page, &page, err);
    }
    clear(&x);
    return s;
}
