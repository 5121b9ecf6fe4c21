// player.c: see player.h.
#include "host/serve/player.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/base/file.h"
#include "host/play/library.h"
#include "host/serve/engines.h"
#include "host/serve/latency.h"
#include "host/serve/say.h"
#include "tokenizer/tokens.h"

enum {
    AHEAD = 4 * PA_STEPS_A_SECOND, // how far an answer is ahead of the page's clock
    HEAD_START = 5,                // steps from the trigger to where an answer may begin: what its first note takes
    KEYS_A_SLICE = 16,             // of a continuation, before others get their turn
    REQUESTS_A_SLICE = 64,
};

struct pa_player {
    pa_player_options o;
    pa_hub *hub;
    patrain_model *model;
    pa_engines engines;
    pa_session session[PA_MOST_SESSIONS];
    pa_latency latency;
    char scratch[64]; // folder
    int next;         // session whose continuation is next
    pthread_t thread;
    bool started;
};

// ---- music

static int32_t steps_of(double seconds) {
    return (int32_t)lround(seconds * PA_STEPS_A_SECOND);
}

static pa_take *active(pa_session *s) {
    return s->activity == PA_IDLE ? NULL : pa_session_take(s, s->active);
}

static void go_idle(pa_session *s, pa_take *t, pa_hub *hub) {
    s->activity = PA_IDLE;
    pa_say_event(hub, s, "done", t, t->end);
}

static void fail(pa_player *p, pa_session *s, pa_take *t, const pa_err *why) {
    pa_engines_forget(&p->engines, s);
    pa_say_error(p->hub, s->client, why->text);
    go_idle(s, t, p->hub);
}

// The first note of an answer has been sent.
static void measure(pa_player *p, pa_session *s, const pa_take *t) {
    double sent = pa_clock() - s->asked, sounds = (double)(t->end - s->until + HEAD_START) / PA_STEPS_A_SECOND;
    pa_latency_add(&p->latency, sent);
    printf("session %.8s: first note sent %.1f ms after the trigger, sounds at %.0f ms\n", s->id, 1000 * sent,
           1000 * sounds);
    pa_say_event(p->hub, s, "first", t, 1000 * sent);
    s->asked = 0;
}

static void answer(pa_player *p, pa_session *s, pa_take *t) {
    pa_engine_slot *slot;
    pa_err why;
    size_t before = t->keys;
    pa_status e = pa_engines_follow(&p->engines, s, t, s->until, &slot, &why);
    if (!e) e = pa_engine_play(slot, s, t, &why);
    if (e) return fail(p, s, t, &why);
    pa_say_keys(p->hub, s, t, before);
    if (s->asked > 0 && t->key[t->keys - 1].velocity) measure(p, s, t);
}

static void listen(pa_player *p, pa_session *s, pa_take *t) {
    pa_engine_slot *slot;
    pa_err why;
    pa_status e = pa_engines_follow(&p->engines, s, t, 0, &slot, &why);
    if (!e) e = pa_engine_read(slot, &why);
    if (e) fail(p, s, t, &why);
}

static void proceed(pa_player *p, pa_session *s, pa_take *t) {
    pa_engine_slot *slot;
    pa_err why;
    size_t before = t->keys;
    pa_status e = pa_engines_follow(&p->engines, s, t, t->begins, &slot, &why);
    for (int i = 0; i < KEYS_A_SLICE && t->end < s->until && !e; i++) e = pa_engine_play(slot, s, t, &why);
    if (!e && t->end >= s->until) {
        e = pa_take_cut(t, s->until, true, &why);
        pa_engines_forget(&p->engines, s);
    }
    pa_say_keys(p->hub, s, t, before < t->keys ? before : t->keys);
    if (e)
        fail(p, s, t, &why);
    else if (t->end >= s->until)
        go_idle(s, t, p->hub);
}

