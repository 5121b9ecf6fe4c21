// player.c: see player.h.
#include "host/serve/player.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/file.h"
#include "host/play/library.h"
#include "host/serve/files.h"
#include "host/serve/say.h"
#include "host/serve/work.h"
#include "tokenizer/tokens.h"

enum { REQUESTS_A_SLICE = 64 };

struct pa_player {
    pa_player_options o;
    pa_work work;
    pa_files *files;
    patrain_model *model;
    pthread_t thread;
    bool started;
};

static int32_t steps_of(double seconds) {
    return (int32_t)lround(seconds * PA_STEPS_A_SECOND);
}

// ---- room

static size_t count_keys(const pa_player *p) {
    size_t keys = 0;
    for (int i = 0; i < PA_MOST_SESSIONS; i++) keys += pa_session_keys(&p->work.session[i]);
    return keys;
}

// The session without a connection that was used longest ago goes from memory to its file. PA_FAIL: there is none.
static pa_status retire_oldest(pa_player *p, pa_err *err) {
    int saved;
    pa_session *oldest = pa_session_oldest(p->work.session);
    if (!oldest) return pa_error(err, PA_FAIL, "the server is full; try again later, or remove takes");
    pa_status e = pa_session_count_saved(p->o.folder, &saved, err);
    if (!e && saved >= PA_MOST_SAVED)
        e = pa_error(err, PA_FAIL, "the server is full: %d sessions are saved in %s/sessions, the most", saved,
                     p->o.folder);
    if (!e) e = pa_session_save(oldest, p->o.folder, err);
    if (e) return e;
    pa_engines_forget(&p->work.engines, oldest);
    pa_session_clear(oldest);
    return PA_OK;
}

static pa_status check_room(pa_player *p, const pa_session *s, pa_err *err) {
    pa_status e = PA_OK;
    if (pa_session_keys(s) >= PA_MOST_KEYS_OF_ONE)
        return pa_error(err, PA_DATA, "this session is full; remove takes first");
    while (!e && count_keys(p) >= PA_MOST_KEYS_OF_ALL) e = retire_oldest(p, err);
    return e;
}

// ---- requests

static pa_status begin(pa_player *p, pa_session *s, pa_activity activity, const pa_message *m, pa_err *err) {
    int number = (int)m->number;
    if (s->activity != PA_IDLE) return pa_error(err, PA_DATA, "stop first: the model is busy with this session");
    pa_status e = check_room(p, s, err);
    if (!e && s->takes + number > PA_MOST_TAKES)
        e = pa_error(err, PA_DATA, "a session holds at most %d takes; remove %d first", PA_MOST_TAKES,
                     s->takes + number - PA_MOST_TAKES);
    if (e) return e;
    s->activity = activity;
    s->over = false;
    s->active = s->numbers;
    s->growing = (1U << number) - 1;
    s->answer = (pa_answer){0};
    patrain_sampling_default(&s->how, sizeof s->how);
    s->how.seed = (uint64_t)m->seed;
    pa_work_set(s, m->temperature, m->density);
    return PA_OK;
}

static pa_status add_continuation(pa_player *p, pa_session *s, const pa_message *m, int32_t at, pa_err *err) {
    pa_take *t;
    pa_status e = pa_session_add(s, &t, err);
    const pa_take *from = pa_session_take(s, m->take);
    if (e) return e;
    t->parent = from->number;
    t->begins = at;
    e = pa_take_copy(t, from, at, err);
    if (!e && pa_take_is_full(t))
        e = pa_error(err, PA_DATA, "a take holds at most %d notes; continue this one from an earlier point",
                     PA_MOST_KEYS / 2);
    if (e) {
        pa_session_drop(s, t);
        return e;
    }
    pa_say_take(p->work.hub, s, t);
    pa_say_keys(p->work.hub, s, t, 0);
    return PA_OK;
}

