// test_meaning.c: a file means what a synthesiser would play: state by port and channel, not by track or program; one
// tempo map; ends of notes; pedals.
#include "tests/support/midi_bytes.h"
#include "tests/support/rows.h"

#include <math.h>

static midi m;
static const pa_encode_options performance = {.encoding = PA_PERFORMANCE};

#define TRACK(...) midi_track(&m, (const row[]){__VA_ARGS__, STOP})
static const char TEMPO_120[] = "\0\xff\x51\3\x07\xa1\x20";

static void put_tempo_track(void) {
    midi_begin(&m);
    midi_put(&m, TEMPO_120, 7);
    midi_end(&m);
}

// ---- files that other programs stumbled over (../shared/cases has them, too)

// Where the file is at hand, these are its bytes.
static void same_as_case(const char *name) {
    char path[4096];
    uint8_t byte[1024];
    const char *data = getenv("PA_DATA");
    snprintf(path, sizeof path, "%s/../cases/%s", data ? data : "", name);
    FILE *f = data ? fopen(path, "rb") : NULL;
    if (!f) return;
    size_t count = fread(byte, 1, sizeof byte, f);
    fclose(f);
    assert_int_equal(m.count, count);
    assert_memory_equal(m.byte, byte, count);
}

static const row four_notes[] = {{0, 0x90, 60, 80},    {480, 0x80, 60, 64},  {480, 0x90, 62, 80},
                                 {960, 0x80, 62, 64},  {960, 0x90, 64, 80},  {1440, 0x80, 64, 64},
                                 {1440, 0x90, 65, 80}, {1920, 0x80, 65, 64}, STOP};

static void tempo_in_a_later_track(void **state) {
    (void)state;
    midi_header(&m, 1, 2, 480);
    midi_begin(&m);
    MIDI_PUT(&m, "\0\xff\3\x09"
                 "conductor");
    midi_end(&m);
    midi_begin(&m);
    MIDI_PUT(&m, "\0\xff\x51\3\x0f\x42\x40"); // 60 bpm
    midi_rows(&m, four_notes);
    midi_end(&m);
    same_as_case("tempo_in_later_track.mid");
    expect_tokens(&m, PA_PERFORMANCE, "V19 +60 T100 -60 +62 T100 -62 +64 T100 -64 +65 T100 -65", 0);
}

static void pedal_in_another_track(void **state) {
    (void)state;
    midi_header(&m, 1, 3, 480);
    put_tempo_track();
    TRACK({0, 0x90, 72, 80}, {240, 0x80, 72, 0}, {2880, 0x90, 74, 80}, {3120, 0x80, 74, 0});
    TRACK({0, 0xb0, 64, 127}, {0, 0x90, 48, 80}, {240, 0x80, 48, 0}, {1920, 0xb0, 64, 0}, {2880, 0x90, 50, 80},
          {3120, 0x80, 50, 0});
    same_as_case("pedal_in_other_track.mid");
    expect_tokens(&m, PA_PERFORMANCE, "V19 +48 +72 T100 T100 -48 -72 T100 +50 +74 T25 -50 -74", 0);
}

static void pedal_in_a_track_of_its_own(void **state) {
    (void)state;
    pa_report r;
    midi_header(&m, 1, 3, 480);
    put_tempo_track();
    TRACK({0, 0x90, 72, 80}, {240, 0x80, 72, 0}, {2880, 0x90, 74, 80}, {3120, 0x80, 74, 0});
    TRACK({0, 0xb0, 64, 127}, {1920, 0xb0, 64, 0});
    same_as_case("pedal_in_own_track.mid");
    expect_options(&m, &performance, "V19 +72 T100 T100 -72 T100 +74 T25 -74", 0, &r);
    assert_int_equal(r.pedal, 2);
    assert_int_equal(r.idle_pedal, 0);
}