// Seconds until an answer needs its next key; what must be computed first comes first.
static double urgency(const pa_session *s, const pa_take *t) {
    double now = (pa_clock() - s->origin) * PA_STEPS_A_SECOND;
    return s->asked > 0 ? -1e9 : ((double)t->end - now - AHEAD) / PA_STEPS_A_SECOND;
}

// Computes a little for the session that needs it most. Returns the seconds until something is due.
static double work(pa_player *p) {
    pa_session *first = NULL, *reader = NULL, *writer = NULL;
    double wait = 1;
    for (int i = 0; i < PA_MOST_SESSIONS; i++) {
        pa_session *s = &p->session[i], *in_turn = &p->session[(p->next + i) % PA_MOST_SESSIONS];
        pa_take *t = *s->id ? active(s) : NULL;
        if (*in_turn->id && in_turn->activity == PA_CONTINUING && !writer) writer = in_turn;
        if (t && s->activity == PA_LISTENING && pa_engines_is_behind(&p->engines, s, t)) reader = s;
        if (!t || s->activity != PA_ANSWERING) continue;
        double due = urgency(s, t);
        if (due < wait) first = s;
        if (due < wait) wait = due;
    }
    if (first && wait <= 0) {
        answer(p, first, active(first));
    } else if (reader) {
        listen(p, reader, active(reader));
    } else if (writer) {
        p->next = (int)(writer - p->session) + 1;
        proceed(p, writer, active(writer));
    } else {
        return wait;
    }
    return 0;
}

// ---- requests

static pa_status check_room(const pa_player *p, pa_err *err) {
    size_t keys = 0;
    for (int i = 0; i < PA_MOST_SESSIONS; i++)
        for (int k = 0; k < p->session[i].takes; k++) keys += p->session[i].take[k].keys;
    return keys < PA_MOST_KEYS_OF_ALL ? PA_OK : pa_error(err, PA_FAIL, "the server is full; remove takes first");
}

static pa_status begin(pa_player *p, pa_session *s, pa_activity activity, const pa_message *m, pa_take **t,
                       pa_err *err) {
    if (s->activity != PA_IDLE) return pa_error(err, PA_DATA, "stop first: the model is busy with this session");
    pa_status e = check_room(p, err);
    if (!e) e = pa_session_add(s, t, err);
    if (e) return e;
    s->activity = activity;
    s->active = (*t)->number;
    s->turn = 0;
    patrain_sampling_default(&s->how, sizeof s->how);
    s->how.temperature = m->temperature;
    s->how.seed = (uint64_t)m->seed;
    return PA_OK;
}

static pa_status begin_continuation(pa_player *p, pa_session *s, const pa_message *m, pa_err *err) {
    pa_take *t, *from = pa_session_take(s, m->take);
    if (!from) return pa_error(err, PA_DATA, "take: expected one of this session, found %.0f", m->take);
    int32_t at = steps_of(m->at) < from->end ? steps_of(m->at) : from->end;
    if (at + steps_of(m->seconds) > PA_LONGEST_TAKE * PA_STEPS_A_SECOND)
        return pa_error(err, PA_DATA, "a take lasts at most %d hours", PA_LONGEST_TAKE / 3600);
    pa_status e = begin(p, s, PA_CONTINUING, m, &t, err);
    if (e) return e;
    from = pa_session_take(s, m->take);
    t->parent = from->number;
    t->begins = at;
    s->until = at + steps_of(m->seconds);
    e = pa_take_copy(t, from, at, err);
    if (e) {
        s->activity = PA_IDLE;
        pa_session_drop(s, t);
        return e;
    }
    pa_say_take(p->hub, s, t);
    pa_say_keys(p->hub, s, t, 0);
    return PA_OK;
}

static pa_status begin_duet(pa_player *p, pa_session *s, const pa_message *m, pa_err *err) {
    pa_take *t;
    pa_status e = begin(p, s, PA_LISTENING, m, &t, err);
    if (!e) pa_say_take(p->hub, s, t);
    return e;
}