static pa_status begin_continuation(pa_player *p, pa_session *s, const pa_message *m, pa_err *err) {
    const pa_take *from = pa_session_take(s, m->take);
    bool together;
    if (!from) return pa_error(err, PA_DATA, "take: expected one of this session, found %.0f", m->take);
    int32_t at = steps_of(m->at) < from->end ? steps_of(m->at) : from->end;
    if (at + steps_of(m->seconds) > PA_LONGEST_TAKE * PA_STEPS_A_SECOND)
        return pa_error(err, PA_DATA, "a take lasts at most %d hours", PA_LONGEST_TAKE / 3600);
    pa_status e = begin(p, s, PA_CONTINUING, m, err);
    if (e) return e;
    s->until = at + steps_of(m->seconds);
    for (int k = 0; k < (int)m->number && !e; k++) e = add_continuation(p, s, m, at, err);
    if (!e && m->number > 1)
        e = pa_engines_begin_group(&p->work.engines, s, pa_session_active(s), (int)m->number, &together, err);
    if (!e) return PA_OK;
    pa_work_end(&p->work, s);
    return e;
}

static pa_status begin_duet(pa_player *p, pa_session *s, const pa_message *m, pa_err *err) {
    pa_take *t;
    pa_status e = begin(p, s, PA_LISTENING, m, err);
    if (!e) e = pa_session_add(s, &t, err);
    if (!e) pa_say_take(p->work.hub, s, t);
    return e;
}

static pa_status strike(pa_player *p, pa_session *s, pa_take *t, const pa_message *m, pa_err *err) {
    pa_stroke key = {steps_of(m->time), (uint8_t)m->pitch, (uint8_t)m->velocity, false};
    if (s->activity == PA_CONTINUING) return pa_error(err, PA_DATA, "key: expected a duet, found a continuation");
    if (s->activity == PA_ANSWERING) {
        if (!key.velocity) return PA_OK; // the model decides how long keys last that are held into its turn
        pa_status e = pa_work_interrupt(&p->work, s, m->time, false, err);
        if (e) return e;
        s->activity = PA_LISTENING;
    }
    pa_err why;
    if (pa_take_add(t, key, &why)) pa_work_fail(&p->work, s, &why);
    return PA_OK;
}

static pa_status begin_answer(pa_session *s, const pa_take *t, const pa_request *r, pa_err *err) {
    if (s->activity != PA_LISTENING) return pa_error(err, PA_DATA, "answer: expected a duet that listens");
    if (!t->keys) return pa_error(err, PA_DATA, "play something first");
    pa_work_begin_answer(s, t, r->arrived, r->message.time);
    s->answer.turn = r->message.turn;
    return PA_OK;
}

// Stop, or the player's turn again.
static pa_status end_turn(pa_player *p, pa_session *s, const pa_take *t, const pa_message *m, pa_err *err) {
    bool stop = m->deed == PA_DO_STOP;
    if (!stop && s->activity != PA_ANSWERING) return PA_OK;
    pa_status e = pa_work_interrupt(&p->work, s, m->time, stop, err);
    if (stop) {
        pa_work_end(&p->work, s);
    } else {
        s->activity = PA_LISTENING;
        pa_say_event(p->work.hub, s, "listening", t, t->end);
    }
    return e;
}

static pa_status add_file(pa_player *p, pa_session *s, const pa_message *m, pa_err *err) {
    pa_take *t;
    pa_status e = check_room(p, s, err);
    if (!e) e = pa_session_add(s, &t, err);
    if (e) return e;
    t->given = true;
    e = pa_files_read(p->o.reader, m, t, err);
    if (e) {
        pa_session_drop(s, t);
        return e;
    }
    pa_say_take(p->work.hub, s, t);
    pa_say_keys(p->work.hub, s, t, 0);
    pa_say_event(p->work.hub, s, "loaded", t, t->end);
    return PA_OK;
}

static pa_status receive_midi(pa_player *p, pa_session *s, const pa_message *m, pa_err *err) {
    pa_err why;
    pa_status e = add_file(p, s, m, &why);
    return e ? pa_error(err, e, "this file: %s", why.text) : PA_OK; // the page knows its name
}

