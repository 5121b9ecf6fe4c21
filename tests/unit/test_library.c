// test_library.c: patrain.h's functions against generation on a context of its own, and against each other. PA_DEVICE chooses the device.
#include <math.h>
#include <omp.h>
#include <pthread.h>

#include "host/files/config.h"
#include "host/files/safetensors_write.h"
#include "host/files/weights.h"
#include "host/lib/generate.h"
#include "include/patrain.h"

#include "tests/support/fixture.h"
#include "tests/support/rows.h"
#include "tests/support/scratch.h"

enum { LENGTH = 90 }; // tokens drawn: several windows of 24

static const uint16_t primer[] = {370, 60, 267, 64, 275, 188, 192, 300, 372, 67, 310, 195, 258, 62};
enum { PRIMER = sizeof primer / sizeof *primer };

static void ok(patrain_status status, const patrain_error *error) {
    if (status) fail_msg("status %d: %s", (int)status, error->text);
}

static void refused(patrain_status found, const patrain_error *error, patrain_status status, const char *text) {
    assert_int_equal(found, status);
    assert_int_equal(error->status, status);
    assert_string_equal(error->text, text);
}

// A model of random weights, large enough to prefer some tokens.
static void put_model(const char *name, const char *encoding) {
    fixture f;
    pa_model m = fixture_model();
    pa_err err;
    pa_tensor tensor[64];
    m.vocab = PA_VOCAB;
    fixture_init(&f, &m, 7);
    float *w = malloc(f.params.floats * sizeof *w);
    assert_non_null(w);
    for (size_t i = 0; i < f.params.floats; i++) w[i] = (float)f.w[i];
    for (int t = 0; t < f.params.count; t++) {
        const pa_param *row = &f.params.row[t];
        tensor[t] = (pa_tensor){.name = row->name,
                                .dtype = PA_F32,
                                .rank = row->rank,
                                .shape = {row->shape[0], row->shape[1]},
                                .data = w + row->offset,
                                .bytes = row->size * 4};
    }
    char *text = pa_config_model_text(&m);
    const pa_meta meta[] = {{"format", "patrain-checkpoint-1"}, {"model", text}, {"encoding", encoding}, {"step", "17"}};
    fixture_ok(pa_st_write(scratch(name), tensor, (size_t)f.params.count, meta, 4, &err), &err);
    free(text);
    free(w);
    fixture_clear(&f);
}

static const char *device(void) {
    const char *name = getenv("PA_DEVICE");
    return name ? name : "cpu";
}

static patrain_options options(void) {
    return (patrain_options){.size = sizeof(patrain_options), .device = device(), .precision = "fp32"};
}

static patrain_sampling sampling(void) {
    patrain_sampling s;
    patrain_sampling_default(&s, sizeof s);
    return s;
}

typedef struct {
    patrain_model *model;
    patrain_stream *stream;
    patrain_scorer *scorer;
} player;

static player open_some(const char *encoding, int sequences, int batch) {
    player p;
    patrain_error error;
    patrain_options o = options();
    o.sequences = sequences;
    o.batch = batch;
    put_model("model.safetensors", encoding);
    ok(patrain_model_open(&p.model, scratch("model.safetensors"), NULL, &error), &error);
    ok(patrain_stream_open(&p.stream, p.model, &o, &error), &error);
    ok(patrain_scorer_open(&p.scorer, p.model, &o, &error), &error);
    return p;
}

static player open_player(const char *encoding) {
    return open_some(encoding, 0, 0);
}

static void close_player(player p) {
    patrain_stream_close(p.stream);
    patrain_scorer_close(p.scorer);
    patrain_model_close(p.model);
}

