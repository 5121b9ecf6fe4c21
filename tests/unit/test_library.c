// test_library.c: patrain.h's functions against generation on a context of its own, and against each other. PA_DEVICE
// chooses the device.
#include <math.h>
#include <omp.h>
#include <pthread.h>

#include "host/files/config.h"
#include "host/files/safetensors_write.h"
#include "host/files/weights.h"
#include "host/lib/generate.h"
#include "include/patrain.h"

#include "tests/support/fixture.h"
#include "tests/support/library.h"
#include "tests/support/rows.h"
#include "tests/support/scratch.h"

enum { LENGTH = 90 }; // tokens drawn: several windows of 24

static const uint16_t primer[] = {370, 60, 267, 64, 355, 188, 192, 355, 372, 67, 310, 195, 258, 62};
enum { PRIMER = sizeof primer / sizeof *primer };

// The same model on a context without the library.
static void generate(const pa_sampling_options *o, size_t primer_count, uint16_t out[LENGTH]) {
    const pa_backend *backend;
    pa_weights w;
    pa_params params;
    pa_context *ctx;
    pa_comm comm = pa_comm_single();
    pa_err err;
    size_t count;
    fixture_ok(pa_backend_choose(library_device(), &backend, &err), &err);
    fixture_ok(pa_weights_open(&w, scratch("model.safetensors"), NULL, NULL, &err), &err);
    fixture_ok(pa_params_init(&params, &w.model, &err), &err);
    pa_open open = {
        .params = &params, .precision = PA_PRECISION_FP32, .streams = 1, .deterministic = true, .comm = &comm};
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
    library_ok(patrain_stream_start(s, primer, primer_count, &error), &error);
    for (int i = 0; i < LENGTH; i++) library_ok(patrain_stream_next(s, o, &out[i], &error), &error);
}

static void test_same_tokens_as_generation(void **state) {
    static const char *const encoding[] = {"performance", "midi-neural"};
    (void)state;
    for (int e = 0; e < 2; e++)
        for (int with_primer = 0; with_primer < 2; with_primer++) {
            library_player p = library_open(scratch("model.safetensors"), encoding[e]);
            pa_sampling_options theirs = pa_sampling_default();
            patrain_sampling ours = library_sampling();
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
            theirs.releases = theirs.steady = true;
            generate(&theirs, count, expected);
            continue_primer(p.stream, &ours, count, found);
            for (int i = 0; i < LENGTH; i++)
                if (found[i] != expected[i])
                    fail_msg("%s, %zu tokens of primer: token %d: expected %d, found %d", encoding[e], count, i,
                             expected[i], found[i]);
            library_close(p);
        }
}

// Tokens appended at once or one by one, with a prediction after each: the same last prediction.
static void test_appended_tokens(void **state) {
    (void)state;
    library_player p = library_open(scratch("model.safetensors"), "performance");
    patrain_error error;
    float logits[2][PATRAIN_VOCABULARY];
    for (int each = 0; each < 2; each++) {
        library_ok(patrain_stream_start(p.stream, primer, 12, &error), &error);
        library_ok(patrain_stream_logits(p.stream, logits[each], &error), &error); // the window begins here
        for (int i = 12; i < PRIMER; i++) {
            library_ok(patrain_stream_append(p.stream, &primer[i], &error), &error);
            if (each) library_ok(patrain_stream_logits(p.stream, logits[each], &error), &error);
        }
        library_ok(patrain_stream_logits(p.stream, logits[each], &error), &error);
    }
    assert_memory_equal(logits[0], logits[1], sizeof *logits);
    library_close(p);
}

