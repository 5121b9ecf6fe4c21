// files.c: see files.h.
#include "host/serve/files.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/base/file.h"
#include "host/play/library.h"
#include "host/play/page.h"
#include "host/play/sound.h"
#include "host/serve/say.h"

enum { LONGEST_FOLDER = 1024, LONGEST_PATH = LONGEST_FOLDER + 64 };

typedef struct {
    uint64_t client;
    int take;
    char name[32];
    double begins; // seconds
    patrain_note *note;
    size_t notes;
} page_job;

struct pa_files {
    pa_hub *hub;
    const char *model, *font;
    pthread_mutex_t lock;
    pthread_cond_t wanted;
    pthread_t thread;
    bool started, stopped;
    char rendering[LONGEST_FOLDER]; // scratch folder of the page that is rendered; "": none is
    page_job job[PA_MOST_PAGES_OF_ALL];
    int jobs;
};

// A folder for one file's way in or out: one for all would be gone some day where old files of /tmp are removed.
static pa_status make_scratch(char folder[LONGEST_FOLDER], pa_err *err) {
    const char *temporary = getenv("TMPDIR");
    if (!temporary || !*temporary) temporary = "/tmp";
    int n = snprintf(folder, LONGEST_FOLDER, "%s/paserve-XXXXXX", temporary);
    if (n < LONGEST_FOLDER && mkdtemp(folder)) return PA_OK;
    pa_error(err, PA_FAIL, "cannot create the temporary folder %s: %s", folder,
             strerror(n < LONGEST_FOLDER ? errno : ENAMETOOLONG));
    *folder = 0;
    return PA_FAIL;
}

static void remove_scratch(const char *folder) {
    pa_err why;
    if (*folder && pa_remove_tree(folder, &why)) fprintf(stderr, "paserve: %s\n", why.text);
}

// ---- MIDI

static pa_status read_midi(pa_reader *reader, const char *path, pa_piece *piece, pa_err *err) {
    const pa_encode_options how = {.encoding = PA_PERFORMANCE, .lenient = true, .trim_silence = true};
    pa_err longer;
    pa_status e = pa_reader_encode(reader, path, &how, piece, &longer);
    size_t name = strlen(path);
    bool named = !strncmp(longer.text, path, name);
    return e ? pa_error(err, e, "%s", longer.text + (named ? name + 2 : 0)) : PA_OK;
}

static pa_status write_bytes(const char *path, const pa_message *m, pa_err *err) {
    pa_file file;
    pa_status e = pa_file_create(&file, path, err);
    if (e) return e;
    fwrite(m->bytes, 1, m->count, file.stream);
    return pa_file_commit(&file, err);
}

pa_status pa_files_read(pa_reader *reader, const pa_message *m, pa_take *t, pa_err *err) {
    char folder[LONGEST_FOLDER], path[LONGEST_PATH];
    pa_piece piece = {0};
    pa_status e = make_scratch(folder, err);
    snprintf(path, sizeof path, "%s/upload.mid", folder);
    if (!e) e = write_bytes(path, m, err);
    if (!e) e = read_midi(reader, path, &piece, err);
    if (!e) e = pa_take_from_tokens(t, piece.token, piece.count, err);
    pa_piece_clear(&piece);
    remove_scratch(folder);
    return e;
}

// Sends a file.
static pa_status send(pa_files *f, uint64_t client, const char *is, int take, const char *path, pa_err *err) {
    char *bytes;
    size_t count;
    pa_status e = pa_read_text(path, &bytes, &count, err);
    if (e) return e;
    bool sent = pa_say_file(f->hub, client, is, take, bytes, count);
    free(bytes);
    return sent ? PA_OK : pa_error(err, PA_FAIL, "too many files wait to be sent; try again later");
}

pa_status pa_files_send_midi(pa_files *f, uint64_t client, const pa_take *t, pa_err *err) {
    char folder[LONGEST_FOLDER], path[LONGEST_PATH];
    if (!t->keys) return pa_error(err, PA_DATA, "take %d has no notes", t->number + 1);
    pa_status e = make_scratch(folder, err);
    snprintf(path, sizeof path, "%s/take.mid", folder);
    if (!e) e = pa_take_write_midi(t, path, err);
    if (!e) e = send(f, client, "midi", t->number, path, err);
    remove_scratch(folder);
    return e;
}

// ---- pages

typedef struct {
    const pa_rendition *take;
    const char *font;
} sound_job;

static pa_status write_sound(void *arg, size_t k, FILE *mp3, pa_err *err) {
    const sound_job *x = arg;
    pa_piano *piano;
    pa_sound sound = {0};
    (void)k;
    pa_status e = pa_piano_open(&piano, x->font, err);
    if (!e) e = pa_piano_play(piano, x->take, &sound, err);
    pa_piano_close(piano);
    if (!e) e = pa_sound_encode(&sound, mp3, PA_SOUND_MP3, x->take->name, err);
    pa_sound_clear(&sound);
    return e;
}

