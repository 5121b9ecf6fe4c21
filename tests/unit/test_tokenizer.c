// test_tokenizer.c: the rules of both encodings, one by one, on files of a few events, with expected tokens worked out
// by hand.
#include "tests/support/midi_bytes.h"
#include "tests/support/rows.h"
#include "tokenizer/moments.h"

static midi m;

#define PERFORMANCE(tokens, dropped, ...)                                                                              \
    do {                                                                                                               \
        midi_simple(&m, (const row[]){__VA_ARGS__, STOP});                                                             \
        expect_tokens(&m, PA_PERFORMANCE, tokens, dropped);                                                            \
    } while (0)
#define NEURAL(tokens, dropped, ...)                                                                                   \
    do {                                                                                                               \
        midi_simple(&m, (const row[]){__VA_ARGS__, STOP});                                                             \
        expect_tokens(&m, PA_MIDI_NEURAL, tokens, dropped);                                                            \
    } while (0)

// ---- pairing

static void a_note(void **state) {
    (void)state;
    PERFORMANCE("V15 +60 T50 -60", 0, ON(0, 60, 64), OFF(500, 60));
}

static void note_on_with_velocity_0_is_a_note_off(void **state) {
    (void)state;
    PERFORMANCE("V15 +60 T50 -60", 0, ON(0, 60, 64), ON(500, 60, 0));
}

static void a_note_off_closes_every_open_note_of_its_key(void **state) {
    (void)state;
    PERFORMANCE("V15 +60 T10 V17 +60 T20 -60 -60", 0, ON(0, 60, 64), ON(100, 60, 72), OFF(300, 60), OFF(400, 60));
}

static void a_note_struck_on_the_tick_of_a_note_off_goes_on(void **state) {
    (void)state;
    PERFORMANCE("V15 +60 T20 -60 V17 +60 T20 -60", 0, ON(0, 60, 64), ON(200, 60, 72), OFF(200, 60), OFF(400, 60));
}

static void a_note_that_ends_on_its_tick_is_dropped(void **state) {
    (void)state;
    PERFORMANCE("T50 V15 +62 T10 -62", 1, ON(200, 60, 64), OFF(200, 60), OFF(400, 60), ON(500, 62, 64), OFF(600, 62));
}

static void a_second_note_off_on_a_tick_drops_what_the_first_kept(void **state) {
    (void)state;
    PERFORMANCE("V15 +60 T20 -60", 1, ON(0, 60, 64), ON(200, 60, 64), OFF(200, 60), OFF(200, 60), OFF(300, 60));
}

static void notes_never_closed_sound_to_the_end_of_the_file(void **state) {
    (void)state;
    PERFORMANCE("V15 +60 T10 +61 T40 -60 T10 +60 T30 -61 -60", 0, ON(0, 60, 64), ON(100, 61, 64), OFF(500, 60),
                ON(600, 60, 64), {900, 0xe0, 0, 64});
    PERFORMANCE("V15 +60 +64 +67 T1 -60 -64 -67", 0, ON(0, 60, 64), ON(0, 64, 64),
                ON(0, 67, 64)); // struck on its last tick
    NEURAL("T10 V16 +61 T10 -61", 1, DOWN(0), ON(100, 61, 64), OFF(200, 61), UP(500), ON(600, 60, 64), OFF(600, 61));
}

static void channels_are_apart(void **state) {
    (void)state;
    PERFORMANCE("V15 +60 T10 +60 T10 -60 T10 -60", 0, ON(0, 60, 64), {100, 0x91, 60, 64}, OFF(200, 60),
                {300, 0x81, 60, 0});
}

static void drums_are_skipped(void **state) {
    (void)state;
    PERFORMANCE("V15 +60 T50 -60", 1, ON(0, 60, 64), {0, 0x99, 36, 100}, OFF(500, 60), {900, 0x89, 36, 0});
    pa_piece piece;
    assert_int_equal(encode_bytes(m.byte, m.count, PA_PERFORMANCE, &piece, NULL), PA_OK);
    assert_float_equal(piece.seconds, 0.5, 1e-9);
    pa_piece_clear(&piece);
}