static void pedal_across_a_program_change(void **state) {
    (void)state;
    midi_header(&m, 0, 1, 480);
    TRACK({0, 0xb0, 64, 127}, {0, 0x90, 60, 80}, {480, 0x80, 60, 0}, {960, 0xc0, 1, 0}, {960, 0x90, 62, 80},
          {1440, 0x80, 62, 0}, {1920, 0xb0, 64, 0}, {8640, 0xc0, 0, 0}, {8640, 0x90, 64, 80}, {9600, 0x80, 64, 0});
    same_as_case("pedal_across_program_change.mid");
    expect_tokens(&m, PA_PERFORMANCE, "V19 +60 T100 +62 T100 -60 -62 T100 T100 T100 T100 T100 T100 T100 +64 T100 -64",
                  0);
}

static void when_the_pedal_is_down(void **state) {
    (void)state;
    static const pa_pedal_span expected[] = {{0.5, 1}, {2, 3.5}, {4, 5}};
    pa_pedal_span *span;
    size_t spans;
    midi_header(&m, 1, 5, 480); // a quarter note lasts 0.5 s
    put_tempo_track();
    TRACK({0, 0x90, 60, 80}, {480, 0xb0, 64, 100}, {600, 0xb0, 64, 90}, {960, 0xb0, 64, 0}, {1920, 0xb0, 64, 64},
          {2880, 0xb0, 64, 63}, {4800, 0x80, 60, 0});
    TRACK({0, 0x91, 72, 80}, {2400, 0xb1, 64, 127}, {3360, 0xb1, 64, 0}, {3840, 0xb1, 64, 127}, {4800, 0x81, 72, 0});
    TRACK({0, 0x99, 40, 80}, {1000, 0xb9, 64, 127}, {1900, 0x89, 40, 0}, {1910, 0xb9, 64, 0}); // drums
    TRACK({1000, 0xb2, 64, 127}, {1900, 0xb2, 64, 0});                                         // no note
    assert_int_equal(pa_read_pedal(m.byte, m.count, &performance, &span, &spans, NULL), PA_OK);
    assert_int_equal(spans, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_true(fabs(span[i].down - expected[i].down) < 1e-6);
        assert_true(fabs(span[i].up - expected[i].up) < 1e-6);
    }
    free(span);
}

static void a_pedal_never_lifted_ends_with_the_piece(void **state) {
    (void)state;
    midi_header(&m, 1, 3, 480);
    put_tempo_track();
    TRACK({0, 0xb0, 64, 127}, {0, 0x90, 36, 80}, {960, 0x80, 36, 0});
    row r[33];
    for (int i = 0; i < 16; i++) {
        r[i ? 2 * i - 1 : 0] = (row){480 * i, 0x91, (uint8_t)(72 + i), 80};
        r[i < 15 ? 2 * i + 2 : 31] = (row){480 * (i + 1), 0x81, (uint8_t)(72 + i), 0};
    }
    r[32] = (row)STOP;
    midi_track(&m, r);
    same_as_case("pedal_never_up_two_parts.mid");
    expect_tokens(&m, PA_PERFORMANCE,
                  "V19 +36 +72 T50 -72 +73 T50 -73 +74 T50 -74 +75 T50 -75 +76 T50 -76 +77 T50 -77 +78 T50 -78 +79 T50 "
                  "-79 +80 T50 -80 +81 "
                  "T50 -81 +82 T50 -82 +83 T50 -83 +84 T50 -84 +85 T50 -85 +86 T50 -86 +87 T50 -36 -87",
                  0);
}

static void put_four_notes(void) {
    midi_begin(&m);
    for (int i = 0; i < 4; i++) {
        static const char pitch[] = {60, 62, 64, 65};
        midi_put(&m, (const char[]){0, (char)0x90, pitch[i], 80, (char)0x83, 0x60, (char)0x80, pitch[i], 64}, 9);
    }
    midi_end(&m);
}

static void a_list_before_the_music(void **state) {
    (void)state;
    m.count = 0;
    MIDI_PUT(&m, "RIFF\x64\0\0\0RMIDLIST\x12\0\0\0INFOINAM\6\0\0\0Sonatadata\x3e\0\0\0MThd\0\0\0\6\0\0\0\1\1\xe0");
    put_four_notes();
    same_as_case("rmid_list_first.rmi");
    expect_tokens(&m, PA_PERFORMANCE, "V19 +60 T50 -60 +62 T50 -62 +64 T50 -64 +65 T50 -65", 0);
}