static pa_status make_page(pa_files *f, const page_job *j, const char *folder, pa_err *err) {
    char path[LONGEST_PATH], midi[LONGEST_PATH], facts[300];
    const char *const file[] = {midi};
    patrain_error why;
    pa_note *note = malloc(j->notes * sizeof *note);
    if (!note) return pa_error(err, PA_FAIL, "no memory for a page");
    for (size_t i = 0; i < j->notes; i++) {
        const patrain_note *n = &j->note[i];
        note[i] = (pa_note){n->start, n->end, n->pitch, n->velocity, n->token};
    }
    pa_features features, primer;
    const pa_rendition take = {
        .name = j->name, .features = &features, .note = note, .notes = j->notes, .begins = j->begins};
    sound_job sound = {&take, f->font};
    snprintf(path, sizeof path, "%s/page.html", folder);
    snprintf(midi, sizeof midi, "%s/%s.mid", folder, j->name);
    snprintf(facts, sizeof facts, "Played with the model %s.", f->model);
    const pa_page page = {.title = j->name,
                          .facts = facts,
                          .take = &take,
                          .takes = 1,
                          .primer = j->begins > 0 ? &primer : NULL,
                          .midi = file,
                          .sound = write_sound,
                          .arg = &sound};
    const pa_passage all = {note, j->notes, j->begins, pa_rendition_seconds(&take)};
    pa_status e = pa_features_measure_take(&all, &primer, &features, err);
    if (!e) e = pa_from_library(patrain_write_midi(midi, j->note, j->notes, &why), &why, err);
    if (!e) e = pa_page_write(path, &page, err);
    free(note);
    return e ? e : send(f, j->client, "page", j->take, path, err);
}

// One at a time, at a lower priority: a duet comes first.
static void *render(void *arg) {
    pa_files *f = arg;
    if (nice(10) < 0) errno = 0; // this thread's; as it is, otherwise
    pthread_mutex_lock(&f->lock);
    for (;;) {
        char folder[LONGEST_FOLDER] = "";
        pa_err why;
        while (!f->jobs && !f->stopped) pthread_cond_wait(&f->wanted, &f->lock);
        if (f->stopped) break;
        page_job j = f->job[0];
        memmove(f->job, f->job + 1, (size_t)--f->jobs * sizeof *f->job);
        pa_status e = make_scratch(folder, &why);
        memcpy(f->rendering, folder, sizeof folder);
        pthread_mutex_unlock(&f->lock);
        if (!e) e = make_page(f, &j, folder, &why);
        if (e) pa_say_error(f->hub, j.client, why.text);
        patrain_free(j.note);
        pthread_mutex_lock(&f->lock);
        if (!f->stopped) remove_scratch(folder);
        *f->rendering = 0;
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

pa_status pa_files_send_page(pa_files *f, uint64_t client, const pa_take *t, pa_err *err) {
    page_job j = {.client = client, .take = t->number};
    if (!t->keys) return pa_error(err, PA_DATA, "take %d has no notes", t->number + 1);
    if (t->end > PA_LONGEST_PAGE * PA_STEPS_A_SECOND)
        return pa_error(err, PA_DATA, "a page holds at most %d minutes", PA_LONGEST_PAGE / 60);
    snprintf(j.name, sizeof j.name, "%s %d", t->given ? "File" : t->parent >= 0 ? "Take" : "Duet", t->number + 1);
    if (t->parent >= 0) j.begins = (double)t->begins / PA_STEPS_A_SECOND;
    pa_status e = pa_take_decode(t, &j.note, &j.notes, err);
    if (e) return e;
    int own = 0;
    pthread_mutex_lock(&f->lock);
    for (int i = 0; i < f->jobs; i++) own += f->job[i].client == client;
    int waiting = f->jobs;
    bool full = own == PA_MOST_PAGES || waiting == PA_MOST_PAGES_OF_ALL;
    if (!full) f->job[f->jobs++] = j;
    pthread_cond_signal(&f->wanted);
    pthread_mutex_unlock(&f->lock);
    if (!full) return PA_OK;
    patrain_free(j.note);
    return pa_error(err, PA_FAIL, "%d pages wait to be rendered; try again later", waiting);
}

// ---- life

pa_status pa_files_open(pa_files **files, pa_hub *hub, const char *model, const char *font, pa_err *err) {
    pa_files *f = *files = calloc(1, sizeof *f);
    if (!f) return pa_error(err, PA_FAIL, "no memory for files");
    f->hub = hub;
    f->model = model;
    f->font = font;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->wanted, NULL);
    char folder[LONGEST_FOLDER];
    pa_status tried = make_scratch(folder, err);
    remove_scratch(folder);
    if (tried) return tried;
    int e = pthread_create(&f->thread, NULL, render, f);
    f->started = !e;
    return e ? pa_error(err, PA_FAIL, "cannot start a thread: %s", strerror(e)) : PA_OK;
}

bool pa_files_stop(pa_files *f) {
    pthread_mutex_lock(&f->lock);
    f->stopped = true;
    bool idle = !*f->rendering;
    remove_scratch(f->rendering);
    pthread_cond_signal(&f->wanted);
    pthread_mutex_unlock(&f->lock);
    return idle;
}

void pa_files_close(pa_files *f) {
    if (!f) return;
    if (f->started) pthread_join(f->thread, NULL);
    for (int i = 0; i < f->jobs; i++) patrain_free(f->job[i].note);
    pthread_cond_destroy(&f->wanted);
    pthread_mutex_destroy(&f->lock);
    free(f);
}