// ---- the sustain pedal

static void pedal_up_ends_notes_whose_key_is_released(void **state) {
    (void)state;
    PERFORMANCE("T10 V15 +60 T40 -60", 0, DOWN(0), ON(100, 60, 64), OFF(200, 60), UP(500));
}

static void pedal_up_leaves_notes_that_are_held(void **state) {
    (void)state;
    PERFORMANCE("T10 V15 +60 T40 -60", 0, DOWN(0), ON(100, 60, 64), UP(300), OFF(500, 60));
}

static void a_note_struck_with_the_pedal_ends_its_pitch(void **state) {
    (void)state;
    PERFORMANCE("T10 V15 +60 T30 -60 +60 T20 -60", 0, DOWN(0), ON(100, 60, 64), OFF(200, 60), ON(400, 60, 64),
                OFF(450, 60), UP(600));
}

static void other_pitches_sound_on(void **state) {
    (void)state;
    PERFORMANCE("T10 V15 +60 T30 +61 T20 -60 -61", 0, DOWN(0), ON(100, 60, 64), OFF(200, 60), ON(400, 61, 64),
                OFF(450, 61), UP(600));
}

static void a_note_without_length_is_deleted(void **state) {
    (void)state;
    PERFORMANCE("T10 V17 +60 T40 -60", 1, DOWN(0), ON(100, 60, 64), ON(100, 60, 72), OFF(200, 60), UP(500));
}

static void a_pedal_that_stays_down_holds_to_the_last_event(void **state) {
    (void)state;
    PERFORMANCE("T10 V15 +60 T20 +62 T40 -60 -62", 0, DOWN(0), ON(100, 60, 64), OFF(200, 60), ON(300, 62, 64),
                OFF(700, 62));
}

static void a_pedal_pressed_again_holds_to_its_last_event(void **state) {
    (void)state;
    PERFORMANCE("T10 V15 +60 T80 -60", 0, DOWN(0), ON(100, 60, 64), OFF(200, 60), DOWN(500), DOWN(900));
    PERFORMANCE("T10 V15 +60 T50 -60", 0, UP(0), DOWN(0), DOWN(50), ON(100, 60, 64), OFF(200, 60), DOWN(500), UP(600),
                UP(900));
}

static void pedal_down_comes_before_a_note_off(void **state) {
    (void)state;
    PERFORMANCE("T10 V15 +60 T80 -60", 0, ON(100, 60, 64), OFF(500, 60), DOWN(500), UP(900));
}

static void pedal_up_comes_before_a_note_on(void **state) {
    (void)state;
    // The second note finds the pedal up, so the first, whose key is down, is not ended by it.
    PERFORMANCE("T10 V15 +60 T40 +60 T20 -60 -60", 0, DOWN(0), ON(100, 60, 64), ON(500, 60, 64), UP(500), OFF(700, 60));
}

static void pedal_down_comes_before_pedal_up(void **state) {
    (void)state;
    PERFORMANCE("T10 V15 +60 T10 -60", 0, UP(50), DOWN(50), ON(100, 60, 64), OFF(200, 60), UP(500));
}

static void the_pedal_is_down_from_64(void **state) {
    (void)state;
    PERFORMANCE("V15 +60 T10 -60", 0, CC(0, 63), ON(0, 60, 64), OFF(100, 60), UP(500));
    PERFORMANCE("V15 +60 T50 -60", 0, CC(0, 64), ON(0, 60, 64), OFF(100, 60), CC(500, 63));
}

static void other_controllers_are_no_pedal(void **state) {
    (void)state;
    PERFORMANCE("V15 +60 T10 -60", 0, {0, 0xb0, 66, 127}, ON(0, 60, 64), OFF(100, 60), {500, 0xb0, 66, 0});
}

