// test_work.c: what the server computes for its sessions, on a clock of the test's and with a model that the test
// stands in for: streams that follow takes as they are cut and branch, answers on a busy machine, takes together.
#include <math.h>

#include "host/serve/say.h"
#include "host/serve/work.h"
#include "tokenizer/tokens.h"

#include "tests/support/fixture.h"
#include "tests/support/library.h"
#include "tests/support/scratch.h"

// ---- the stand-ins

enum { MOST = 1 << 16, STREAMS = 2, RATE = 16 }; // tokens; streams; keys a second at density 1

// What a stream was given.
typedef struct {
    const patrain_stream *stream;
    uint16_t token[MOST];
    size_t count;
    int64_t step;
    int velocity; // bin; -1: none yet
    bool down[128];
} fed;

static double now, cost; // seconds; what a key takes
static fed streams[STREAMS];
static int64_t played; // keys of the model's

static fed *of(const patrain_stream *s) {
    int i = 0;
    while (i < STREAMS - 1 && streams[i].stream && streams[i].stream != s) i++;
    assert_true(!streams[i].stream || streams[i].stream == s);
    streams[i].stream = s;
    return &streams[i];
}

static void feed(fed *f, uint16_t token) {
    assert_true(f->count < MOST);
    f->token[f->count++] = token;
    f->step += pa_shift_steps(token);
    if (pa_is_velocity(token)) f->velocity = pa_velocity_bin(token);
    if (pa_is_note(token)) f->down[pa_pitch_of(token)] = pa_is_note_on(token);
}

static void keep(fed *f, size_t count) {
    f->count = 0;
    f->step = 0;
    f->velocity = -1;
    memset(f->down, 0, sizeof f->down);
    for (size_t i = 0; i < count; i++) feed(f, f->token[i]);
}

double __wrap_pa_clock(void);
double __wrap_pa_clock(void) {
    return now;
}

patrain_status __real_patrain_stream_start(patrain_stream *s, const uint16_t *token, size_t count,
                                           patrain_error *error);
patrain_status __wrap_patrain_stream_start(patrain_stream *s, const uint16_t *token, size_t count,
                                           patrain_error *error);
patrain_status __wrap_patrain_stream_start(patrain_stream *s, const uint16_t *token, size_t count,
                                           patrain_error *error) {
    keep(of(s), 0);
    for (size_t i = 0; i < count; i++) feed(of(s), token[i]);
    return __real_patrain_stream_start(s, token, count, error);
}

patrain_status __real_patrain_stream_append(patrain_stream *s, const uint16_t *token, patrain_error *error);
patrain_status __wrap_patrain_stream_append(patrain_stream *s, const uint16_t *token, patrain_error *error);
patrain_status __wrap_patrain_stream_append(patrain_stream *s, const uint16_t *token, patrain_error *error) {
    feed(of(s), *token);
    return __real_patrain_stream_append(s, token, error);
}

patrain_status __real_patrain_stream_rewind(patrain_stream *s, size_t count, patrain_error *error);
patrain_status __wrap_patrain_stream_rewind(patrain_stream *s, size_t count, patrain_error *error);
patrain_status __wrap_patrain_stream_rewind(patrain_stream *s, size_t count, patrain_error *error) {
    keep(of(s), count);
    return __real_patrain_stream_rewind(s, count, error);
}

// Strikes and releases keys in turn, evenly, softer and louder.
patrain_status __wrap_patrain_stream_next_key(patrain_stream *s, const patrain_sampling *how, patrain_key *key,
                                              patrain_error *error);
patrain_status __wrap_patrain_stream_next_key(patrain_stream *s, const patrain_sampling *how, patrain_key *key,
                                              patrain_error *error) {
    fed *f = of(s);
    int64_t n = played++;
    uint8_t pitch = (uint8_t)(90 + n / 2 % 3);
    int bin = f->down[pitch] ? -1 : 10 + (int)(n / 4 % 5);
    uint16_t shift = (uint16_t)(PA_TIME_SHIFT - 1 + lround(100.0 / RATE / how->density)),
             velocity = (uint16_t)(PA_VELOCITY + bin), note = (uint16_t)((bin < 0 ? PA_NOTE_OFF : PA_NOTE_ON) + pitch);
    now += cost;
    library_ok(patrain_stream_append(s, &shift, error), error);
    if (bin >= 0 && bin != f->velocity) library_ok(patrain_stream_append(s, &velocity, error), error);
    library_ok(patrain_stream_append(s, &note, error), error);
    *key = (patrain_key){(double)f->step / PA_STEPS_A_SECOND, pitch,
                         bin < 0 ? 0 : (uint8_t)pa_performance_velocity(velocity)};
    return PATRAIN_OK;
}