// The same model on a context without the library.
static void generate(const pa_sampling_options *o, size_t primer_count, uint16_t out[LENGTH]) {
    const pa_backend *backend;
    pa_weights w;
    pa_params params;
    pa_context *ctx;
    pa_comm comm = pa_comm_single();
    pa_err err;
    size_t count;
    fixture_ok(pa_backend_choose(device(), &backend, &err), &err);
    fixture_ok(pa_weights_open(&w, scratch("model.safetensors"), NULL, NULL, &err), &err);
    fixture_ok(pa_params_init(&params, &w.model, &err), &err);
    pa_open open = {.params = &params, .precision = PA_PRECISION_FP32, .streams = 1, .deterministic = true, .comm = &comm};
    fixture_ok(backend->open(&ctx, &open, &err), &err);
    fixture_ok(pa_weights_load(&w, &params, backend, ctx, &err), &err);
    pa_generation g = {.backend = backend,
                       .ctx = ctx,
                       .model = &params.model,
                       .options = o,
                       .primer = primer,
                       .primer_count = primer_count,
                       .streams = 1,
                       .length = LENGTH,
                       .out = out,
                       .count = &count};
    fixture_ok(pa_generate(&g, &err), &err);
    assert_int_equal(count, LENGTH);
    backend->close(ctx);
    pa_params_clear(&params);
    pa_weights_close(&w);
}

static void continue_primer(patrain_stream *s, const patrain_sampling *o, size_t primer_count, uint16_t out[LENGTH]) {
    patrain_error error;
    ok(patrain_stream_start(s, primer, primer_count, &error), &error);
    for (int i = 0; i < LENGTH; i++) ok(patrain_stream_next(s, o, &out[i], &error), &error);
}

static void test_same_tokens_as_generation(void **state) {
    static const char *const encoding[] = {"performance", "midi-neural"};
    (void)state;
    for (int e = 0; e < 2; e++)
        for (int with_primer = 0; with_primer < 2; with_primer++) {
            player p = open_player(encoding[e]);
            pa_sampling_options theirs = pa_sampling_default();
            patrain_sampling ours = sampling();
            uint16_t expected[LENGTH], found[LENGTH];
            size_t count = with_primer ? PRIMER : 0;
            theirs.top_k = ours.top_k = 100;
            theirs.top_p = ours.top_p = 0.95;
            theirs.min_p = ours.min_p = 0.001;
            theirs.repetition_penalty = ours.repetition_penalty = 1.2;
            theirs.refill = ours.refill = 5;
            theirs.seed = ours.seed = 11;
            theirs.stream = ours.sequence = 3;
            theirs.keys = e == 0;
            generate(&theirs, count, expected);
            continue_primer(p.stream, &ours, count, found);
            for (int i = 0; i < LENGTH; i++)
                if (found[i] != expected[i])
                    fail_msg("%s, %zu tokens of primer: token %d: expected %d, found %d", encoding[e], count, i, expected[i], found[i]);
            close_player(p);
        }
}

// Tokens appended at once or one by one, with a prediction after each: the same last prediction.
static void test_appended_tokens(void **state) {
    (void)state;
    player p = open_player("performance");
    patrain_error error;
    float logits[2][PATRAIN_VOCABULARY];
    for (int each = 0; each < 2; each++) {
        ok(patrain_stream_start(p.stream, primer, 12, &error), &error);
        ok(patrain_stream_logits(p.stream, logits[each], &error), &error); // the window begins here
        for (int i = 12; i < PRIMER; i++) {
            ok(patrain_stream_append(p.stream, &primer[i], &error), &error);
            if (each) ok(patrain_stream_logits(p.stream, logits[each], &error), &error);
        }
        ok(patrain_stream_logits(p.stream, logits[each], &error), &error);
    }
    assert_memory_equal(logits[0], logits[1], sizeof *logits);
    close_player(p);
}

// More tokens at once than a window holds: as if they had been there from the start.
static void test_many_appended_tokens(void **state) {
    (void)state;
    player p = open_player("performance");
    patrain_error error;
    float logits[2][PATRAIN_VOCABULARY];
    uint16_t piece[500];
    for (int i = 0; i < 500; i++) piece[i] = primer[i * 5 % PRIMER];
    ok(patrain_stream_start(p.stream, piece, 3, &error), &error);
    ok(patrain_stream_logits(p.stream, logits[0], &error), &error);
    for (int i = 3; i < 500; i++) ok(patrain_stream_append(p.stream, &piece[i], &error), &error);
    ok(patrain_stream_logits(p.stream, logits[0], &error), &error);
    ok(patrain_stream_start(p.stream, piece, 500, &error), &error);
    ok(patrain_stream_logits(p.stream, logits[1], &error), &error);
    assert_memory_equal(logits[0], logits[1], sizeof *logits);
    close_player(p);
}