// More tokens at once than a window holds: as if they had been there from the start.
static void test_many_appended_tokens(void **state) {
    (void)state;
    library_player p = library_open(scratch("model.safetensors"), "performance");
    patrain_error error;
    float logits[2][PATRAIN_VOCABULARY];
    uint16_t piece[500];
    for (int i = 0; i < 500; i++) piece[i] = primer[i * 5 % PRIMER];
    library_ok(patrain_stream_start(p.stream, piece, 3, &error), &error);
    library_ok(patrain_stream_logits(p.stream, logits[0], &error), &error);
    for (int i = 3; i < 500; i++) library_ok(patrain_stream_append(p.stream, &piece[i], &error), &error);
    library_ok(patrain_stream_logits(p.stream, logits[0], &error), &error);
    library_ok(patrain_stream_start(p.stream, piece, 500, &error), &error);
    library_ok(patrain_stream_logits(p.stream, logits[1], &error), &error);
    assert_memory_equal(logits[0], logits[1], sizeof *logits);
    library_close(p);
}

// Sequences that grow together are those that grow apart; each ends by itself.
static void test_sequences(void **state) {
    (void)state;
    enum { SEQUENCES = 3 };
    patrain_error error;
    library_player p = library_open_some(scratch("model.safetensors"), "performance", SEQUENCES, 0);
    patrain_stream *single;
    patrain_options one = library_options();
    patrain_sampling o = library_sampling();
    uint16_t token[SEQUENCES], alone[LENGTH], together[SEQUENCES][LENGTH];
    float logits[SEQUENCES * PATRAIN_VOCABULARY], first[PATRAIN_VOCABULARY];
    assert_int_equal(patrain_stream_options(p.stream)->sequences, SEQUENCES);
    library_ok(patrain_stream_open(&single, p.model, &one, &error), &error);
    library_ok(patrain_stream_start(p.stream, primer, PRIMER, &error), &error);
    library_ok(patrain_stream_logits(p.stream, logits, &error), &error);
    library_ok(patrain_stream_start(single, primer, PRIMER, &error), &error);
    library_ok(patrain_stream_logits(single, first, &error), &error);
    for (int i = 0; i < PATRAIN_VOCABULARY; i++)
        assert_true(fabsf(first[i] - logits[2 * PATRAIN_VOCABULARY + i]) < 1e-4F);
    o.sequence = 40;
    for (int i = 0; i < LENGTH; i++) {
        library_ok(patrain_stream_next(p.stream, &o, token, &error), &error);
        for (int k = 0; k < SEQUENCES; k++) together[k][i] = token[k];
    }
    for (int k = 0; k < SEQUENCES; k++, o.sequence++) {
        continue_primer(single, &o, PRIMER, alone);
        for (int i = 0; i < LENGTH; i++)
            if (alone[i] != together[k][i])
                fail_msg("sequence %d, token %d: expected %d, found %d", k, i, alone[i], together[k][i]);
    }
    o.stop_at_end = 1;
    o.temperature = 100; // any token is as probable as any other
    library_ok(patrain_stream_start(p.stream, primer, PRIMER, &error), &error);
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
    library_refused(patrain_stream_next_key(p.stream, &o, &key, &error), &error, PATRAIN_BAD_USAGE,
                    "expected a stream of one sequence, found 3");
    patrain_stream_close(single);
    library_close(p);
}

static void test_keys(void **state) {
    static const char *const encoding[] = {"performance", "midi-neural"};
    (void)state;
    for (int e = 0; e < 2; e++) {
        library_player p = library_open(scratch("model.safetensors"), encoding[e]);
        patrain_error error;
        patrain_sampling o = library_sampling();
        patrain_key key[LENGTH];
        uint16_t token[4096];
        size_t tokens = 0, notes, keys = 0;
        patrain_note *note;
        library_ok(patrain_stream_start(p.stream, NULL, 0, &error), &error);
        while (keys < LENGTH) library_ok(patrain_stream_next_key(p.stream, &o, &key[keys++], &error), &error);
        library_ok(patrain_stream_start(p.stream, NULL, 0, &error), &error);
        for (size_t heard = 0; heard < LENGTH; heard += token[tokens++] < PATRAIN_TIME_SHIFT) {
            assert_true(tokens < sizeof token / sizeof *token);
            library_ok(patrain_stream_next(p.stream, &o, &token[tokens], &error), &error);
        }
        library_ok(patrain_decode(token, tokens, patrain_model_describe(p.model)->encoding, &note, &notes, &error),
                   &error);
        size_t struck = 0;
        assert_true(notes > 5);
        for (size_t i = 0; i < LENGTH; i++) struck += key[i].velocity > 0;
        assert_true(struck > 5);
        for (size_t n = 0; n < notes; n++) {
            size_t i = 0;
            while (i < LENGTH &&
                   !(key[i].velocity && key[i].pitch == note[n].pitch && fabs(key[i].seconds - note[n].start) < 1e-9))
                i++;
            if (i == LENGTH)
                fail_msg("%s: note %zu, pitch %d at %g s: no such key", encoding[e], n, note[n].pitch, note[n].start);
            assert_int_equal(key[i].velocity, note[n].velocity);
        }
        patrain_free(note);
        library_close(p);
    }
}

