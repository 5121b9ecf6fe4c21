// test_library.c: patrain.h's functions against the parts that the programs are made of.
#include <math.h>
#include <omp.h>
#include <pthread.h>

#include "host/files/config.h"
#include "host/files/safetensors_write.h"
#include "host/play/generate.h"
#include "host/play/inference.h"
#include "host/play/score.h"
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

typedef struct {
    patrain_model *model;
    patrain_stream *stream;
} player;

static player open_player(const char *encoding) {
    player p;
    patrain_error error;
    put_model("model.safetensors", encoding);
    ok(patrain_model_open(&p.model, scratch("model.safetensors"), NULL, &error), &error);
    ok(patrain_stream_open(&p.stream, p.model, &(patrain_stream_options){.device = "cpu", .precision = "fp32"}, &error), &error);
    return p;
}

static void close_player(player p) {
    patrain_stream_close(p.stream);
    patrain_model_close(p.model);
}

// What pagen's part makes of the same model.
static void generate(const pa_sampling_options *o, size_t primer_count, uint16_t out[LENGTH]) {
    pa_inference x;
    pa_err err;
    size_t count;
    fixture_ok(pa_inference_open(&x, scratch("model.safetensors"), NULL, "cpu", &err), &err);
    fixture_ok(pa_inference_start(&x, "fp32", false, 0, 1, &err), &err);
    pa_generation g = {.backend = x.backend,
                       .ctx = x.ctx,
                       .model = &x.params.model,
                       .options = o,
                       .primer = primer,
                       .primer_count = primer_count,
                       .streams = 1,
                       .length = LENGTH,
                       .out = out,
                       .count = &count};
    fixture_ok(pa_generate(&g, &err), &err);
    assert_int_equal(count, LENGTH);
    pa_inference_close(&x);
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
            patrain_sampling ours = patrain_sampling_default();
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
            ok(patrain_stream_append(p.stream, primer[i], &error), &error);
            if (each) ok(patrain_stream_logits(p.stream, logits[each], &error), &error);
        }
        ok(patrain_stream_logits(p.stream, logits[each], &error), &error);
    }
    assert_memory_equal(logits[0], logits[1], sizeof *logits);
    close_player(p);
}

static void test_keys(void **state) {
    static const char *const encoding[] = {"performance", "midi-neural"};
    (void)state;
    for (int e = 0; e < 2; e++) {
        player p = open_player(encoding[e]);
        patrain_error error;
        patrain_sampling o = patrain_sampling_default();
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
        ok(patrain_decode(token, tokens, patrain_model_describe(p.model).encoding, &note, &notes, &error), &error);
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

static void test_score(void **state) {
    (void)state;
    player p = open_player("performance");
    patrain_error error;
    pa_err err;
    uint16_t piece[200], before, after;
    float nats[200];
    double sum = 0;
    patrain_sampling o = patrain_sampling_default();
    for (size_t i = 0; i < 200; i++) piece[i] = primer[i * 5 % PRIMER];
    for (size_t count = 1; count <= 200; count += count < 60 ? 1 : 70) {
        const char *name = "piece";
        pa_inference x;
        pa_token_set t;
        pa_score score;
        sum = 0;
        ok(patrain_stream_score(p.stream, piece, count, nats, &error), &error);
        for (size_t i = 0; i < count; i++) sum += (double)nats[i];
        assert_true(nats[0] == 0);
        if (count < 2) continue;
        pa_piece one = {.token = piece, .count = count};
        fixture_ok(pa_tokens_write(scratch("t.safetensors"), &one, &name, 1, PA_PERFORMANCE, "test", &err), &err);
        char tokens[SCRATCH_PATH];
        snprintf(tokens, sizeof tokens, "%s", scratch("t.safetensors"));
        fixture_ok(pa_inference_open(&x, scratch("model.safetensors"), NULL, "cpu", &err), &err);
        fixture_ok(pa_inference_start(&x, "fp32", false, 1, 0, &err), &err);
        fixture_ok(pa_inference_tokens(&x, &t, tokens, &err), &err);
        pa_scoring how = {.backend = x.backend, .ctx = x.ctx, .model = &x.params.model, .tokens = &t, .batch = 1};
        fixture_ok(pa_score_pieces(&how, 0, &score, &err), &err);
        if (fabs(pa_score_nats(&score) - sum) > 1e-5 * sum)
            fail_msg("%zu tokens: expected %.9g nats, found %.9g", count, pa_score_nats(&score), sum);
        pa_token_set_close(&t);
        pa_inference_close(&x);
    }
    // A stream's own tokens stay.
    ok(patrain_stream_start(p.stream, primer, PRIMER, &error), &error);
    ok(patrain_stream_next(p.stream, &o, &before, &error), &error);
    ok(patrain_stream_next(p.stream, &o, &before, &error), &error);
    ok(patrain_stream_start(p.stream, primer, PRIMER, &error), &error);
    ok(patrain_stream_next(p.stream, &o, &after, &error), &error);
    ok(patrain_stream_score(p.stream, piece, 200, nats, &error), &error);
    ok(patrain_stream_next(p.stream, &o, &after, &error), &error);
    assert_int_equal(after, before);
    piece[3] = PATRAIN_END;
    refused(patrain_stream_score(p.stream, piece, 200, nats, &error), &error, PATRAIN_BAD_DATA,
            "token 3: expected a number below 388, found 388");
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
    patrain_sampling o = patrain_sampling_default();
    ok(patrain_stream_open(&s, j->model, &(patrain_stream_options){.device = "cpu", .threads = 1}, &error), &error);
    continue_primer(s, &o, PRIMER, j->token);
    patrain_stream_close(s);
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
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
        ok(patrain_stream_open(&s, m, &(patrain_stream_options){.device = "cpu", .threads = 1}, &error), &error);
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
        size_t count, count_again, dropped = 9, n;
        ok(patrain_encode_notes(notes, 3, (patrain_encoding)e, &token, &count, &error), &error);
        ok(patrain_decode(token, count, (patrain_encoding)e, &found, &n, &error), &error);
        assert_int_equal(n, 3);
        assert_true(found[0].pitch == 60 && found[1].pitch == 64 && found[2].start == 1 && fabs(found[2].end - 2.25) < 1e-9);
        ok(patrain_write_midi(scratch("notes.mid"), found, n, &error), &error);
        patrain_status s = patrain_encode_midi(scratch("notes.mid"), (patrain_encoding)e, &again, &count_again, &dropped, &error);
        if (e == PATRAIN_PERFORMANCE) {
            ok(s, &error);
            assert_int_equal(dropped, 0);
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
    patrain_sampling o = patrain_sampling_default();
    refused(patrain_stream_open(&stream, p.model, &(patrain_stream_options){.device = "gpu"}, &error), &error, PATRAIN_BAD_USAGE,
            "device: expected auto, cpu or cuda, found gpu");
    refused(patrain_stream_open(&stream, p.model, &(patrain_stream_options){.precision = "fp8"}, &error), &error, PATRAIN_BAD_USAGE,
            "precision: expected auto, fp32, bf16 or fp16, found fp8");
    assert_null(stream);
    refused(patrain_stream_logits(p.stream, logits, &error), &error, PATRAIN_BAD_USAGE,
            "expected a token to predict from, found an empty stream");
    refused(patrain_stream_append(p.stream, PATRAIN_END, &error), &error, PATRAIN_BAD_DATA,
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
        SCRATCH_TEST(test_keys),
        SCRATCH_TEST(test_score),
        SCRATCH_TEST(test_threads),
        SCRATCH_TEST(test_notes),
        SCRATCH_TEST(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