static pa_status about_take(pa_player *p, pa_session *s, const pa_message *m, pa_err *err) {
    pa_take *t = pa_session_take(s, m->take);
    if (!t) return pa_error(err, PA_DATA, "take: expected one of this session, found %.0f", m->take);
    if (m->deed == PA_DO_MIDI) return pa_files_send_midi(p->files, s->client, t, err);
    if (m->deed == PA_DO_PAGE) return pa_files_send_page(p->files, s->client, t, err);
    if (m->deed == PA_DO_TAKE) {
        pa_say_keys(p->work.hub, s, t, 0);
        pa_say_event(p->work.hub, s, "loaded", t, t->end);
        return PA_OK;
    }
    for (int k = 0; k < PA_MOST_AT_ONCE; k++)
        if (t == pa_session_growing(s, k))
            return pa_error(err, PA_DATA, "stop first: take %d is still growing", t->number + 1);
    pa_say_event(p->work.hub, s, "dropped", t, 0);
    pa_session_drop(s, t);
    return PA_OK;
}

static void detach(pa_player *p, pa_session *s) {
    pa_err why;
    s->client = 0;
    if (pa_work_interrupt(&p->work, s, pa_clock() - s->answer.origin, true, &why))
        fprintf(stderr, "paserve: %s\n", why.text);
    pa_work_end(&p->work, s);
    if (s->takes) return;
    pa_engines_forget(&p->work.engines, s);
    pa_session_clear(s);
}

// That of the id, if it was saved, else a new one; *lost says why not that of the id.
static pa_status open_session(pa_player *p, const char *id, pa_session **s, pa_err *lost, pa_err *err) {
    bool found = false;
    pa_status e = pa_session_free(p->work.session) ? PA_OK : retire_oldest(p, err);
    if (e) return e;
    *s = pa_session_free(p->work.session);
    while (!e && count_keys(p) >= PA_MOST_KEYS_OF_ALL) e = retire_oldest(p, lost);
    if (!e) e = pa_session_load(*s, p->o.folder, id, &found, lost);
    if (e) fprintf(stderr, "paserve: %s\n", lost->text);
    return found && !e ? PA_OK : pa_random_digits((*s)->id, PA_SESSION_ID, err);
}

static pa_status hello(pa_player *p, uint64_t client, const char *id, pa_err *err) {
    pa_session *own = pa_session_of(p->work.session, client), *s;
    if (own) detach(p, own);
    s = pa_session_find(p->work.session, id);
    if (s && s->client) {
        pa_say_elsewhere(p->work.hub, s->client);
        detach(p, s);
        s = pa_session_find(p->work.session, id);
    }
    pa_err lost = {""};
    if (!s) {
        pa_status e = open_session(p, id, &s, &lost, err);
        if (e) return e;
    }
    s->client = client;
    s->used = pa_clock();
    pa_say_session(p->work.hub, s, p->o.model, p->o.piano);
    if (*lost.text) pa_say_error(p->work.hub, client, lost.text);
    return PA_OK;
}

static pa_status perform(pa_player *p, pa_session *s, const pa_request *r, pa_err *err) {
    const pa_message *m = &r->message;
    pa_take *t = pa_session_active(s);
    if (m->deed == PA_DO_UPLOAD) return receive_midi(p, s, m, err);
    if (m->deed == PA_DO_CONTINUE) return begin_continuation(p, s, m, err);
    if (m->deed == PA_DO_DUET) return begin_duet(p, s, m, err);
    if (m->deed == PA_DO_TAKE || m->deed == PA_DO_DROP || m->deed == PA_DO_MIDI || m->deed == PA_DO_PAGE)
        return about_take(p, s, m, err);
    if (!t)
        return s->over || m->deed == PA_DO_STOP ? PA_OK : pa_error(err, PA_DATA, "expected a duet; begin one first");
    if (m->deed == PA_DO_HOW) return pa_work_set(s, m->temperature, m->density), PA_OK;
    if (m->deed == PA_DO_KEY) return strike(p, s, t, m, err);
    if (m->deed == PA_DO_ANSWER) return begin_answer(s, t, r, err);
    return end_turn(p, s, t, m, err);
}