// Sequences that grow together are those that grow apart; each ends by itself.
static void test_sequences(void **state) {
    (void)state;
    enum { SEQUENCES = 3 };
    patrain_error error;
    player p = open_some("performance", SEQUENCES, 0);
    patrain_stream *single;
    patrain_options one = options();
    patrain_sampling o = sampling();
    uint16_t token[SEQUENCES], alone[LENGTH], together[SEQUENCES][LENGTH];
    float logits[SEQUENCES * PATRAIN_VOCABULARY], first[PATRAIN_VOCABULARY];
    assert_int_equal(patrain_stream_options(p.stream)->sequences, SEQUENCES);
    ok(patrain_stream_open(&single, p.model, &one, &error), &error);
    ok(patrain_stream_start(p.stream, primer, PRIMER, &error), &error);
    ok(patrain_stream_logits(p.stream, logits, &error), &error);
    ok(patrain_stream_start(single, primer, PRIMER, &error), &error);
    ok(patrain_stream_logits(single, first, &error), &error);
    for (int i = 0; i < PATRAIN_VOCABULARY; i++) assert_true(fabsf(first[i] - logits[2 * PATRAIN_VOCABULARY + i]) < 1e-4F);
    o.sequence = 40;
    for (int i = 0; i < LENGTH; i++) {
        ok(patrain_stream_next(p.stream, &o, token, &error), &error);
        for (int k = 0; k < SEQUENCES; k++) together[k][i] = token[k];
    }
    for (int k = 0; k < SEQUENCES; k++, o.sequence++) {
        continue_primer(single, &o, PRIMER, alone);
        for (int i = 0; i < LENGTH; i++)
            if (alone[i] != together[k][i]) fail_msg("sequence %d, token %d: expected %d, found %d", k, i, alone[i], together[k][i]);
    }
    o.stop_at_end = 1;
    o.temperature = 100; // any token is as probable as any other
    ok(patrain_stream_start(p.stream, primer, PRIMER, &error), &error);
    int ended = 0, before = 0;
    bool over[SEQUENCES] = {false};
    while (ended < SEQUENCES) {
        patrain_status s = patrain_stream_next(p.stream, &o, token, &error);
        for (int k = 0; k < SEQUENCES; k++) {
            assert_true(!over[k] || token[k] == PATRAIN_END);
            ended += !over[k] && token[k] == PATRAIN_END;
            over[k] = token[k] == PATRAIN_END;
        }
        assert_int_equal(s, ended == SEQUENCES ? PATRAIN_ENDED : PATRAIN_OK);
        assert_int_equal(error.status, s);
        assert_true(++before < 20000);
    }
    assert_int_equal(patrain_stream_next(p.stream, &o, token, &error), PATRAIN_ENDED);
    patrain_key key;
    refused(patrain_stream_next_key(p.stream, &o, &key, &error), &error, PATRAIN_BAD_USAGE, "expected a stream of one sequence, found 3");
    patrain_stream_close(single);
    close_player(p);
}

static void test_keys(void **state) {
    static const char *const encoding[] = {"performance", "midi-neural"};
    (void)state;
    for (int e = 0; e < 2; e++) {
        player p = open_player(encoding[e]);
        patrain_error error;
        patrain_sampling o = sampling();
        patrain_key key[LENGTH];
        uint16_t token[4096];
        size_t tokens = 0, notes, keys = 0;
        patrain_note *note;
        ok(patrain_stream_start(p.stream, NULL, 0, &error), &error);
        while (keys < LENGTH) ok(patrain_stream_next_key(p.stream, &o, &key[keys++], &error), &error);
        ok(patrain_stream_start(p.stream, NULL, 0, &error), &error);
        for (size_t heard = 0; heard < LENGTH; heard += token[tokens++] < PATRAIN_TIME_SHIFT) {
            assert_true(tokens < sizeof token / sizeof *token);
            ok(patrain_stream_next(p.stream, &o, &token[tokens], &error), &error);
        }
        ok(patrain_decode(token, tokens, patrain_model_describe(p.model)->encoding, &note, &notes, &error), &error);
        size_t struck = 0;
        assert_true(notes > 5);
        for (size_t i = 0; i < LENGTH; i++) struck += key[i].velocity > 0;
        assert_true(struck > 5);
        for (size_t n = 0; n < notes; n++) {
            size_t i = 0;
            while (i < LENGTH && !(key[i].velocity && key[i].pitch == note[n].pitch && fabs(key[i].seconds - note[n].start) < 1e-9)) i++;
            if (i == LENGTH) fail_msg("%s: note %zu, pitch %d at %g s: no such key", encoding[e], n, note[n].pitch, note[n].start);
            assert_int_equal(key[i].velocity, note[n].velocity);
        }
        patrain_free(note);
        close_player(p);
    }
}