static void a_foreign_chunk_that_is_counted(void **state) {
    (void)state;
    midi_header(&m, 1, 3, 480);
    put_tempo_track();
    MIDI_PUT(&m, "XFIH\0\0\0\4abcd");
    put_four_notes();
    same_as_case("ntrks_counts_foreign_chunk.mid");
    expect_tokens(&m, PA_PERFORMANCE, "V19 +60 T50 -60 +62 T50 -62 +64 T50 -64 +65 T50 -65", 0);
}

// ---- channels, ports and tracks

static void a_note_off_in_another_track(void **state) {
    (void)state;
    midi_header(&m, 1, 2, 500);
    TRACK(ON(0, 60, 64));
    TRACK(OFF(300, 60), ON(500, 62, 64), OFF(600, 62));
    expect_tokens(&m, PA_PERFORMANCE, "V15 +60 T30 -60 T20 +62 T10 -62", 0);
}

static void put_port(int port) {
    midi_put(&m, (const char[]){0, (char)0xff, 0x21, 1, (char)port}, 5);
}

static void ports_are_apart(void **state) {
    (void)state;
    midi_header(&m, 1, 3, 500);
    TRACK(ON(0, 60, 64), OFF(100, 60), OFF(400, 60)); // the note of port 1 is not released by port 0
    midi_begin(&m);
    put_port(1);
    midi_rows(&m, (const row[]){ON(200, 60, 64), OFF(500, 60), STOP});
    midi_end(&m);
    midi_begin(&m);
    put_port(255);
    midi_rows(&m, (const row[]){DOWN(0), UP(900), STOP});
    midi_end(&m);
    expect_tokens(&m, PA_PERFORMANCE, "V15 +60 T10 -60 T10 +60 T30 -60", 0);
}

static void surplus_tracks(void **state) {
    (void)state;
    pa_report r;
    midi_header(&m, 1, 1, 500);
    TRACK(DOWN(0), ON(0, 60, 64), OFF(100, 60), UP(200), DOWN(300), ON(400, 62, 64), OFF(450, 62), UP(500));
    TRACK(ON(600, 64, 64), OFF(700, 64));
    expect_options(&m, &performance, "V15 +60 T20 -60 T20 +62 T10 -62 T10 +64 T10 -64", 0, &r);
    assert_int_equal(r.tracks, 2);
    assert_int_equal(r.tracks_left_out, 0);
    expect_options(&m, &(pa_encode_options){.encoding = PA_MIDI_NEURAL}, "V16 +60 T20 -60 T20 V16 +62 T5 -62", 0, &r);
    assert_int_equal(r.tracks_left_out, 1);
}

// ---- ends of notes

static void all_notes_off_releases_the_keys(void **state) {
    (void)state;
    for (uint8_t controller = 123; controller < 128; controller++) {
        midi_header(&m, 0, 1, 500);
        TRACK(ON(0, 60, 64), {0, 0x91, 61, 64}, {300, 0xb0, controller, 0}, {500, 0x81, 61, 0});
        expect_tokens(&m, PA_PERFORMANCE, "V15 +60 +61 T30 -60 T20 -61", 0);
        midi_header(&m, 0, 1, 500);
        TRACK(DOWN(0), ON(0, 60, 64), {300, 0xb0, controller, 0}, UP(500)); // the pedal holds on
        expect_tokens(&m, PA_PERFORMANCE, "V15 +60 T50 -60", 0);
    }
}

static void all_sound_off_silences(void **state) {
    (void)state;
    midi_header(&m, 0, 1, 500);
    TRACK(DOWN(0), ON(0, 60, 64), OFF(100, 60), ON(200, 61, 64), {300, 0xb0, 120, 0}, ON(400, 62, 64), OFF(500, 62),
          UP(800));
    expect_tokens(&m, PA_PERFORMANCE, "V15 +60 T20 +61 T10 -60 -61 T10 +62 T40 -62", 0);
}