static void handle(pa_player *p, const pa_request *r) {
    pa_err why = {""};
    pa_status e;
    pa_session *s = pa_session_of(p->work.session, r->client);
    if (s) s->used = r->arrived;
    if (r->message.deed == PA_DO_LEAVE) {
        if (s) detach(p, s);
        return;
    }
    if (r->message.deed == PA_DO_HELLO)
        e = hello(p, r->client, r->message.session, &why);
    else
        e = s ? perform(p, s, r, &why) : pa_error(&why, PA_DATA, "expected hello first");
    if (e) pa_say_error(p->work.hub, r->client, why.text);
    free(r->message.bytes);
}

static void *run(void *arg) {
    pa_player *p = arg;
    pa_request r;
    while (!pa_hub_is_stopped(p->work.hub)) {
        double wait = pa_work_do(&p->work);
        for (int i = 0; i < REQUESTS_A_SLICE && pa_hub_next(p->work.hub, &r, i ? 0 : wait); i++) handle(p, &r);
    }
    return NULL;
}

// ---- life

// Takes can be saved in it.
static pa_status check_folder(const char *folder, pa_err *err) {
    char path[4096];
    pa_file probe;
    pa_status e = pa_make_dirs(folder, err);
    if (e) return e;
    snprintf(path, sizeof path, "%s/probe", folder);
    e = pa_file_create(&probe, path, err);
    if (!e) pa_file_abandon(&probe);
    return e;
}

pa_status pa_player_open(pa_player **player, const pa_player_options *o, pa_hub *hub, pa_err *err) {
    pa_player *p = *player = calloc(1, sizeof *p);
    patrain_error why;
    if (!p) return pa_error(err, PA_FAIL, "no memory for sessions");
    p->o = *o;
    p->work.hub = hub;
    pa_status e = pa_from_library(patrain_model_open(&p->model, o->model, NULL, &why), &why, err);
    if (e) return e;
    const patrain_model_info *info = patrain_model_describe(p->model);
    if (info->encoding != PATRAIN_PERFORMANCE)
        return pa_error(err, PA_DATA, "%s: expected a model of the encoding performance, found midi-neural",
                        info->path);
    p->work.engines = (pa_engines){.model = p->model, .options = o->how, .streams = o->streams};
    e = pa_from_library(patrain_stream_open(&p->work.engines.slot[0].stream, p->model, &o->how, &why), &why, err);
    if (!e) e = check_folder(o->folder, err);
    return e ? e : pa_files_open(&p->files, hub, o->model, o->font, err);
}

const char *pa_player_model(const pa_player *p) {
    return patrain_model_describe(p->model)->path;
}

pa_status pa_player_start(pa_player *p, pa_err *err) {
    int e = pthread_create(&p->thread, NULL, run, p);
    p->started = !e;
    return e ? pa_error(err, PA_FAIL, "cannot start a thread: %s", strerror(e)) : PA_OK;
}

bool pa_player_stop(pa_player *p) {
    if (p->started) {
        pa_hub_stop(p->work.hub);
        pthread_join(p->thread, NULL);
        p->started = false;
    }
    return !p->files || pa_files_stop(p->files);
}

pa_status pa_player_save(pa_player *p, pa_err *err) {
    pa_status first = PA_OK;
    pa_err why;
    for (int i = 0; i < PA_MOST_SESSIONS; i++) {
        pa_session *s = &p->work.session[i];
        if (!*s->id) continue;
        pa_status e = pa_work_interrupt(&p->work, s, pa_clock() - s->answer.origin, true, &why);
        if (e && !first) first = pa_error(err, e, "%s", why.text);
        e = pa_session_save(s, p->o.folder, &why);
        if (e && !first) first = pa_error(err, e, "%s", why.text);
    }
    pa_latency_print(&p->work.latency);
    if (p->work.notes) printf("answers' notes: %zu; late: %zu\n", p->work.notes, p->work.late);
    return first;
}

void pa_player_close(pa_player *p) {
    if (!p) return;
    pa_files_close(p->files);
    for (int i = 0; i < PA_MOST_SESSIONS; i++) pa_session_clear(&p->work.session[i]);
    pa_engines_close(&p->work.engines);
    patrain_model_close(p->model);
    free(p);
}