static void a_pedal_is_that_of_its_channel(void **state) {
    (void)state;
    PERFORMANCE("V15 +60 +62 T10 -60 T40 -62", 0, {0, 0xb1, 64, 127}, ON(0, 60, 64), {0, 0x91, 62, 64}, OFF(100, 60),
                {100, 0x81, 62, 0}, {500, 0xb1, 64, 0});
}

static void a_pedal_belongs_to_the_channel(void **state) {
    (void)state;
    PERFORMANCE("V15 +60 T10 -60 T20 +62 T60 -62", 0, ON(0, 60, 64), OFF(100, 60), DOWN(200), {250, 0xc0, 5, 0},
                ON(300, 62, 64), OFF(400, 62), UP(900));
}

static void neural_a_pedal_belongs_to_the_current_program(void **state) {
    (void)state;
    // The pedal goes down for program 0, which has a note; program 5 begins after it, without a pedal.
    NEURAL("V16 +60 T10 -60", 1, ON(0, 60, 64), OFF(100, 60), DOWN(200), {250, 0xc0, 5, 0}, ON(300, 62, 64),
           OFF(400, 62), {600, 0xc0, 0, 0}, UP(900));
}

// ---- time, velocity, order

static void steps_round_half_up(void **state) {
    (void)state;
    PERFORMANCE("V15 +60 T1 -60 +61 T2 -61", 0, ON(4, 60, 64), ON(5, 61, 64), OFF(14, 60), OFF(26, 61));
}

static void a_note_lasts_a_step_at_least(void **state) {
    (void)state;
    PERFORMANCE("T10 V15 +60 T1 -60", 0, ON(100, 60, 64), OFF(101, 60));
}

static void long_pauses_take_several_shifts(void **state) {
    (void)state;
    PERFORMANCE("T100 T100 V15 +60 T100 T1 -60", 0, ON(2000, 60, 64), OFF(3010, 60));
}

static void velocity_bins(void **state) {
    (void)state;
    PERFORMANCE("V0 +60 +61 V1 +62 V31 +63 T10 -60 -61 -62 -63", 0, ON(0, 60, 1), ON(0, 61, 4), ON(0, 62, 5),
                ON(0, 63, 127), OFF(100, 60), OFF(100, 61), OFF(100, 62), OFF(100, 63));
}

static void velocity_is_sent_where_it_changes(void **state) {
    (void)state;
    PERFORMANCE("V15 +60 T10 -60 +60 T10 -60 V16 +60 T10 -60", 0, ON(0, 60, 61), OFF(100, 60), ON(100, 60, 64),
                OFF(200, 60), ON(200, 60, 65), OFF(300, 60));
}

static void notes_are_sorted_by_start_then_pitch(void **state) {
    (void)state;
    PERFORMANCE("V15 +64 +60 +62 T10 -64 -60 -62", 0, ON(0, 64, 64), ON(1, 62, 64), ON(1, 60, 64), OFF(100, 64),
                OFF(100, 62), OFF(100, 60));
}

// ---- midi-neural, flaws included

static void neural_without_a_pedal_is_empty(void **state) {
    (void)state;
    NEURAL("", 1, ON(0, 60, 64), OFF(500, 60));
    NEURAL("", 1, DOWN(0), ON(0, 60, 64), OFF(500, 60)); // never closed
}

static void neural_notes_last_as_long_as_the_window(void **state) {
    (void)state;
    NEURAL("T10 V16 +60 T80 -60 T20 V16 +62 T10 -62", 1, DOWN(0), ON(100, 60, 64), OFF(200, 60), UP(900), DOWN(1000),
           UP(1050), ON(1100, 62, 64), OFF(1200, 62), DOWN(1300), UP(1400), ON(1500, 64, 64), OFF(1600, 64));
}

