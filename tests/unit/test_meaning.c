// test_meaning.c: a file means what a synthesiser would play: state by port and channel, not by track or program; one tempo map; ends of
// notes; what is left out and what is said of it.
#include "tests/support/midi_bytes.h"

static midi m;
static const pa_encode_options performance = {.encoding = PA_PERFORMANCE};

static void put_track(const row *r) {
    midi_begin(&m);
    midi_rows(&m, r);
    midi_end(&m);
}
#define TRACK(...) put_track((const row[]){__VA_ARGS__, STOP})
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
    TRACK({0, 0xb0, 64, 127}, {0, 0x90, 48, 80}, {240, 0x80, 48, 0}, {1920, 0xb0, 64, 0}, {2880, 0x90, 50, 80}, {3120, 0x80, 50, 0});
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
    TRACK({0, 0xb0, 64, 127}, {0, 0x90, 60, 80}, {480, 0x80, 60, 0}, {960, 0xc0, 1, 0}, {960, 0x90, 62, 80}, {1440, 0x80, 62, 0},
          {1920, 0xb0, 64, 0}, {8640, 0xc0, 0, 0}, {8640, 0x90, 64, 80}, {9600, 0x80, 64, 0});
    same_as_case("pedal_across_program_change.mid");
    expect_tokens(&m, PA_PERFORMANCE, "V19 +60 T100 +62 T100 -60 -62 T100 T100 T100 T100 T100 T100 T100 +64 T100 -64", 0);
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
    put_track(r);
    same_as_case("pedal_never_up_two_parts.mid");
    expect_tokens(&m, PA_PERFORMANCE,
                  "V19 +36 +72 T50 -72 +73 T50 -73 +74 T50 -74 +75 T50 -75 +76 T50 -76 +77 T50 -77 +78 T50 -78 +79 T50 -79 +80 T50 -80 +81 "
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tempo_in_a_later_track),
        cmocka_unit_test(pedal_in_another_track),
        cmocka_unit_test(pedal_in_a_track_of_its_own),
        cmocka_unit_test(pedal_across_a_program_change),
        cmocka_unit_test(a_pedal_never_lifted_ends_with_the_piece),
        cmocka_unit_test(a_list_before_the_music),
        cmocka_unit_test(a_foreign_chunk_that_is_counted),
    };
    return cmocka_run_group_tests_name("meaning", tests, NULL, NULL);
}