// What a stream predicts from is what a scorer's window predicts from.
static void test_predict(void **state) {
    (void)state;
    player p = open_some("performance", 1, 2);
    patrain_error error;
    const patrain_model_info *m = patrain_model_describe(p.model);
    uint16_t window[2 * PRIMER], target[2 * PRIMER], best[2 * PRIMER];
    float logits[PATRAIN_VOCABULARY], nats[2 * PRIMER], all[2 * PRIMER * PATRAIN_VOCABULARY];
    for (int length = 1; length <= PRIMER; length++) {
        int latents = length > m->prefix ? length - m->prefix : 1;
        for (int i = 0; i < 2 * length; i++) window[i] = primer[i % length];
        for (int i = 0; i < 2 * latents; i++) target[i] = (uint16_t)(i == 2 * latents - 1 ? 60 : PATRAIN_PAD);
        patrain_windows w = {.size = sizeof w, .batch = 2, .length = length, .latents = latents, .input = window, .target = target};
        w.nats = nats;
        w.best = best;
        w.logits = all;
        ok(patrain_stream_start(p.stream, primer, (size_t)length, &error), &error);
        ok(patrain_stream_logits(p.stream, logits, &error), &error);
        ok(patrain_scorer_predict(p.scorer, &w, &error), &error);
        const float *last = all + (2 * latents - 1) * PATRAIN_VOCABULARY;
        double sum = 0;
        int top = 0;
        for (int v = 0; v < PATRAIN_VOCABULARY; v++) {
            if (fabsf(logits[v] - last[v]) > 1e-4F) fail_msg("%d tokens: logit %d: expected %g, found %g", length, v, logits[v], last[v]);
            sum += exp((double)last[v]);
            if (last[v] > last[top]) top = v;
        }
        assert_true(fabs(log(sum) - (double)last[60] - (double)nats[2 * latents - 1]) < 1e-4);
        assert_int_equal(best[2 * latents - 1], top);
        assert_true(nats[0] == 0 || latents == 1);
    }
    patrain_windows w = {.size = sizeof w, .batch = 3, .length = 2, .latents = 1, .input = window};
    refused(patrain_scorer_predict(p.scorer, &w, &error), &error, PATRAIN_BAD_USAGE, "batch: expected 1 to 2 sequences, found 3");
    w.size = 8;
    char text[100];
    snprintf(text, sizeof text, "patrain_windows.size: expected %zu, found 8", sizeof w);
    refused(patrain_scorer_predict(p.scorer, &w, &error), &error, PATRAIN_BAD_USAGE, text);
    close_player(p);
}

enum { PIECES = 5, LONGEST = 200 };

typedef struct {
    int times[PIECES][LONGEST];
    double nats[PIECES];
} scored;

static void add_run(void *arg, const patrain_scored *run) {
    scored *x = arg;
    for (size_t i = 0; i < run->count; i++) {
        x->times[run->piece][run->first + i]++;
        x->nats[run->piece] += (double)run->nats[i];
        assert_true(run->best[i] < PATRAIN_VOCABULARY);
    }
}

