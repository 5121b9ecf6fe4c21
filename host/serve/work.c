// work.c: see work.h.
#include "host/serve/work.h"

#include <math.h>
#include <stdlib.h>

#include "host/serve/say.h"
#include "tokenizer/tokens.h"

enum {
    AHEAD = 4 * PA_STEPS_A_SECOND, // how far an answer is ahead of the page's clock
    KEYS_A_SLICE = 16,             // of a continuation, before others get their turn
    TOKENS_A_SLICE = 32,           // of several
};

static int32_t steps_of(double seconds) {
    return (int32_t)lround(seconds * PA_STEPS_A_SECOND);
}

// ---- ends

// Logs an answer that has ended.
static void conclude(pa_work *w, pa_session *s) {
    const pa_answer *a = &s->answer;
    if (!a->notes) return;
    printf("session %.8s: answer of %zu notes, %zu of them late", s->id, a->notes, a->late);
    if (isfinite(a->least)) printf("; at least %.1f s ahead", a->least);
    printf("\n");
    w->notes += a->notes;
    w->late += a->late;
    s->answer.notes = s->answer.late = 0;
}

static void end_take(pa_work *w, pa_session *s, const pa_take *t) {
    s->growing &= ~(1U << (t->number - s->active));
    if (!s->growing) {
        s->activity = PA_IDLE;
        pa_engines_end_group(&w->engines, s);
    }
    pa_say_event(w->hub, s, "done", t, t->end);
}

void pa_work_end(pa_work *w, pa_session *s) {
    for (const pa_take *t; (t = pa_session_active(s));) end_take(w, s, t);
    s->growing = 0; // of those that could not be added
    s->activity = PA_IDLE;
}

pa_status pa_work_interrupt(pa_work *w, pa_session *s, double time, bool all, pa_err *err) {
    pa_status e = PA_OK;
    for (int k = 0; k < PA_MOST_AT_ONCE && !e; k++) {
        pa_take *t = pa_session_growing(s, k);
        if (!t) continue;
        int32_t step = t->end;
        if (s->activity == PA_ANSWERING) { // never the player's own notes
            int32_t begins = s->until - PA_HEAD_START;
            step = steps_of(time) > begins ? steps_of(time) : begins;
        }
        e = pa_take_cut(t, step < t->end ? step : t->end, all, err);
    }
    if (s->activity == PA_ANSWERING) conclude(w, s);
    return e;
}

void pa_work_fail(pa_work *w, pa_session *s, const pa_err *why) {
    pa_engines_forget(&w->engines, s);
    pa_work_interrupt(w, s, PA_LONGEST_TAKE, true, NULL);
    pa_work_end(w, s);
    s->over = true;
    pa_say_error(w->hub, s->client, why->text);
}

// ---- answers

void pa_work_set(pa_session *s, double temperature, double density) {
    s->how.temperature = temperature;
    s->density = density;
    s->how.density = pa_load_density(&s->answer.load, density);
}

void pa_work_begin_answer(pa_session *s, const pa_take *t, double asked, double time) {
    int32_t now = steps_of(time) > t->end ? steps_of(time) : t->end;
    s->activity = PA_ANSWERING;
    s->until = now + PA_HEAD_START;
    s->answer.origin = asked - (double)now / PA_STEPS_A_SECOND;
    s->answer.asked = s->answer.began = asked;
    s->answer.least = (double)INFINITY;
    s->how.sequence++; // another answer to the same notes
}

// The first note of an answer was sent at `when`.
static void measure(pa_work *w, pa_session *s, const pa_take *t, double when) {
    double sent = when - s->answer.asked, sounds = (double)(t->end - s->until + PA_HEAD_START) / PA_STEPS_A_SECOND;
    pa_latency_add(&w->latency, sent);
    printf("session %.8s: first note sent %.1f ms after the trigger, sounds at %.0f ms\n", s->id, 1000 * sent,
           1000 * sounds);
    pa_say_event(w->hub, s, "first", t, 1000 * sent);
    s->answer.asked = 0;
}

static double margin_of(const pa_session *s, const pa_take *t) {
    return (double)t->end / PA_STEPS_A_SECOND - (pa_clock() - s->answer.origin);
}

// What the page and the log learn of how far the answer is ahead; relieves the machine where that is too little.
static void watch(pa_work *w, pa_session *s, const pa_take *t) {
    pa_answer *a = &s->answer;
    double now = pa_clock(), margin = margin_of(s, t);
    if (now - a->told >= 1) {
        pa_say_event(w->hub, s, "margin", t, margin);
        a->told = now;
    }
    if (!pa_load_update(&a->load, now, now - a->began, margin)) return;
    s->how.density = pa_load_density(&a->load, s->density);
    printf("session %.8s: thinned %d; %.1f s ahead\n", s->id, (int)a->load.level, margin);
    pa_say_event(w->hub, s, "thinned", t, a->load.level);
}

