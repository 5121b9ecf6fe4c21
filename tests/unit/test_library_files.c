// test_library_files.c: patrain.h's notes, MIDI files, cuts and errors, and the threads that a process is left with.
// PA_DEVICE chooses the device.
#include <math.h>
#include <omp.h>

#include "tests/support/fixture.h"
#include "tests/support/library.h"
#include "tests/support/rows.h"
#include "tests/support/scratch.h"

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
    library_put_model(scratch("model.safetensors"), "performance");
    patrain_model *m;
    patrain_stream *s;
    patrain_error error;
    unsetenv("OMP_WAIT_POLICY");
    unsetenv("GOMP_SPINCOUNT");
    library_ok(patrain_model_open(&m, scratch("model.safetensors"), NULL, &error), &error);
    int before = threads_now(), expected = before + omp_get_num_procs() + 1;
    for (int i = 0; i < 2; i++) { // a second stream adds none
        library_ok(patrain_stream_open(
                       &s, m,
                       &(patrain_options){.size = sizeof(patrain_options), .device = library_device(), .threads = 1},
                       &error),
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
        library_ok(patrain_encode_notes(notes, 3, (patrain_encoding)e, &token, &count, &error), &error);
        library_ok(patrain_decode(token, count, (patrain_encoding)e, &found, &n, &error), &error);
        assert_int_equal(n, 3);
        for (size_t i = 0; i < n; i++) assert_int_equal(token[found[i].token], PATRAIN_NOTE_ON + found[i].pitch);
        assert_true(found[0].pitch == 60 && found[1].pitch == 64 && found[2].start == 1 &&
                    fabs(found[2].end - 2.25) < 1e-9);
        library_ok(patrain_write_midi(scratch("notes.mid"), found, n, &error), &error);
        patrain_status s =
            patrain_encode_midi(scratch("notes.mid"), (patrain_encoding)e, &how, &again, &count_again, &report, &error);
        if (e == PATRAIN_PERFORMANCE) {
            library_ok(s, &error);
            assert_int_equal(report.dropped, 0);
            assert_int_equal(report.notes, 3);
            assert_true(fabs(report.seconds - 2.25) < 1e-9);
            assert_int_equal(count_again, count);
            assert_memory_equal(again, token, count * sizeof *token);
        } else { // the file has no pedal
            char text[512];
            snprintf(text, sizeof text, "%s: no note of its 3 has a place in the midi-neural encoding",
                     scratch("notes.mid"));
            library_refused(s, &error, PATRAIN_BAD_DATA, text);
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
        library_ok(patrain_cut(token, &count, row[i].seconds, &error), &error);
        if (count != row[i].kept || token[count - 1] != row[i].last)
            fail_msg("cut at %g: expected %zu tokens up to %d, found %zu up to %d", row[i].seconds, row[i].kept,
                     row[i].last, count, token[count - 1]);
    }
    uint16_t token[COUNT];
    size_t count = COUNT;
    memcpy(token, piece, sizeof piece);
    library_refused(patrain_cut(token, &count, 0.5, &error), &error, PATRAIN_BAD_USAGE,
                    "seconds: expected more than 0.50, where the music begins, found 0.50");
    assert_int_equal(count, COUNT);
    assert_memory_equal(token, piece, sizeof piece);
    assert_int_equal(patrain_cut(token, &count, NAN, &error), PATRAIN_BAD_USAGE);
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
        {{.end = 1, .pitch = 128, .velocity = 64},
         "note 0: expected a pitch up to 127 and a velocity from 1 to 127, found 128 and 64"},
        {{.end = 1, .pitch = 60, .velocity = 0},
         "note 0: expected a pitch up to 127 and a velocity from 1 to 127, found 60 and 0"},
    };
    patrain_error error;
    uint16_t *tokens;
    size_t count;
    patrain_model *none;
    char text[512];
    snprintf(text, sizeof text, "cannot open %s: No such file or directory", scratch("none.mid"));
    library_refused(patrain_encode_midi(scratch("none.mid"), PATRAIN_PERFORMANCE, NULL, &tokens, &count, NULL, &error),
                    &error, PATRAIN_BAD_USAGE, text);
    EACH_ROW (i, bad, bad[i].text) {
        library_refused(patrain_encode_notes(&bad[i].note, 1, PATRAIN_PERFORMANCE, &tokens, &count, &error), &error,
                        PATRAIN_BAD_DATA, bad[i].text);
        assert_null(tokens);
    }
    snprintf(text, sizeof text, "%s: expected a model file, a checkpoint or a run directory, found nothing there",
             scratch("none"));
    library_refused(patrain_model_open(&none, scratch("none"), NULL, &error), &error, PATRAIN_BAD_USAGE, text);
    assert_null(none);
    assert_int_equal(patrain_model_open(&none, scratch("none"), NULL, NULL), PATRAIN_BAD_USAGE);

    library_player p = library_open(scratch("model.safetensors"), "performance");
    patrain_stream *stream;
    float logits[PATRAIN_VOCABULARY];
    patrain_sampling o = library_sampling();
    library_refused(patrain_stream_open(&stream, p.model,
                                        &(patrain_options){.size = sizeof(patrain_options), .device = "gpu"}, &error),
                    &error, PATRAIN_BAD_USAGE, "device: expected auto, cpu or cuda, found gpu");
    library_refused(patrain_stream_open(&stream, p.model,
                                        &(patrain_options){.size = sizeof(patrain_options), .precision = "fp8"},
                                        &error),
                    &error, PATRAIN_BAD_USAGE, "precision: expected auto, fp32, bf16 or fp16, found fp8");
    library_refused(patrain_stream_open(&stream, p.model,
                                        &(patrain_options){.size = sizeof(patrain_options), .sequences = -1}, &error),
                    &error, PATRAIN_BAD_USAGE, "sequences: expected 1 or more, or 0 for the default, found -1");
    snprintf(text, sizeof text, "patrain_options.size: expected %zu, found 0", sizeof(patrain_options));
    library_refused(patrain_stream_open(&stream, p.model, &(patrain_options){.device = "cpu"}, &error), &error,
                    PATRAIN_BAD_USAGE, text);
    assert_null(stream);
    library_refused(patrain_stream_logits(p.stream, logits, &error), &error, PATRAIN_BAD_USAGE,
                    "expected a token to predict from, found an empty stream");
    library_refused(patrain_stream_append(p.stream, &(uint16_t){PATRAIN_END}, &error), &error, PATRAIN_BAD_DATA,
                    "token 0: expected a number below 388, found 388");
    o.top_p = 0;
    library_refused(patrain_stream_next(p.stream, &o, NULL, &error), &error, PATRAIN_BAD_USAGE,
                    "top-p: expected more than 0, at most 1, found 0");
    library_close(p);
    patrain_stream_close(NULL);
    patrain_model_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_spinning), // before any other stream
        SCRATCH_TEST(test_notes),
        cmocka_unit_test(test_cut),
        SCRATCH_TEST(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