// Pieces together and one by one; every token but the first once.
static void test_score(void **state) {
    (void)state;
    player p = open_some("performance", 1, 4);
    patrain_error error;
    uint16_t token[LONGEST];
    float nats[LONGEST];
    const patrain_piece piece[PIECES] = {{token, 0}, {token, 1}, {token + 1, 30}, {token, 57}, {token, LONGEST}};
    scored x = {0};
    for (size_t i = 0; i < LONGEST; i++) token[i] = primer[i * 5 % PRIMER];
    ok(patrain_scorer_pieces(p.scorer, piece, PIECES, 0, add_run, &x, &error), &error);
    for (int k = 0; k < PIECES; k++) {
        double sum = 0;
        ok(patrain_scorer_score(p.scorer, piece[k].tokens, piece[k].count, nats, &error), &error);
        for (size_t i = 0; i < piece[k].count; i++) sum += (double)nats[i];
        for (size_t i = 0; i < piece[k].count; i++) assert_int_equal(x.times[k][i], i > 0);
        assert_true(!piece[k].count || nats[0] == 0);
        if (fabs(x.nats[k] - sum) > 1e-5 * sum) fail_msg("piece %d: expected %.9g nats, found %.9g", k, sum, x.nats[k]);
    }
    x = (scored){0};
    ok(patrain_scorer_pieces(p.scorer, piece, PIECES, 1, add_run, &x, &error), &error);
    for (size_t i = 0; i < LONGEST; i++) assert_int_equal(x.times[PIECES - 1][i], i > 0);
    refused(patrain_scorer_pieces(p.scorer, piece, PIECES, 99, add_run, &x, &error), &error, PATRAIN_BAD_USAGE,
            "stride: expected 1 to 15, the latents of a window, found 99");
    token[3] = PATRAIN_END;
    ok(patrain_scorer_score(p.scorer, token, LONGEST, nats, &error), &error);
    token[3] = PATRAIN_PAD;
    refused(patrain_scorer_score(p.scorer, token, LONGEST, nats, &error), &error, PATRAIN_BAD_DATA,
            "token 3: expected a number below 389, found 389");
    refused(patrain_scorer_pieces(p.scorer, piece, PIECES, 0, add_run, &x, &error), &error, PATRAIN_BAD_DATA,
            "piece 2, token 2: expected a number below 389, found 389");
    close_player(p);
}

typedef struct {
    const patrain_model *model;
    uint16_t token[LENGTH];
} job;

static void *play(void *arg) {
    job *j = arg;
    patrain_stream *s;
    patrain_error error;
    patrain_sampling o = sampling();
    ok(patrain_stream_open(&s, j->model, &(patrain_options){.size = sizeof(patrain_options), .device = device(), .threads = 1}, &error),
       &error);
    continue_primer(s, &o, PRIMER, j->token);
    patrain_stream_close(s);
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
#ifdef PA_EMULATOR // which runs the kernels of one thread
    if (!strcmp(device(), "cuda")) skip();
#endif
    player p = open_player("performance");
    static job j[3];
    pthread_t thread[3];
    for (int i = 0; i < 3; i++) {
        j[i].model = p.model;
        assert_int_equal(pthread_create(&thread[i], NULL, play, &j[i]), 0);
    }
    for (int i = 0; i < 3; i++) assert_int_equal(pthread_join(thread[i], NULL), 0);
    assert_memory_equal(j[0].token, j[1].token, sizeof j->token);
    assert_memory_equal(j[0].token, j[2].token, sizeof j->token);
    close_player(p);
}

static int threads_now(void) {
    DIR *d = opendir("/proc/self/task");
    int n = 0;
    assert_non_null(d);
    while (readdir(d)) n++;
    closedir(d);
    return n;
}

// The idle team that shortens spinning (host/lib/spin.c): one thread more than processors, made with the first stream.
static void test_spinning(void **state) {
    (void)state;
#ifdef __clang__ // another OpenMP
    skip();
#endif
    put_model("model.safetensors", "performance");
    patrain_model *m;
    patrain_stream *s;
    patrain_error error;
    unsetenv("OMP_WAIT_POLICY");
    unsetenv("GOMP_SPINCOUNT");
    ok(patrain_model_open(&m, scratch("model.safetensors"), NULL, &error), &error);
    int before = threads_now(), expected = before + omp_get_num_procs() + 1;
    for (int i = 0; i < 2; i++) { // a second stream adds none
        ok(patrain_stream_open(&s, m, &(patrain_options){.size = sizeof(patrain_options), .device = device(), .threads = 1}, &error),
           &error);
        patrain_stream_close(s);
        for (int wait = 0; wait < 1000 && threads_now() < expected; wait++) usleep(10000);
        assert_int_equal(threads_now(), expected);
    }
    patrain_model_close(m);
}