static void answer(pa_work *w, pa_session *s, pa_take *t) {
    pa_engine_slot *slot;
    pa_err why;
    size_t before = t->keys;
    pa_status e = pa_engines_follow(&w->engines, s, t, s->until, &slot, &why);
    if (!e) e = pa_engine_play(slot, s, t, &why);
    if (e) {
        pa_work_fail(w, s, &why);
        return;
    }
    double sent = pa_clock(), margin = margin_of(s, t); // before the thread that serves takes over
    pa_say_keys(w->hub, s, t, before);
    if (t->keys == before) return;
    if (t->key[t->keys - 1].velocity) {
        s->answer.notes++;
        s->answer.late += margin < 0;
        if (sent - s->answer.began >= 1 && margin < s->answer.least) s->answer.least = margin;
        if (s->answer.asked > 0) measure(w, s, t, sent);
    }
    if (!(s->answer.asked > 0)) watch(w, s, t);
}

static void listen(pa_work *w, pa_session *s, const pa_take *t) {
    pa_engine_slot *slot;
    pa_err why;
    pa_status e = pa_engines_follow(&w->engines, s, t, 0, &slot, &why);
    if (!e) e = pa_engine_read(slot, &why);
    if (e) pa_work_fail(w, s, &why);
}

// ---- continuations

// Several takes together.
static pa_status proceed_together(pa_work *w, pa_session *s, pa_err *err) {
    pa_status e = PA_OK;
    bool ended = false;
    for (int i = 0; i < TOKENS_A_SLICE && !e; i++) {
        e = pa_engines_play_group(&w->engines, s, err);
        for (int k = 0; k < PA_MOST_AT_ONCE && !e; k++) {
            pa_take *t = pa_session_growing(s, k);
            if (!t || w->engines.group.reader[k].step < s->until) continue;
            e = pa_take_cut(t, s->until, true, err);
            ended = true;
        }
        if (ended || pa_hub_is_asked(w->hub)) break;
    }
    return e;
}

// The first that grows.
static pa_status proceed_singly(pa_work *w, pa_session *s, pa_err *err) {
    pa_engine_slot *slot;
    pa_take *t = pa_session_active(s);
    pa_status e = pa_engines_follow(&w->engines, s, t, t->begins, &slot, err);
    s->how.sequence += (uint64_t)(t->number - s->active); // as together
    for (int i = 0; i < KEYS_A_SLICE && t->end < s->until && !e; i++) {
        e = pa_engine_play(slot, s, t, err);
        if (pa_hub_is_asked(w->hub)) break;
    }
    s->how.sequence -= (uint64_t)(t->number - s->active);
    if (!e && t->end >= s->until) e = pa_take_cut(t, s->until, true, err);
    return e;
}

static void proceed(pa_work *w, pa_session *s) {
    size_t before[PA_MOST_AT_ONCE] = {0};
    pa_err why;
    bool together = w->engines.group.session == s;
    for (int k = 0; k < PA_MOST_AT_ONCE; k++) {
        const pa_take *t = pa_session_growing(s, k);
        if (t) before[k] = t->keys;
    }
    pa_status e = together ? proceed_together(w, s, &why) : proceed_singly(w, s, &why);
    for (int k = 0; k < PA_MOST_AT_ONCE; k++) {
        const pa_take *t = pa_session_growing(s, k);
        if (!t) continue;
        pa_say_keys(w->hub, s, t, before[k] < t->keys ? before[k] : t->keys);
        if (!e && t->end >= s->until) end_take(w, s, t);
    }
    if (e) pa_work_fail(w, s, &why);
}

// ---- turns

// Seconds until an answer needs its next key; what must be computed first comes first.
static double urgency(const pa_session *s, const pa_take *t) {
    return s->answer.asked > 0 ? -1e9 : margin_of(s, t) - (double)AHEAD / PA_STEPS_A_SECOND;
}

double pa_work_do(pa_work *w) {
    pa_session *first = NULL, *reader = NULL, *writer = NULL;
    double wait = 1;
    bool busy = false;
    for (int i = 0; i < PA_MOST_SESSIONS; i++) {
        pa_session *s = &w->session[i], *in_turn = &w->session[(w->next + i) % PA_MOST_SESSIONS];
        const pa_take *t = *s->id ? pa_session_active(s) : NULL;
        if (*in_turn->id && in_turn->activity == PA_CONTINUING && !writer) writer = in_turn;
        if (t && s->activity == PA_LISTENING && pa_engines_is_behind(&w->engines, s, t)) reader = s;
        if (!t || s->activity != PA_ANSWERING) continue;
        busy = busy || s->answer.load.level > PA_LOAD_NORMAL;
        double due = urgency(s, t);
        if (due < wait) first = s;
        if (due < wait) wait = due;
    }
    if (first && wait <= 0) {
        answer(w, first, pa_session_active(first));
    } else if (reader) {
        listen(w, reader, pa_session_active(reader));
    } else if (writer && !busy) {
        w->next = (int)(writer - w->session) + 1;
        proceed(w, writer);
    } else {
        if (busy && writer) pa_engines_end_group(&w->engines, w->engines.group.session);
        return wait;
    }
    return 0;
}