// A stream that went back within its window predicts as it did there, and plays the same keys again.
static void test_rewind(void **state) {
    (void)state;
    enum { KEYS = 60 };
    library_player p = library_open(scratch("model.safetensors"), "performance");
    patrain_error error;
    patrain_sampling o = library_sampling();
    patrain_key key[KEYS], again;
    size_t length[KEYS];
    static float before[KEYS][PATRAIN_VOCABULARY];
    float logits[PATRAIN_VOCABULARY];
    int first = KEYS;
    library_ok(patrain_stream_start(p.stream, primer, PRIMER, &error), &error);
    for (int i = 0; i < KEYS; i++) {
        library_ok(patrain_stream_next_key(p.stream, &o, &key[i], &error), &error);
        library_ok(patrain_stream_logits(p.stream, before[i], &error), &error);
        length[i] = patrain_stream_length(p.stream);
    }
    while (first) {
        library_ok(patrain_stream_rewind(p.stream, length[first - 1], &error), &error);
        library_ok(patrain_stream_logits(p.stream, logits, &error), &error);
        if (memcmp(logits, before[first - 1], sizeof logits)) break;
        first--;
    }
    assert_in_range(first, 1, KEYS - 3);
    library_ok(patrain_stream_start(p.stream, primer, PRIMER, &error), &error);
    for (int i = 0; i < KEYS; i++) library_ok(patrain_stream_next_key(p.stream, &o, &again, &error), &error);
    library_ok(patrain_stream_rewind(p.stream, length[first], &error), &error);
    assert_int_equal(patrain_stream_length(p.stream), length[first]);
    for (int i = first + 1; i < KEYS; i++) {
        library_ok(patrain_stream_next_key(p.stream, &o, &again, &error), &error);
        assert_true(again.seconds == key[i].seconds); // to the step
        assert_int_equal(again.pitch, key[i].pitch);
        assert_int_equal(again.velocity, key[i].velocity);
    }
    char text[100];
    size_t all = patrain_stream_length(p.stream);
    snprintf(text, sizeof text, "rewind: expected at most %zu tokens, found %zu", all, all + 1);
    library_refused(patrain_stream_rewind(p.stream, all + 1, &error), &error, PATRAIN_BAD_USAGE, text);
    library_ok(patrain_stream_rewind(p.stream, 0, &error), &error);
    library_refused(patrain_stream_logits(p.stream, logits, &error), &error, PATRAIN_BAD_USAGE,
                    "expected a token to predict from, found an empty stream");
    library_close(p);
}