static void a_reset_lifts_the_pedals(void **state) {
    (void)state;
    midi_header(&m, 0, 1, 500);
    TRACK(DOWN(0), {0, 0xb0, 66, 127}, ON(0, 60, 64), OFF(100, 60), {300, 0xb0, 121, 0}, ON(400, 62, 64), OFF(500, 62));
    expect_tokens(&m, PA_PERFORMANCE, "V15 +60 T30 -60 T10 +62 T10 -62", 0);
    expect_options(&m, &(pa_encode_options){.sostenuto = true}, "V15 +60 T30 -60 T10 +62 T10 -62", 0, NULL);
}

// The sustain messages of one tick, however they are ordered: what is pressed comes before what is lifted. Most change
// nothing and are left out before libsmf parses the file.
static void pedal_messages_of_one_tick(void **state) {
    (void)state;
    for (int down = 0; down < 2; down++) {
        for (int messages = 1; messages <= 4; messages++) {
            for (int lifts = 0; lifts < 1 << messages; lifts++) { // a bit each
                midi_header(&m, 0, 1, 500);
                midi_begin(&m);
                midi_rows(&m,
                          (const row[]){ON(0, 62, 64), OFF(100, 62), CC(120, down ? 64 : 63), ON(200, 60, 64), STOP});
                midi_delta(&m, 50);
                for (int i = 0; i < messages; i++)
                    midi_put(&m, (const char[]){(char)0xb0, 64, lifts >> i & 1 ? 0 : 127, 0},
                             4); // and the next event's time
                midi_put(&m, (const char[]){(char)0xb0, 7, 100}, 3);
                midi_rows(&m, (const row[]){OFF(50, 60), ON(100, 64, 64), OFF(150, 64), UP(350), STOP});
                midi_end(&m);
                bool held = !lifts;
                snprintf(row_label, sizeof row_label, "%s: pedal %s, %d messages, lifts 0x%x", __func__,
                         down ? "down" : "up", messages, (unsigned)lifts);
                expect_tokens(&m, PA_PERFORMANCE,
                              held ? "V15 +62 T10 -62 T10 +60 T15 +64 T25 -60 -64"
                                   : "V15 +62 T10 -62 T10 +60 T10 -60 T5 +64 T5 -64",
                              0);
            }
        }
    }
    row_label[0] = '\0';
}

static void a_repeated_pedal_message_is_the_end_of_the_piece(void **state) {
    (void)state;
    pa_report r;
    midi_header(&m, 0, 1, 500);
    TRACK(ON(0, 60, 64), DOWN(50), OFF(100, 60), DOWN(800), {800, 0xb1, 64, 0}, {900, 0xb1, 64, 0});
    expect_options(&m, &performance, "V15 +60 T90 -60", 0, &r);
    assert_int_equal(r.pedal, 4);
    assert_int_equal(r.idle_pedal, 2);
    midi_header(&m, 0, 1, 500);
    TRACK(ON(0, 60, 64), DOWN(50), OFF(100, 60), DOWN(800));
    expect_tokens(&m, PA_PERFORMANCE, "V15 +60 T80 -60", 0);
}

#define SOSTENUTO(t, value)                                                                                            \
    { t, 0xb0, 66, value }

static void expect_sostenuto(const char *ignored, const char *applied) {
    pa_report r;
    expect_options(&m, &performance, ignored, 0, &r);
    assert_true(r.sostenuto > 0);
    expect_options(&m, &(pa_encode_options){.sostenuto = true}, applied, 0, NULL);
}