// What the model has prepared beyond a moment is gone, and its keys are up.
static pa_status interrupt(pa_player *p, pa_session *s, pa_take *t, double time, bool all, pa_err *err) {
    pa_engines_forget(&p->engines, s);
    int32_t step = steps_of(time);
    return pa_take_cut(t, s->activity == PA_ANSWERING && step < t->end ? step : t->end, all, err);
}

static pa_status strike(pa_player *p, pa_session *s, pa_take *t, const pa_message *m, pa_err *err) {
    pa_stroke key = {steps_of(m->time), (uint8_t)m->pitch, (uint8_t)m->velocity, false};
    if (s->activity == PA_CONTINUING) return pa_error(err, PA_DATA, "key: expected a duet, found a continuation");
    if (s->activity == PA_ANSWERING) {
        if (!key.velocity) return PA_OK; // the model decides how long keys last that are held into its turn
        pa_status e = interrupt(p, s, t, m->time, false, err);
        if (e) return e;
        s->activity = PA_LISTENING;
    }
    return pa_take_add(t, key, err);
}

static pa_status begin_answer(pa_session *s, pa_take *t, const pa_request *r, pa_err *err) {
    if (s->activity != PA_LISTENING) return pa_error(err, PA_DATA, "answer: expected a duet that listens");
    int32_t now = steps_of(r->message.time);
    if (!t->keys) return pa_error(err, PA_DATA, "play something first");
    s->activity = PA_ANSWERING;
    s->until = (now > t->end ? now : t->end) + HEAD_START;
    s->origin = r->arrived - (double)(s->until - HEAD_START) / PA_STEPS_A_SECOND;
    s->asked = r->arrived;
    s->turn = r->message.turn;
    s->how.sequence++; // another answer to the same notes
    return PA_OK;
}

// Stop, or the player's turn again.
static pa_status end_turn(pa_player *p, pa_session *s, pa_take *t, const pa_message *m, pa_err *err) {
    bool stop = m->deed == PA_DO_STOP;
    if (!stop && s->activity != PA_ANSWERING) return PA_OK;
    pa_status e = interrupt(p, s, t, m->time, stop, err);
    s->activity = stop ? PA_IDLE : PA_LISTENING;
    pa_say_event(p->hub, s, stop ? "done" : "listening", t, t->end);
    return e;
}

static pa_status send_midi(pa_player *p, const pa_session *s, const pa_take *t, pa_err *err) {
    char path[96], *bytes;
    size_t count;
    if (!t->keys) return pa_error(err, PA_DATA, "take %d has no notes", t->number + 1);
    snprintf(path, sizeof path, "%s/take.mid", p->scratch);
    pa_status e = pa_take_write_midi(t, path, err);
    if (!e) e = pa_read_text(path, &bytes, &count, err);
    if (e) return e;
    unlink(path);
    pa_say_event(p->hub, s, "midi", t, (double)count);
    pa_hub_say(p->hub, s->client, true, bytes, count);
    free(bytes);
    return PA_OK;
}

static pa_status read_midi(const char *path, uint16_t **token, size_t *count, pa_err *err) {
    const patrain_midi_options how = {.size = sizeof how, .isolated = 1};
    patrain_error why;
    pa_err longer;
    pa_status e =
        pa_from_library(patrain_encode_midi(path, PATRAIN_PERFORMANCE, &how, token, count, NULL, &why), &why, &longer);
    size_t name = strlen(path);
    bool named = !strncmp(longer.text, path, name);
    return e ? pa_error(err, e, "this file: %s", longer.text + (named ? name + 2 : 0)) : PA_OK;
}