static void neural_a_note_ends_where_its_pitch_starts_again(void **state) {
    (void)state;
    NEURAL("T10 V16 +60 T30 -60 V16 +60 T50 -60", 1, DOWN(0), ON(100, 60, 64), OFF(200, 60), ON(400, 60, 64),
           OFF(450, 60), UP(900), ON(1500, 64, 64), OFF(1600, 64));
}

static void neural_ends_stand_where_no_note_follows_the_window(void **state) {
    (void)state;
    NEURAL("T10 V16 +60 T10 -60", 0, DOWN(0), ON(100, 60, 64), OFF(200, 60), UP(900));
}

static void neural_a_second_pedal_up_moves_the_end_of_the_window(void **state) {
    (void)state;
    NEURAL("T10 V16 +60 T100 T10 -60", 1, DOWN(0), ON(100, 60, 64), OFF(200, 60), UP(900), UP(1200), ON(1500, 64, 64),
           OFF(1600, 64));
}

static void neural_emits_notes_again_for_each_window_after_them(void **state) {
    (void)state;
    NEURAL("T10 V16 +60 V16 +60 T10 -60 -60", 0, DOWN(0), ON(100, 60, 64), OFF(200, 60), UP(900), DOWN(1000), UP(1100));
}

static void neural_velocity_is_compared_with_the_raw_one_before(void **state) {
    (void)state;
    NEURAL("T1 V16 +60 V16 +61 T1 -60 -61", 0, DOWN(0), ON(10, 60, 64), ON(10, 61, 64), OFF(20, 60), OFF(20, 61),
           UP(30));
    NEURAL("T1 V16 +60 V1 +61 +62 T1 -60 -61 -62", 0, DOWN(0), ON(10, 60, 64), ON(10, 61, 4), ON(10, 62, 16),
           OFF(20, 60), OFF(20, 61), OFF(20, 62), UP(30));
    NEURAL("T1 +60 T1 -60", 0, DOWN(0), ON(10, 60, 3), OFF(20, 60), UP(30)); // bin 0 is what it starts with
}

static void neural_rounds_each_difference_half_to_even(void **state) {
    (void)state;
    // 25 ms, 25 ms, 15 ms: 2.5, 2.5 and 1.5 steps.
    NEURAL("T2 V16 +60 T2 -60 T2 V16 +60 T100 -60", 0, DOWN(0), ON(25, 60, 64), OFF(50, 60), ON(65, 60, 64),
           OFF(1065, 60), UP(1100));
}

// ---- decoding

static char *notes_text(const uint16_t *token, size_t count, pa_encoding e) {
    pa_note *note;
    size_t notes;
    static char text[1024];
    char *at = text;
    assert_int_equal(pa_decode(token, count, e, &note, &notes, NULL), PA_OK);
    *at = 0;
    for (size_t i = 0; i < notes; i++)
        at += sprintf(at, "%s%d:%g-%g/%d", i ? " " : "", note[i].pitch, note[i].start, note[i].end, note[i].velocity);
    free(note);
    return text;
}
#define T(steps) (PA_TIME_SHIFT + (steps)-1)
#define V(bin) (PA_VELOCITY + (bin))
#define OFF_(pitch) (PA_NOTE_OFF + (pitch))
#define DECODE(e, expected, ...)                                                                                       \
    do {                                                                                                               \
        const uint16_t t[] = {__VA_ARGS__};                                                                            \
        assert_string_equal(notes_text(t, sizeof t / sizeof *t, e), expected);                                         \
    } while (0)