static void test_notes(void **state) {
    (void)state;
    const patrain_note notes[] = {{.start = 0.5, .end = 1, .pitch = 64, .velocity = 81},
                                  {.start = 0, .end = 0.75, .pitch = 60, .velocity = 61},
                                  {.start = 1, .end = 2.25, .pitch = 60, .velocity = 61}};
    for (int e = PATRAIN_PERFORMANCE; e <= PATRAIN_MIDI_NEURAL; e++) {
        patrain_error error;
        uint16_t *token, *again;
        patrain_note *found;
        size_t count, count_again, n;
        patrain_midi_options how = {.size = sizeof how, .isolated = e == PATRAIN_PERFORMANCE};
        patrain_midi_report report = {.size = sizeof report, .dropped = 9};
        ok(patrain_encode_notes(notes, 3, (patrain_encoding)e, &token, &count, &error), &error);
        ok(patrain_decode(token, count, (patrain_encoding)e, &found, &n, &error), &error);
        assert_int_equal(n, 3);
        for (size_t i = 0; i < n; i++) assert_int_equal(token[found[i].token], PATRAIN_NOTE_ON + found[i].pitch);
        assert_true(found[0].pitch == 60 && found[1].pitch == 64 && found[2].start == 1 && fabs(found[2].end - 2.25) < 1e-9);
        ok(patrain_write_midi(scratch("notes.mid"), found, n, &error), &error);
        patrain_status s = patrain_encode_midi(scratch("notes.mid"), (patrain_encoding)e, &how, &again, &count_again, &report, &error);
        if (e == PATRAIN_PERFORMANCE) {
            ok(s, &error);
            assert_int_equal(report.dropped, 0);
            assert_int_equal(report.notes, 3);
            assert_true(fabs(report.seconds - 2.25) < 1e-9);
            assert_int_equal(count_again, count);
            assert_memory_equal(again, token, count * sizeof *token);
        } else { // the file has no pedal
            char text[512];
            snprintf(text, sizeof text, "%s: no note of its 3 has a place in the midi-neural encoding", scratch("notes.mid"));
            refused(s, &error, PATRAIN_BAD_DATA, text);
            assert_null(again);
        }
        patrain_free(token);
        patrain_free(again);
        patrain_free(found);
    }
}