static pa_status receive_midi(pa_player *p, pa_session *s, const pa_message *m, pa_err *err) {
    char path[96];
    uint16_t *token = NULL;
    size_t count;
    pa_take *t;
    pa_file file;
    snprintf(path, sizeof path, "%s/upload.mid", p->scratch);
    pa_status e = check_room(p, err);
    if (!e) e = pa_file_create(&file, path, err);
    if (e) return e;
    fwrite(m->bytes, 1, m->count, file.stream);
    e = pa_file_commit(&file, err);
    if (!e) e = read_midi(path, &token, &count, err);
    unlink(path);
    if (!e) e = pa_session_add(s, &t, err);
    if (e) goto done;
    t->given = true;
    e = pa_take_from_tokens(t, token, count, err);
    if (e) {
        pa_session_drop(s, t);
        goto done;
    }
    pa_say_take(p->hub, s, t);
    pa_say_keys(p->hub, s, t, 0);
    pa_say_event(p->hub, s, "loaded", t, t->end);
done:
    patrain_free(token);
    return e;
}

static pa_status about_take(pa_player *p, pa_session *s, const pa_message *m, pa_err *err) {
    pa_take *t = pa_session_take(s, m->take);
    if (!t) return pa_error(err, PA_DATA, "take: expected one of this session, found %.0f", m->take);
    if (m->deed == PA_DO_MIDI) return send_midi(p, s, t, err);
    if (m->deed == PA_DO_TAKE) {
        pa_say_keys(p->hub, s, t, 0);
        pa_say_event(p->hub, s, "loaded", t, t->end);
        return PA_OK;
    }
    if (t == active(s)) return pa_error(err, PA_DATA, "stop first: take %d is still growing", t->number + 1);
    pa_say_event(p->hub, s, "dropped", t, 0);
    pa_engines_forget(&p->engines, s);
    pa_session_drop(s, t);
    return PA_OK;
}

static void detach(pa_player *p, pa_session *s) {
    pa_err why;
    pa_take *t = active(s);
    if (t && interrupt(p, s, t, (pa_clock() - s->origin), true, &why)) fprintf(stderr, "paserve: %s\n", why.text);
    s->activity = PA_IDLE;
    s->client = 0;
    if (!s->takes) pa_session_clear(s);
}

static pa_status hello(pa_player *p, uint64_t client, const char *id, pa_err *err) {
    pa_session *own = pa_session_of(p->session, client), *s;
    if (own) detach(p, own);
    s = pa_session_find(p->session, id);
    if (s && s->client) {
        pa_say_error(p->hub, s->client, "this session was opened in another window");
        detach(p, s);
        s = pa_session_find(p->session, id);
    }
    if (!s) {
        char name[PA_SESSION_ID + 1];
        pa_status e = pa_session_name(name, err);
        if (!e && !(s = pa_session_place(p->session)))
            e = pa_error(err, PA_FAIL, "expected at most %d sessions", PA_MOST_SESSIONS);
        if (!e && *s->id) e = pa_session_save(s, p->o.folder, err);
        if (e) return e;
        pa_engines_forget(&p->engines, s);
        pa_session_clear(s);
        memcpy(s->id, name, sizeof name);
    }
    s->client = client;
    pa_say_session(p->hub, s, p->o.model, p->o.piano);
    return PA_OK;
}

static pa_status perform(pa_player *p, pa_session *s, const pa_request *r, pa_err *err) {
    const pa_message *m = &r->message;
    pa_take *t = active(s);
    if (m->deed == PA_DO_UPLOAD) return receive_midi(p, s, m, err);
    if (m->deed == PA_DO_CONTINUE) return begin_continuation(p, s, m, err);
    if (m->deed == PA_DO_DUET) return begin_duet(p, s, m, err);
    if (m->deed == PA_DO_TAKE || m->deed == PA_DO_DROP || m->deed == PA_DO_MIDI) return about_take(p, s, m, err);
    if (!t) return m->deed == PA_DO_STOP ? PA_OK : pa_error(err, PA_DATA, "expected a duet; begin one first");
    if (m->deed == PA_DO_KEY) return strike(p, s, t, m, err);
    if (m->deed == PA_DO_ANSWER) return begin_answer(s, t, r, err);
    return end_turn(p, s, t, m, err);
}