static void decode_performance(void **state) {
    (void)state;
    DECODE(PA_PERFORMANCE, "60:0.1-0.6/61", V(15), T(10), 60, T(50), OFF_(60));
    DECODE(PA_PERFORMANCE, "60:0-0.3/100", 60, T(10), T(20), OFF_(60), OFF_(60), OFF_(61));
    DECODE(PA_PERFORMANCE, "60:0-0.2/1 60:0.1-0.3/125", V(0), 60, T(10), V(31), 60, T(10), OFF_(60), T(10),
           OFF_(60));                                                                             // first in, first out
    DECODE(PA_PERFORMANCE, "62:0.1-0.2/100", 60, OFF_(60), T(10), 62, T(10), OFF_(62));           // without length
    DECODE(PA_PERFORMANCE, "60:0-0.2/100 62:0.1-0.2/100", 60, T(10), 62, T(10), OFF_(62), T(50)); // never closed
    DECODE(PA_PERFORMANCE, "60:0-0.1/100", 60, PA_PAD, T(10), OFF_(60), PA_END, 62, T(10), OFF_(62));
    assert_string_equal(notes_text(NULL, 0, PA_PERFORMANCE), "");
}

static void decode_neural(void **state) {
    (void)state;
    DECODE(PA_MIDI_NEURAL, "60:0.1-0.6/60", V(15), T(10), 60, T(50), OFF_(60));
    DECODE(PA_MIDI_NEURAL, "60:0.1-0.2/4 60:0.1-0.3/4", V(1), 60, T(10), 60, T(10), OFF_(60), T(10),
           OFF_(60));                                                                 // each with the latest
    DECODE(PA_MIDI_NEURAL, "62:0.1-0.2/1", 60, OFF_(60), T(10), 62, T(10), OFF_(62)); // without length
    DECODE(PA_MIDI_NEURAL, "60:0-0.2/1", 60, T(10), 62, T(10), OFF_(60));             // never closed: none
    DECODE(PA_MIDI_NEURAL, "60:0-0.3/1 62:0.1-0.2/1", 60, T(10), 62, T(10), OFF_(62), T(10),
           OFF_(60)); // in order of start
}

static void decode_refuses_ids_past_the_vocabulary(void **state) {
    (void)state;
    pa_note *note;
    size_t notes;
    pa_err err;
    const uint16_t t[] = {60, 390};
    for (pa_encoding e = PA_PERFORMANCE; e <= PA_MIDI_NEURAL; e++) {
        assert_int_equal(pa_decode(t, 2, e, &note, &notes, &err), PA_DATA);
        assert_string_equal(err.text, "token 1: expected an id below 390, found 390");
        assert_null(note);
    }
}

static void names_of_tokens(void **state) {
    (void)state;
    static const struct {
        uint16_t token;
        const char *text;
    } name[] = {{60, "NOTE_ON 60"},
                {188, "NOTE_OFF 60"},
                {256, "TIME_SHIFT 0.01 s"},
                {355, "TIME_SHIFT 1.00 s"},
                {356, "VELOCITY 0"},
                {387, "VELOCITY 31"},
                {388, "END"},
                {389, "PAD"},
                {390, "UNKNOWN 390"}};
    EACH_ROW (i, name, name[i].text) {
        char text[32];
        pa_token_text(name[i].token, text, sizeof text);
        assert_string_equal(text, name[i].text);
    }
    const uint16_t t[] = {T(100), 60, T(1), V(3), PA_PAD, T(50), PA_END, T(7)};
    assert_float_equal(pa_token_seconds(t, sizeof t / sizeof *t), 1.51, 1e-12);
}

static void names_of_encodings(void **state) {
    (void)state;
    pa_encoding e;
    pa_err err;
    for (pa_encoding i = PA_PERFORMANCE; i <= PA_MIDI_NEURAL; i++) {
        assert_int_equal(pa_encoding_parse(pa_encoding_name(i), &e, &err), PA_OK);
        assert_int_equal(e, i);
    }
    assert_int_equal(pa_encoding_parse("remi", &e, &err), PA_USAGE);
    assert_string_equal(err.text, "encoding: expected performance or midi-neural, found 'remi'");
}