static void test_cut(void **state) {
    (void)state;
    enum { ON = PATRAIN_NOTE_ON, OFF = PATRAIN_NOTE_OFF, SHIFT = PATRAIN_TIME_SHIFT - 1 };
    static const uint16_t piece[] = {SHIFT + 50, 370,      ON + 60,    SHIFT + 100, OFF + 60, 371,
                                     ON + 64,    OFF + 64, SHIFT + 20, ON + 60,     SHIFT + 9};
    enum { COUNT = sizeof piece / sizeof *piece };
    static const struct {
        double seconds;
        size_t kept;
        int last;
    } row[] = {{1e300, COUNT, SHIFT + 9}, {1.79, COUNT, SHIFT + 9}, {1.784, COUNT, SHIFT + 8}, {1.7, 9, SHIFT + 20},
               {1.6, 9, SHIFT + 10},      {1.5, 5, OFF + 60},       {1.496, 5, OFF + 60},      {1, 4, SHIFT + 50}};
    patrain_error error;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        uint16_t token[COUNT];
        size_t count = COUNT;
        memcpy(token, piece, sizeof piece);
        ok(patrain_cut(token, &count, row[i].seconds, &error), &error);
        if (count != row[i].kept || token[count - 1] != row[i].last)
            fail_msg("cut at %g: expected %zu tokens up to %d, found %zu up to %d", row[i].seconds, row[i].kept, row[i].last, count,
                     token[count - 1]);
    }
    uint16_t token[COUNT];
    size_t count = COUNT;
    memcpy(token, piece, sizeof piece);
    refused(patrain_cut(token, &count, 0.5, &error), &error, PATRAIN_BAD_USAGE,
            "seconds: expected more than 0.50, where the music begins, found 0.50");
    assert_int_equal(count, COUNT);
    assert_memory_equal(token, piece, sizeof piece);
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        patrain_note note;
        const char *text;
    } bad[] = {
        {{.start = -1, .end = 1, .pitch = 60, .velocity = 64},
         "note 0: expected a start from 0 and a later end within 86400 s, found -1 and 1"},
        {{.start = 1, .end = 1, .pitch = 60, .velocity = 64},
         "note 0: expected a start from 0 and a later end within 86400 s, found 1 and 1"},
        {{.end = 1, .pitch = 128, .velocity = 64}, "note 0: expected a pitch up to 127 and a velocity from 1 to 127, found 128 and 64"},
        {{.end = 1, .pitch = 60, .velocity = 0}, "note 0: expected a pitch up to 127 and a velocity from 1 to 127, found 60 and 0"},
    };
    patrain_error error;
    uint16_t *tokens;
    size_t count;
    patrain_model *none;
    char text[512];
    EACH_ROW (i, bad, bad[i].text) {
        refused(patrain_encode_notes(&bad[i].note, 1, PATRAIN_PERFORMANCE, &tokens, &count, &error), &error, PATRAIN_BAD_DATA, bad[i].text);
        assert_null(tokens);
    }
    snprintf(text, sizeof text, "%s: expected a model file, a checkpoint or a run directory, found nothing there", scratch("none"));
    refused(patrain_model_open(&none, scratch("none"), NULL, &error), &error, PATRAIN_BAD_USAGE, text);
    assert_null(none);
    assert_int_equal(patrain_model_open(&none, scratch("none"), NULL, NULL), PATRAIN_BAD_USAGE);

    player p = open_player("performance");
    patrain_stream *stream;
    float logits[PATRAIN_VOCABULARY];
    patrain_sampling o = sampling();
    refused(patrain_stream_open(&stream, p.model, &(patrain_options){.size = sizeof(patrain_options), .device = "gpu"}, &error), &error,
            PATRAIN_BAD_USAGE, "device: expected auto, cpu or cuda, found gpu");
    refused(patrain_stream_open(&stream, p.model, &(patrain_options){.size = sizeof(patrain_options), .precision = "fp8"}, &error), &error,
            PATRAIN_BAD_USAGE, "precision: expected auto, fp32, bf16 or fp16, found fp8");
    refused(patrain_stream_open(&stream, p.model, &(patrain_options){.size = sizeof(patrain_options), .sequences = -1}, &error), &error,
            PATRAIN_BAD_USAGE, "sequences: expected 1 or more, or 0 for the default, found -1");
    snprintf(text, sizeof text, "patrain_options.size: expected %zu, found 0", sizeof(patrain_options));
    refused(patrain_stream_open(&stream, p.model, &(patrain_options){.device = "cpu"}, &error), &error, PATRAIN_BAD_USAGE, text);
    assert_null(stream);
    refused(patrain_stream_logits(p.stream, logits, &error), &error, PATRAIN_BAD_USAGE,
            "expected a token to predict from, found an empty stream");
    refused(patrain_stream_append(p.stream, &(uint16_t){PATRAIN_END}, &error), &error, PATRAIN_BAD_DATA,
            "token 0: expected a number below 388, found 388");
    o.top_p = 0;
    refused(patrain_stream_next(p.stream, &o, NULL, &error), &error, PATRAIN_BAD_USAGE, "top-p: expected more than 0, at most 1, found 0");
    close_player(p);
    patrain_stream_close(NULL);
    patrain_model_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_spinning), // before any other stream
        SCRATCH_TEST(test_same_tokens_as_generation),
        SCRATCH_TEST(test_appended_tokens),
        SCRATCH_TEST(test_many_appended_tokens),
        SCRATCH_TEST(test_sequences),
        SCRATCH_TEST(test_predict),
        SCRATCH_TEST(test_keys),
        SCRATCH_TEST(test_score),
        SCRATCH_TEST(test_threads),
        SCRATCH_TEST(test_notes),
        cmocka_unit_test(test_cut),
        SCRATCH_TEST(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