// ---- a server without sockets

typedef struct {
    pa_work *w;
    uint64_t client[2];
    patrain_model *model;
} server;

static void wake(void *arg) {
    (void)arg;
}

static server begin(int most) {
    server x = {.w = calloc(1, sizeof *x.w)};
    patrain_error error;
    library_put_model(scratch("model.safetensors"), "performance");
    library_ok(patrain_model_open(&x.model, scratch("model.safetensors"), NULL, &error), &error);
    assert_non_null(x.w);
    x.w->hub = pa_hub_open(wake, NULL);
    x.w->engines = (pa_engines){.model = x.model, .options = library_options(), .streams = most};
    for (int i = 0; i < 2; i++) {
        pa_session *s = &x.w->session[i];
        x.client[i] = s->client = pa_hub_join(x.w->hub);
        snprintf(s->id, sizeof s->id, "%d", i);
        patrain_sampling_default(&s->how, sizeof s->how);
        pa_work_set(s, 0.9, 1);
    }
    memset(streams, 0, sizeof streams);
    for (int i = 0; i < STREAMS; i++) streams[i].velocity = -1;
    played = 0;
    now = 1000;
    cost = 0.01;
    return x;
}

static void end(server x) {
    for (int i = 0; i < 2; i++) pa_session_clear(&x.w->session[i]);
    pa_engines_close(&x.w->engines);
    pa_hub_close(x.w->hub);
    patrain_model_close(x.model);
    free(x.w);
}

static pa_take *add_take(pa_session *s, pa_activity activity) {
    pa_take *t;
    pa_err err;
    fixture_ok(pa_session_add(s, &t, &err), &err);
    s->activity = activity;
    s->active = t->number;
    s->growing = 1;
    return t;
}

static void add_key(pa_take *t, int step, int pitch, int velocity) {
    pa_err err;
    fixture_ok(pa_take_add(t, (pa_stroke){step, (uint8_t)pitch, (uint8_t)velocity, false}, &err), &err);
}

// What a client was told: how many messages are of a kind, and the latest number of those.
static int told(server x, int client, const char *is, double *number) {
    char what[40], text[4096];
    int count = 0;
    bool more = true;
    snprintf(what, sizeof what, "{\"is\":\"%s\"", is);
    while (more) {
        pa_reply *r = pa_hub_reply(x.w->hub, x.client[client], &more);
        if (!r) break;
        assert_true(r->count < sizeof text);
        memcpy(text, r->room + PA_ROOM_BEFORE, r->count);
        text[r->count] = 0;
        free(r);
        if (strncmp(text, what, strlen(what))) continue;
        const char *at = strstr(text, "\"number\":");
        if (at) *number = strtod(at + 9, NULL);
        count++;
    }
    return count;
}

static void run(server x, double seconds) {
    for (double until = now + seconds; now < until;) {
        double wait = pa_work_do(x.w);
        now += fmax(wait, 1e-4);
    }
}

// ---- streams follow takes

// With waits added up and no velocity said twice.
static size_t plain(const uint16_t *token, size_t count, uint16_t *out) {
    size_t n = 0;
    int velocity = -1, wait = 0;
    for (size_t i = 0; i < count; i++) {
        wait += pa_shift_steps(token[i]);
        if (pa_shift_steps(token[i]) || (pa_is_velocity(token[i]) && pa_velocity_bin(token[i]) == velocity)) continue;
        if (pa_is_velocity(token[i])) velocity = pa_velocity_bin(token[i]);
        if (wait) out[n++] = (uint16_t)(PA_VOCAB + wait);
        wait = 0;
        out[n++] = token[i];
    }
    return n;
}