// Against insertion, with many ties: (time, order), and else as they came.
static void sorting_is_stable(void **state) {
    (void)state;
    for (uint32_t count = 0; count < 200; count++) {
        pa_moment moment[200], sorted[200];
        uint32_t random = count;
        for (uint32_t i = 0; i < count; i++) {
            random = random * 1664525 + 1013904223;
            moment[i] = (pa_moment){(double)((random >> 28) + i / 64 * 2), random >> 12 & 1, i};
            uint32_t k = i;
            for (; k && (sorted[k - 1].time > moment[i].time ||
                         (sorted[k - 1].time == moment[i].time && sorted[k - 1].order > moment[i].order));
                 k--)
                sorted[k] = sorted[k - 1];
            sorted[k] = moment[i];
        }
        assert_true(pa_moment_sort(moment, count));
        for (uint32_t i = 0; i < count; i++) assert_int_equal(moment[i].index, sorted[i].index);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_note),
        cmocka_unit_test(note_on_with_velocity_0_is_a_note_off),
        cmocka_unit_test(a_note_off_closes_every_open_note_of_its_key),
        cmocka_unit_test(a_note_struck_on_the_tick_of_a_note_off_goes_on),
        cmocka_unit_test(a_note_that_ends_on_its_tick_is_dropped),
        cmocka_unit_test(a_second_note_off_on_a_tick_drops_what_the_first_kept),
        cmocka_unit_test(notes_never_closed_sound_to_the_end_of_the_file),
        cmocka_unit_test(channels_are_apart),
        cmocka_unit_test(drums_are_skipped),
        cmocka_unit_test(pedal_up_ends_notes_whose_key_is_released),
        cmocka_unit_test(pedal_up_leaves_notes_that_are_held),
        cmocka_unit_test(a_note_struck_with_the_pedal_ends_its_pitch),
        cmocka_unit_test(other_pitches_sound_on),
        cmocka_unit_test(a_note_without_length_is_deleted),
        cmocka_unit_test(a_pedal_that_stays_down_holds_to_the_last_event),
        cmocka_unit_test(a_pedal_pressed_again_holds_to_its_last_event),
        cmocka_unit_test(pedal_down_comes_before_a_note_off),
        cmocka_unit_test(pedal_up_comes_before_a_note_on),
        cmocka_unit_test(pedal_down_comes_before_pedal_up),
        cmocka_unit_test(the_pedal_is_down_from_64),
        cmocka_unit_test(other_controllers_are_no_pedal),
        cmocka_unit_test(a_pedal_is_that_of_its_channel),
        cmocka_unit_test(a_pedal_belongs_to_the_channel),
        cmocka_unit_test(neural_a_pedal_belongs_to_the_current_program),
        cmocka_unit_test(steps_round_half_up),
        cmocka_unit_test(a_note_lasts_a_step_at_least),
        cmocka_unit_test(long_pauses_take_several_shifts),
        cmocka_unit_test(velocity_bins),
        cmocka_unit_test(velocity_is_sent_where_it_changes),
        cmocka_unit_test(notes_are_sorted_by_start_then_pitch),
        cmocka_unit_test(neural_without_a_pedal_is_empty),
        cmocka_unit_test(neural_notes_last_as_long_as_the_window),
        cmocka_unit_test(neural_a_note_ends_where_its_pitch_starts_again),
        cmocka_unit_test(neural_ends_stand_where_no_note_follows_the_window),
        cmocka_unit_test(neural_a_second_pedal_up_moves_the_end_of_the_window),
        cmocka_unit_test(neural_emits_notes_again_for_each_window_after_them),
        cmocka_unit_test(neural_velocity_is_compared_with_the_raw_one_before),
        cmocka_unit_test(neural_rounds_each_difference_half_to_even),
        cmocka_unit_test(decode_performance),
        cmocka_unit_test(decode_neural),
        cmocka_unit_test(decode_refuses_ids_past_the_vocabulary),
        cmocka_unit_test(names_of_tokens),
        cmocka_unit_test(names_of_encodings),
        cmocka_unit_test(sorting_is_stable),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