static void handle(pa_player *p, const pa_request *r) {
    pa_err why = {""};
    pa_status e;
    pa_session *s = pa_session_of(p->session, r->client);
    if (s) s->used = r->arrived;
    if (r->message.deed == PA_DO_LEAVE) {
        if (s) detach(p, s);
        return;
    }
    if (r->message.deed == PA_DO_HELLO)
        e = hello(p, r->client, r->message.session, &why);
    else
        e = s ? perform(p, s, r, &why) : pa_error(&why, PA_DATA, "expected hello first");
    if (e) pa_say_error(p->hub, r->client, why.text);
    free(r->message.bytes);
}

static void *run(void *arg) {
    pa_player *p = arg;
    pa_request r;
    while (!pa_hub_is_stopped(p->hub)) {
        double wait = work(p);
        for (int i = 0; i < REQUESTS_A_SLICE && pa_hub_next(p->hub, &r, i ? 0 : wait); i++) handle(p, &r);
    }
    return NULL;
}

// ---- life

pa_status pa_player_open(pa_player **player, const pa_player_options *o, pa_hub *hub, pa_err *err) {
    pa_player *p = *player = calloc(1, sizeof *p);
    patrain_error why;
    if (!p) return pa_error(err, PA_FAIL, "no memory for sessions");
    p->o = *o;
    p->hub = hub;
    const char *temporary = getenv("TMPDIR");
    int n = snprintf(p->scratch, sizeof p->scratch, "%s/paserve-XXXXXX", temporary ? temporary : "/tmp");
    if (n >= (int)sizeof p->scratch) snprintf(p->scratch, sizeof p->scratch, "/tmp/paserve-XXXXXX");
    if (!mkdtemp(p->scratch)) {
        pa_error(err, PA_FAIL, "cannot create %s: %s", p->scratch, strerror(errno));
        *p->scratch = 0;
        return PA_FAIL;
    }
    pa_status e = pa_from_library(patrain_model_open(&p->model, o->model, NULL, &why), &why, err);
    if (e) return e;
    const patrain_model_info *info = patrain_model_describe(p->model);
    if (info->encoding != PATRAIN_PERFORMANCE)
        return pa_error(err, PA_DATA, "%s: expected a model of the encoding performance, found midi-neural",
                        info->path);
    p->engines = (pa_engines){.model = p->model, .options = o->how, .streams = o->streams};
    return pa_from_library(patrain_stream_open(&p->engines.slot[0].stream, p->model, &o->how, &why), &why, err);
}

const char *pa_player_model(const pa_player *p) {
    return patrain_model_describe(p->model)->path;
}

pa_status pa_player_start(pa_player *p, pa_err *err) {
    int e = pthread_create(&p->thread, NULL, run, p);
    p->started = !e;
    return e ? pa_error(err, PA_FAIL, "cannot start a thread: %s", strerror(e)) : PA_OK;
}

pa_status pa_player_stop(pa_player *p, pa_err *err) {
    pa_status first = PA_OK;
    pa_err why;
    if (!p->started) return PA_OK;
    pa_hub_stop(p->hub);
    pthread_join(p->thread, NULL);
    p->started = false;
    for (int i = 0; i < PA_MOST_SESSIONS; i++) {
        if (!*p->session[i].id) continue;
        pa_take *t = active(&p->session[i]);
        if (t) interrupt(p, &p->session[i], t, pa_clock() - p->session[i].origin, true, NULL);
        pa_status e = pa_session_save(&p->session[i], p->o.folder, &why);
        if (e && !first) first = pa_error(err, e, "%s", why.text);
    }
    pa_latency_print(&p->latency);
    return first;
}

void pa_player_close(pa_player *p) {
    pa_err why;
    if (!p) return;
    for (int i = 0; i < PA_MOST_SESSIONS; i++) pa_session_clear(&p->session[i]);
    pa_engines_close(&p->engines);
    patrain_model_close(p->model);
    if (*p->scratch && pa_remove_tree(p->scratch, &why)) fprintf(stderr, "paserve: %s\n", why.text);
    free(p);
}
