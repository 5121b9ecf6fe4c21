// show.c: see show.h.
#include "host/play/show.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/file.h"
#include "host/play/library.h"
#include "host/play/page.h"
#include "host/play/roll.h"

enum { PATH_SIZE = 4096 };

// ---- checks

static pa_status check_end(const char *path, const char *option, const char *end, pa_err *err) {
    return pa_ends_with(path, end)
               ? PA_OK
               : pa_error(err, PA_USAGE, "--%s: expected a name in %s, found %s", option, end, path);
}

static pa_status check_created(const char *option, const char *path, pa_err *err) {
    pa_file created;
    pa_status s = pa_check_spares_runs(option, path, err);
    if (!s) s = pa_file_create(&created, path, err);
    if (!s) pa_file_abandon(&created);
    return s;
}

static pa_status check_sound(const char *path, pa_sound_format format, int number, pa_err *err) {
    const char *option = pa_sound_format_name(format);
    const pa_output o = {.path = path, .number = number};
    char end[8], name[PATH_SIZE];
    snprintf(end, sizeof end, ".%s", option);
    pa_status s = check_end(path, option, end, err);
    for (int k = 0; k < number && !s; k++) {
        s = pa_output_name(&o, (size_t)k, name, sizeof name, err);
        if (!s) s = check_created(option, name, err);
    }
    return s;
}

static pa_status check_pictures(const pa_show *show, int number, pa_err *err) {
    pa_status s = PA_OK;
    if (show->page) s = check_end(show->page, "html", ".html", err);
    if (!s && show->page) s = pa_roll_check("roll.svg", 1, err);
    if (!s && show->roll) s = pa_roll_check(show->roll, (size_t)number, err);
    if (!s && show->page) s = check_created("html", show->page, err);
    if (!s && show->roll) s = check_created("piano-roll", show->roll, err);
    return s;
}

pa_status pa_show_check(pa_show *show, int number, pa_err *err) {
    bool sound = show->page || show->play;
    pa_status s = PA_OK;
    for (pa_sound_format f = 0; f < PA_SOUND_FORMATS && !s; f++) {
        if (!show->sound[f]) continue;
        sound = true;
        s = check_sound(show->sound[f], f, number, err);
    }
    if (!s) s = check_pictures(show, number, err);
    if (!s && show->play) s = pa_sound_check_output(err);
    if (!s && sound) return pa_sound_font(show->font, &show->font, err);
    if (!s && show->font)
        s = pa_error(err, PA_USAGE,
                     "expected --wav, --flac, --ogg, --mp3, --html or --play with --soundfont, found none");
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

static pa_status add_take(shown *x, size_t k, const pa_output *o, const pa_primer *p, const pa_take *take,
                          pa_err *err) {
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
                                .pedal = p->pedal,
                                .pedals = o->without_primer ? 0 : p->pedals,
                                .begins = primer - from,
                                .seconds = primer - from + pa_token_seconds(take->token, take->count)};
    return PA_OK;
}

static pa_status take_all(shown *x, const pa_shown *given, pa_err *err) {
    const pa_takes *t = given->takes;
    pa_status s = PA_OK;
    x->count = t->count;
    x->take = calloc(t->count, sizeof *x->take);
    x->notes = calloc(t->count, sizeof *x->notes);
    x->name = calloc(t->count, sizeof *x->name);
    x->midi = calloc(t->count, sizeof *x->midi);
    if (!x->take || !x->notes || !x->name || !x->midi)
        return pa_error(err, PA_FAIL, "no memory for %zu takes", t->count);
    for (size_t k = 0; k < t->count && !s; k++) {
        s = add_take(x, k, given->output, given->primer, &t->take[k], err);
        x->take[k].remark = given->appraisals->take[k].remark;
        x->take[k].features = &given->appraisals->take[k].features;
        x->take[k].rank = given->appraisals->take[k].rank;
    }
    return s;
}

// ---- files

// Each take is rendered once, for its files and the page.
typedef struct {
    const pa_show *show;
    int number;
    const shown *takes;
    pa_piano *piano;
} sounds;