static void sostenuto_holds_what_is_down_at_its_press(void **state) {
    (void)state;
    midi_header(&m, 0, 1, 500);
    TRACK(ON(0, 60, 64), ON(0, 62, 64), OFF(100, 62), SOSTENUTO(200, 127), ON(300, 64, 64), OFF(400, 60), OFF(400, 64),
          SOSTENUTO(500, 0));
    expect_sostenuto("V15 +60 +62 T10 -62 T20 +64 T10 -60 -64", "V15 +60 +62 T10 -62 T20 +64 T10 -64 T10 -60");
    midi_header(&m, 0, 1, 500); // with the sustain pedal: the release of either leaves what the other holds
    TRACK(ON(0, 60, 64), SOSTENUTO(100, 127), DOWN(150), OFF(200, 60), ON(200, 61, 64), OFF(250, 61), UP(300),
          SOSTENUTO(500, 0));
    expect_sostenuto("V15 +60 T20 +61 T10 -60 -61", "V15 +60 T20 +61 T10 -61 T20 -60");
    midi_header(&m, 0, 1, 500); // what only the sustain pedal holds is not down
    TRACK(DOWN(0), ON(0, 60, 64), OFF(100, 60), ON(100, 62, 64), SOSTENUTO(200, 127), UP(300), OFF(400, 62),
          SOSTENUTO(500, 0));
    expect_sostenuto("V15 +60 T10 +62 T20 -60 T10 -62", "V15 +60 T10 +62 T20 -60 T20 -62");
    midi_header(&m, 0, 1, 500); // struck again while it is held
    TRACK(ON(0, 60, 64), SOSTENUTO(100, 127), OFF(200, 60), ON(300, 60, 64), OFF(400, 60), SOSTENUTO(600, 0));
    expect_sostenuto("V15 +60 T20 -60 T10 +60 T10 -60", "V15 +60 T30 -60 +60 T30 -60");
    midi_header(&m, 0, 1, 500); // a further message of a pedal that is down is no press
    TRACK(ON(0, 60, 64), SOSTENUTO(100, 64), OFF(200, 60), ON(200, 62, 64), DOWN(220), SOSTENUTO(250, 127), UP(280),
          OFF(300, 62), SOSTENUTO(500, 0));
    expect_sostenuto("V15 +60 T20 -60 +62 T10 -62", "V15 +60 T20 +62 T10 -62 T20 -60");
    midi_header(&m, 0, 1, 500); // never lifted
    TRACK(ON(0, 60, 64), SOSTENUTO(100, 127), OFF(200, 60), ON(300, 62, 64), OFF(900, 62));
    expect_sostenuto("V15 +60 T20 -60 T10 +62 T60 -62", "V15 +60 T30 +62 T60 -60 -62");
}

static void notes_never_released_are_counted(void **state) {
    (void)state;
    pa_report r;
    midi_header(&m, 1, 2, 500);
    TRACK(ON(0, 60, 64), ON(500, 64, 64), ON(500, 67, 64));
    midi_begin(&m);
    midi_rows(&m, (const row[]){OFF(300, 60), STOP});
    midi_end_at(&m, 1708);
    expect_options(&m, &performance, "V15 +60 T30 -60 T20 +64 +67 T100 T51 -64 -67", 0, &r);
    assert_int_equal(r.unclosed, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tempo_in_a_later_track),
        cmocka_unit_test(pedal_in_another_track),
        cmocka_unit_test(pedal_in_a_track_of_its_own),
        cmocka_unit_test(pedal_across_a_program_change),
        cmocka_unit_test(when_the_pedal_is_down),
        cmocka_unit_test(a_pedal_never_lifted_ends_with_the_piece),
        cmocka_unit_test(a_list_before_the_music),
        cmocka_unit_test(a_foreign_chunk_that_is_counted),
        cmocka_unit_test(a_note_off_in_another_track),
        cmocka_unit_test(ports_are_apart),
        cmocka_unit_test(surplus_tracks),
        cmocka_unit_test(all_notes_off_releases_the_keys),
        cmocka_unit_test(all_sound_off_silences),
        cmocka_unit_test(a_reset_lifts_the_pedals),
        cmocka_unit_test(pedal_messages_of_one_tick),
        cmocka_unit_test(a_repeated_pedal_message_is_the_end_of_the_piece),
        cmocka_unit_test(sostenuto_holds_what_is_down_at_its_press),
        cmocka_unit_test(notes_never_released_are_counted),
    };
    return cmocka_run_group_tests_name("meaning", tests, NULL, NULL);
}