// Whatever was played, cut and branched, the stream has the take as the encoder writes it, but for velocities said
// twice and waits in parts.
static void streams_have_their_takes(void **state) {
    (void)state;
    server x = begin(1);
    pa_session *s = &x.w->session[0];
    pa_take *t = add_take(s, PA_LISTENING);
    pa_err err;
    uint32_t seed = 5;
    size_t shared = 0, rounds = 0;
    static uint16_t expected[MOST], found[MOST];
    for (int round = 0; round < 400; round++) {
        pa_engine_slot *slot;
        seed = seed * 1664525 + 1013904223;
        int what = (int)(seed >> 24) % 8, some = 1 + (int)(seed >> 16) % 7;
        if (what < 3) {
            for (int i = 0; i < some; i++)
                add_key(t, t->end + i, 40 + (int)(seed >> (8 + i) & 7), i % 3 ? 50 + some : 0);
        } else if (what < 5) {
            fixture_ok(pa_take_cut(t, t->end > 60 ? t->end - 60 : 0, what == 3, &err), &err);
        } else if (what == 5 && s->takes < 20) {
            pa_take *from = t;
            t = add_take(s, PA_LISTENING);
            fixture_ok(pa_take_copy(t, from, from->end > 200 ? from->end - 200 : from->end, &err), &err);
        }
        int32_t until = what == 6 ? t->end + 5 : 0;
        fixture_ok(pa_engines_follow(&x.w->engines, s, t, until, &slot, &err), &err);
        for (int i = 0; what == 6 && i < some; i++) fixture_ok(pa_engine_play(slot, s, t, &err), &err);
        pa_take_writer w = {.velocity = -1};
        uint16_t *token;
        size_t count;
        fixture_ok(pa_take_write(t, 0, &w, &token, &count, &err), &err);
        size_t a = plain(token, count, expected), b = plain(streams[0].token, streams[0].count, found);
        free(token);
        assert_int_equal(patrain_stream_length(slot->stream), streams[0].count);
        if (a != b || memcmp(expected, found, a * sizeof *expected)) fail_msg("round %d, case %d", round, what);
        shared += slot->at.keys;
        rounds += slot->at.keys > 10;
    }
    assert_true(rounds > 100 && shared > 1000);
    end(x);
}

// ---- a busy machine

static pa_take *begin_answer(pa_session *s) {
    pa_take *t = add_take(s, PA_LISTENING);
    for (int i = 0; i < 8; i++) {
        add_key(t, 20 * i, 60 + i, 70);
        add_key(t, 20 * i + 15, 60 + i, 0);
    }
    pa_work_begin_answer(s, t, now, 1.6);
    return t;
}

static void an_idle_machine(void **state) {
    (void)state;
    server x = begin(2);
    pa_session *s = &x.w->session[0];
    double number;
    begin_answer(s);
    run(x, 30);
    assert_int_equal(s->answer.late, 0);
    assert_true(s->answer.least > 2);
    assert_true(s->answer.notes > 30 * RATE / 2);
    assert_in_range(told(x, 0, "margin", &number), 25, 32);
    assert_true(number > 3.9);
    assert_int_equal(s->answer.load.level, PA_LOAD_NORMAL);
    end(x);
}

// The machine computes less than a second of music a second: the answer has fewer notes, and is soon in time; later the
// machine is idle, and all is as it was. Meanwhile the other session's continuation waits.
static void a_busy_machine(void **state) {
    (void)state;
    server x = begin(2);
    pa_session *s = &x.w->session[0], *other = &x.w->session[1];
    double number;
    cost = 1.1 / RATE;
    begin_answer(s);
    pa_take *waits = add_take(other, PA_CONTINUING);
    other->until = 100000;
    run(x, 2);
    assert_int_equal(s->answer.load.level, PA_LOAD_SPARSE);
    assert_true(s->how.density == 0.5);
    size_t late = s->answer.late;
    assert_int_equal(waits->keys, 0);
    run(x, 33);
    assert_int_equal(s->answer.late, late);
    assert_true(s->answer.notes > 30 * RATE / 5);
    while (s->answer.load.level != PA_LOAD_SPARSE) run(x, 0.1);
    cost = 0.01; // the answer is as far ahead as it should be before the machine is trusted again
    for (size_t before = waits->keys; s->answer.load.level > PA_LOAD_NORMAL; run(x, 0.05))
        assert_int_equal(waits->keys, before);
    run(x, 10);
    assert_int_equal(s->answer.load.level, PA_LOAD_NORMAL);
    assert_true(s->how.density == 1);
    assert_true(waits->keys > 0);
    assert_true(told(x, 0, "thinned", &number) >= 4);
    assert_true(number == 0);
    end(x);
}

static void density_is_bounded(void **state) {
    (void)state;
    pa_load l = {.level = PA_LOAD_SPARSE};
    assert_true(pa_load_density(&l, 2) == 1);
    assert_true(pa_load_density(&l, 0.3) == 0.25);
    l.level = PA_LOAD_SINGLE;
    assert_true(pa_load_density(&l, 0.3) == 0.3);
}

int main(void) {
    const struct CMUnitTest test[] = {cmocka_unit_test(streams_have_their_takes), cmocka_unit_test(an_idle_machine),
                                      cmocka_unit_test(a_busy_machine), cmocka_unit_test(density_is_bounded)};
    return cmocka_run_group_tests(test, NULL, NULL);
}