// What a stream predicts from is what a scorer's window predicts from.
static void test_predict(void **state) {
    (void)state;
    library_player p = library_open_some(scratch("model.safetensors"), "performance", 1, 2);
    patrain_error error;
    const patrain_model_info *m = patrain_model_describe(p.model);
    uint16_t window[2 * PRIMER], target[2 * PRIMER], best[2 * PRIMER];
    float logits[PATRAIN_VOCABULARY], nats[2 * PRIMER], all[2 * PRIMER * PATRAIN_VOCABULARY];
    for (int length = 1; length <= PRIMER; length++) {
        int latents = length > m->prefix ? length - m->prefix : 1;
        for (int i = 0; i < 2 * length; i++) window[i] = primer[i % length];
        for (int i = 0; i < 2 * latents; i++) target[i] = (uint16_t)(i == 2 * latents - 1 ? 60 : PATRAIN_PAD);
        patrain_windows w = {
            .size = sizeof w, .batch = 2, .length = length, .latents = latents, .input = window, .target = target};
        w.nats = nats;
        w.best = best;
        w.logits = all;
        library_ok(patrain_stream_start(p.stream, primer, (size_t)length, &error), &error);
        library_ok(patrain_stream_logits(p.stream, logits, &error), &error);
        library_ok(patrain_scorer_predict(p.scorer, &w, &error), &error);
        const float *last = all + (2 * latents - 1) * PATRAIN_VOCABULARY;
        double sum = 0;
        int top = 0;
        for (int v = 0; v < PATRAIN_VOCABULARY; v++) {
            if (fabsf(logits[v] - last[v]) > 1e-4F)
                fail_msg("%d tokens: logit %d: expected %g, found %g", length, v, logits[v], last[v]);
            sum += exp((double)last[v]);
            if (last[v] > last[top]) top = v;
        }
        assert_true(fabs(log(sum) - (double)last[60] - (double)nats[2 * latents - 1]) < 1e-4);
        assert_int_equal(best[2 * latents - 1], top);
        assert_true(nats[0] == 0 || latents == 1);
    }
    patrain_windows w = {.size = sizeof w, .batch = 3, .length = 2, .latents = 1, .input = window};
    library_refused(patrain_scorer_predict(p.scorer, &w, &error), &error, PATRAIN_BAD_USAGE,
                    "batch: expected 1 to 2 sequences, found 3");
    w.size = 8;
    char text[100];
    snprintf(text, sizeof text, "patrain_windows.size: expected %zu, found 8", sizeof w);
    library_refused(patrain_scorer_predict(p.scorer, &w, &error), &error, PATRAIN_BAD_USAGE, text);
    library_close(p);
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
    assert_true(run->context >= 1 && run->context <= run->first); // values: test_score
}

// Pieces together and one by one; every token but the first once.
static void test_score(void **state) {
    (void)state;
    library_player p = library_open_some(scratch("model.safetensors"), "performance", 1, 4);
    patrain_error error;
    uint16_t token[LONGEST];
    float nats[LONGEST];
    const patrain_piece piece[PIECES] = {{token, 0}, {token, 1}, {token + 1, 30}, {token, 57}, {token, LONGEST}};
    scored x = {0};
    for (size_t i = 0; i < LONGEST; i++) token[i] = primer[i * 5 % PRIMER];
    library_ok(patrain_scorer_pieces(p.scorer, piece, PIECES, 0, add_run, &x, &error), &error);
    for (int k = 0; k < PIECES; k++) {
        double sum = 0;
        library_ok(patrain_scorer_score(p.scorer, piece[k].tokens, piece[k].count, nats, &error), &error);
        for (size_t i = 0; i < piece[k].count; i++) sum += (double)nats[i];
        for (size_t i = 0; i < piece[k].count; i++) assert_int_equal(x.times[k][i], i > 0);
        assert_true(!piece[k].count || nats[0] == 0);
        if (fabs(x.nats[k] - sum) > 1e-5 * sum) fail_msg("piece %d: expected %.9g nats, found %.9g", k, sum, x.nats[k]);
    }
    x = (scored){0};
    library_ok(patrain_scorer_pieces(p.scorer, piece, PIECES, 1, add_run, &x, &error), &error);
    for (size_t i = 0; i < LONGEST; i++) assert_int_equal(x.times[PIECES - 1][i], i > 0);
    library_refused(patrain_scorer_pieces(p.scorer, piece, PIECES, 99, add_run, &x, &error), &error, PATRAIN_BAD_USAGE,
                    "stride: expected 1 to 15, the latents of a window, found 99");
    token[3] = PATRAIN_END;
    library_ok(patrain_scorer_score(p.scorer, token, LONGEST, nats, &error), &error);
    token[3] = PATRAIN_PAD;
    library_refused(patrain_scorer_score(p.scorer, token, LONGEST, nats, &error), &error, PATRAIN_BAD_DATA,
                    "token 3: expected a number below 389, found 389");
    library_refused(patrain_scorer_pieces(p.scorer, piece, PIECES, 0, add_run, &x, &error), &error, PATRAIN_BAD_DATA,
                    "piece 2, token 2: expected a number below 389, found 389");
    library_close(p);
}