static pa_status copy_to_file(FILE *in, const char *path, pa_err *err) {
    char part[1 << 14];
    pa_file file;
    if (fflush(in)) return pa_error(err, PA_FAIL, "cannot write a temporary file: %s", strerror(errno));
    pa_status s = pa_file_create(&file, path, err);
    if (s) return s;
    rewind(in);
    for (size_t n; (n = fread(part, 1, sizeof part, in));) fwrite(part, 1, n, file.stream);
    if (!ferror(in)) return pa_file_commit(&file, err);
    pa_file_abandon(&file);
    return pa_error(err, PA_FAIL, "cannot read a temporary file: %s", strerror(errno));
}

// Writes take k's files, and its MP3 to a stream of the page's; NULL: there is no page.
static pa_status write_sound(void *arg, size_t k, FILE *mp3, pa_err *err) {
    const sounds *x = arg;
    const pa_rendition *r = &x->takes->take[k];
    pa_sound sound;
    char name[PATH_SIZE];
    pa_status s = pa_piano_play(x->piano, r, &sound, err);
    if (!s && mp3) s = pa_sound_encode(&sound, mp3, PA_SOUND_MP3, r->name, err);
    for (pa_sound_format f = 0; f < PA_SOUND_FORMATS && !s; f++) {
        const pa_output o = {.path = x->show->sound[f], .number = x->number};
        if (!o.path) continue;
        s = pa_output_name(&o, k, name, sizeof name, err);
        if (s) break;
        s = f == PA_SOUND_MP3 && mp3 ? copy_to_file(mp3, name, err) : pa_sound_write(&sound, name, f, r->name, err);
    }
    pa_sound_clear(&sound);
    return s;
}

static pa_status write_page(sounds *x, const pa_shown *given, pa_err *err) {
    const pa_primer *p = given->primer;
    char title[300];
    snprintf(title, sizeof title, "%s%s", p->count ? p->name : "Piano music", p->count ? ", continued" : "");
    const pa_page page = {.title = title,
                          .facts = given->facts,
                          .take = x->takes->take,
                          .takes = x->takes->count,
                          .primer = given->appraisals->has_primer ? &given->appraisals->primer.features : NULL,
                          .midi = pa_output_is_tokens(given->output) ? NULL : x->takes->midi,
                          .sound = write_sound,
                          .arg = x};
    return pa_page_write(x->show->page, &page, err);
}

pa_status pa_show_write(const pa_show *show, const pa_shown *given, pa_err *err) {
    shown takes = {0};
    sounds x = {.show = show, .number = given->output->number, .takes = &takes};
    pa_file_group group = {0};
    bool audio = false;
    for (pa_sound_format f = 0; f < PA_SOUND_FORMATS; f++) audio = audio || show->sound[f];
    pa_status s = take_all(&takes, given, err);
    if (!s) s = pa_file_group_begin(&group, err);
    if (!s && show->roll) s = pa_roll_write(show->roll, takes.take, takes.count, err);
    if (!s && (audio || show->page)) s = pa_piano_open(&x.piano, show->font, err);
    if (!s && show->page) s = write_page(&x, given, err);
    for (size_t k = 0; k < takes.count && audio && !show->page && !s; k++) s = write_sound(&x, k, NULL, err);
    s = pa_file_group_end(&group, s, err);
    pa_piano_close(x.piano);
    clear(&takes);
    return s;
}

pa_status pa_show_play(const pa_show *show, const pa_shown *given, const volatile sig_atomic_t *stop, pa_err *err) {
    shown takes = {0};
    pa_piano *piano = NULL;
    pa_status s = take_all(&takes, given, err);
    if (!s) s = pa_piano_open(&piano, show->font, err);
    for (size_t k = 0; k < takes.count && !s && !*stop; k++) {
        pa_sound sound;
        fprintf(stderr, "pagen: playing %s; Ctrl-C ends it\n", takes.take[k].name);
        s = pa_piano_play(piano, &takes.take[k], &sound, err);
        if (!s) s = pa_sound_play(&sound, stop, err);
        pa_sound_clear(&sound);
    }
    pa_piano_close(piano);
    clear(&takes);
    return s;
}