typedef struct {
    const patrain_model *model;
    uint16_t token[LENGTH];
} job;

static void *play(void *arg) {
    job *j = arg;
    patrain_stream *s;
    patrain_error error;
    patrain_sampling o = library_sampling();
    library_ok(patrain_stream_open(
                   &s, j->model,
                   &(patrain_options){.size = sizeof(patrain_options), .device = library_device(), .threads = 1},
                   &error),
               &error);
    continue_primer(s, &o, PRIMER, j->token);
    patrain_stream_close(s);
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
#ifdef PA_EMULATOR // which runs the kernels of one thread
    if (!strcmp(library_device(), "cuda")) skip();
#endif
    library_player p = library_open(scratch("model.safetensors"), "performance");
    static job j[3];
    pthread_t thread[3];
    for (int i = 0; i < 3; i++) {
        j[i].model = p.model;
        assert_int_equal(pthread_create(&thread[i], NULL, play, &j[i]), 0);
    }
    for (int i = 0; i < 3; i++) assert_int_equal(pthread_join(thread[i], NULL), 0);
    assert_memory_equal(j[0].token, j[1].token, sizeof j->token);
    assert_memory_equal(j[0].token, j[2].token, sizeof j->token);
    library_close(p);
}

// What a caller does to its own OpenMP changes nothing, and stays as it was.
static void test_callers_own_openmp(void **state) {
    (void)state;
#ifdef PA_EMULATOR // which runs the kernels of one thread
    if (!strcmp(library_device(), "cuda")) skip();
#endif
    enum { PLAIN, LIMITED, NESTED, WAYS, WIDE = 48 };
    static uint16_t token[LONGEST], drawn[WAYS][2][LENGTH];
    static float nats[WAYS][2][LONGEST];
    const int threads = omp_get_max_threads(), levels = omp_get_max_active_levels();
    for (size_t i = 0; i < LONGEST; i++) token[i] = primer[i * 5 % PRIMER];
    omp_set_num_threads(3);
    library_player p[2];
    for (int i = 0; i < 2; i++) p[i] = library_open_some(scratch("model.safetensors"), "performance", 1, WIDE);
    for (int way = 0; way < WAYS; way++) {
        omp_set_max_active_levels(way == LIMITED ? 0 : levels);
#pragma omp parallel for num_threads(2) if (way == NESTED)
        for (int i = 0; i < 2; i++) {
            patrain_error error;
            patrain_sampling o = library_sampling();
            library_ok(patrain_scorer_score(p[i].scorer, token, LONGEST, nats[way][i], &error), &error);
            continue_primer(p[i].stream, &o, PRIMER, drawn[way][i]);
            assert_int_equal(omp_get_max_threads(), 3);
            assert_int_equal(omp_get_dynamic(), 0);
        }
        for (int i = 0; i < 2; i++) {
            for (int t = 1; t < LONGEST; t++)
                if (fabsf(nats[way][i][t] - nats[PLAIN][0][t]) > 1e-4F)
                    fail_msg("way %d, token %d: expected %g nats, found %g", way, t, nats[PLAIN][0][t],
                             nats[way][i][t]);
            assert_memory_equal(drawn[way][i], drawn[PLAIN][0], sizeof drawn[0][0]);
        }
    }
    omp_set_num_threads(threads);
    omp_set_max_active_levels(levels);
    for (int i = 0; i < 2; i++) library_close(p[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_same_tokens_as_generation),
        SCRATCH_TEST(test_appended_tokens),
        SCRATCH_TEST(test_many_appended_tokens),
        SCRATCH_TEST(test_sequences),
        SCRATCH_TEST(test_predict),
        SCRATCH_TEST(test_keys),
        SCRATCH_TEST(test_rewind),
        SCRATCH_TEST(test_score),
        SCRATCH_TEST(test_threads),
        SCRATCH_TEST(test_callers_own_openmp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
