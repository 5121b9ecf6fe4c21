// test_roll.c: piano rolls: what is where in a picture, of no note, one, ten minutes and many takes.
#include "tests/support/scratch.h"

#include <math.h>

#include "host/play/roll.h"

static const pa_note SOFT_AND_LOUD[] = {{1, 2, 60, 25, 0}, {3, 4, 72, 120, 0}};

static pa_rendition two_notes(void) {
    return (pa_rendition){.name = "two notes", .note = SOFT_AND_LOUD, .notes = 2, .begins = 2.5, .seconds = 10};
}

static void time_wraps_into_rows(void **state) {
    (void)state;
    const double seconds[] = {0, 1, 10, 36, 37, 75, 600, 3600, 86400};
    for (size_t i = 0; i < sizeof seconds / sizeof *seconds; i++) {
        pa_rendition r = {.seconds = seconds[i]};
        pa_roll_layout l;
        pa_roll_measure(&l, &r, 1);
        int rows = pa_roll_rows(&l, &r);
        assert_true(rows >= 1 && rows * l.row_seconds >= seconds[i]);
        assert_true((rows - 1) * l.row_seconds <= seconds[i]);
        assert_true(l.row_seconds <= 36 || seconds[i] > 600); // some 33 px a second: a sixteenth note is still seen
        assert_true(l.height < 32768 && l.height >= rows * l.row_step);
    }
}

static void takes_share_pitches_and_seconds(void **state) {
    (void)state;
    const pa_note low = {0, 1, 24, 60, 0}, high = {0, 50, 100, 60, 0};
    const pa_rendition take[] = {{.note = &low, .notes = 1}, {.note = &high, .notes = 1}};
    pa_roll_layout l;
    pa_roll_measure(&l, take, 2);
    assert_true(l.low <= 24 && l.high >= 100);
    assert_int_equal(pa_roll_rows(&l, &take[0]), 1);
    assert_int_equal(pa_roll_rows(&l, &take[1]), 2);
    assert_true(pa_roll_top(&l, take, 1) >= l.row_step);
    assert_true(l.height >= pa_roll_top(&l, take, 1) + 2 * l.row_step);
}

static void most_takes_fit(void **state) {
    (void)state;
    const pa_note range[] = {{0, 1, 0, 60, 0}, {0, 1, 127, 60, 0}};
    const pa_pedal_span pedal = {0, 1};
    pa_rendition take[PA_ROLL_TAKES];
    pa_roll_layout l;
    for (int k = 0; k < PA_ROLL_TAKES; k++)
        take[k] = (pa_rendition){.note = range, .notes = 2, .pedal = &pedal, .pedals = 1, .seconds = 100};
    pa_roll_measure(&l, take, PA_ROLL_TAKES);
    assert_int_equal(pa_roll_rows(&l, take), 1);
    assert_true(l.height < 32768 && l.height >= pa_roll_top(&l, take, PA_ROLL_TAKES));
}

#ifdef PA_WITH_CAIRO
#include <cairo.h>

const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { // of the leak sanitizer: fontconfig keeps its patterns
    return "leak:libfontconfig";
}

static void too_many_takes_are_refused(void **state) {
    (void)state;
    pa_err err;
    assert_int_equal(pa_roll_check("x.svg", PA_ROLL_TAKES, &err), PA_OK);
    assert_int_equal(pa_roll_check("x.svg", PA_ROLL_TAKES + 1, &err), PA_USAGE);
    assert_non_null(strstr(err.text, "found 97"));
}

static cairo_surface_t *picture(const pa_rendition *take, size_t takes) {
    assert_int_equal(pa_roll_write(scratch("roll.png"), take, takes, NULL), PA_OK);
    cairo_surface_t *s = cairo_image_surface_create_from_png(scratch("roll.png"));
    assert_int_equal(cairo_surface_status(s), CAIRO_STATUS_SUCCESS);
    return s;
}

// 0 black to 255 white, at `second` of a row of the first take, and at `pitch`.
static int light_in(cairo_surface_t *s, const pa_rendition *take, int row, double second, double pitch) {
    pa_roll_layout l;
    pa_roll_measure(&l, take, 1);
    double scale = cairo_image_surface_get_width(s) / l.width;
    double x = l.left + second / l.row_seconds * l.plot_width;
    double y = pa_roll_top(&l, take, 0) + pa_roll_row_top(&l, row) + l.plot_height - (pitch - l.low + 0.5) * l.key;
    const unsigned char *p =
        cairo_image_surface_get_data(s) + (int)(y * scale) * cairo_image_surface_get_stride(s) + (int)(x * scale) * 4;
    return (p[0] + 6 * p[1] + 3 * p[2]) / 10;
}

static int light(cairo_surface_t *s, const pa_rendition *take, double second, double pitch) {
    pa_roll_layout l;
    pa_roll_measure(&l, take, 1);
    int row = (int)(second / l.row_seconds);
    return light_in(s, take, row, second - row * l.row_seconds, pitch);
}

static void notes_are_where_they_sound(void **state) {
    (void)state;
    pa_rendition r = two_notes();
    cairo_surface_t *s = picture(&r, 1);
    int paper = light(s, &r, 5.5, 62), primer = light(s, &r, 0.5, 62), soft = light(s, &r, 1.5, 60),
        loud = light(s, &r, 3.5, 72);
    assert_int_equal(paper, 255);
    assert_in_range(primer, 225, 250);
    assert_in_range(soft, 120, 215);
    assert_in_range(loud, 10, 80); // darker
    assert_int_equal(light(s, &r, 2.2, 60), primer);
    assert_int_equal(light(s, &r, 4.4, 72), paper);
    assert_int_equal(light(s, &r, 3.5, 75), paper);
    assert_in_range(light(s, &r, 2.5, 64), 0, 60); // the line between primer and continuation
    cairo_surface_destroy(s);
}

static void a_note_over_the_end_of_a_row_is_in_both(void **state) {
    (void)state;
    const pa_note note = {28, 33, 66, 127, 0}; // not beside the name of an octave
    pa_rendition r = {.note = &note, .notes = 1, .seconds = 60};
    cairo_surface_t *s = picture(&r, 1);
    assert_in_range(light(s, &r, 29.5, 66), 0, 80);
    assert_in_range(light(s, &r, 32.5, 66), 0, 80);
    assert_int_equal(light(s, &r, 33.5, 66), 255);
    assert_int_equal(light_in(s, &r, 1, -0.2, 66.5), 255);
    assert_int_equal(light_in(s, &r, 0, 30.2, 66), 255);
    cairo_surface_destroy(s);
}

static void no_note_and_one_are_pictures_too(void **state) {
    (void)state;
    const pa_rendition nothing = {0}, one = {.name = "one", .note = SOFT_AND_LOUD, .notes = 1};
    cairo_surface_destroy(picture(&nothing, 1));
    cairo_surface_destroy(picture(&one, 1));
    cairo_surface_destroy(picture(&one, 0));
}

static void pedal_has_a_strip(void **state) {
    (void)state;
    const pa_pedal_span pedal = {4, 6};
    pa_rendition r = two_notes();
    pa_roll_layout without, with;
    pa_roll_measure(&without, &r, 1);
    r.pedal = &pedal;
    r.pedals = 1;
    pa_roll_measure(&with, &r, 1);
    assert_true(with.row_step > without.row_step);
    cairo_surface_t *s = picture(&r, 1);
    double below = with.low - 1.3; // of the lowest key
    assert_in_range(light(s, &r, 5.5, below), 80, 180);
    assert_int_equal(light(s, &r, 7.5, below), 255);
    cairo_surface_destroy(s);
}

static void svg_is_whole_and_short(void **state) {
    (void)state;
    static pa_note note[1000]; // a minute of busy playing
    for (int i = 0; i < 1000; i++)
        note[i] = (pa_note){i * 0.06, i * 0.06 + 0.2, (uint8_t)(30 + i * 7 % 60), (uint8_t)(30 + i * 11 % 80), 0};
    const pa_rendition r = {.name = "a < b & \"c\"", .note = note, .notes = 1000, .begins = 15};
    char *text;
    size_t length;
    assert_int_equal(pa_roll_write(scratch("roll.svg"), &r, 1, NULL), PA_OK);
    assert_int_equal(pa_read_text(scratch("roll.svg"), &text, &length, NULL), PA_OK);
    assert_non_null(strstr(text, "<svg"));
    assert_string_equal(text + length - strlen("</svg>\n"), "</svg>\n");
    assert_true(length < 150 * 1000);
    free(text);
}

static void what_cannot_be_written_is_an_error(void **state) {
    (void)state;
    pa_rendition r = two_notes();
    pa_err err;
    const char *const name[] = {"roll.png", "roll.svg"};
    assert_int_equal(pa_roll_write(scratch("roll.pdf"), &r, 1, &err), PA_USAGE);
    assert_non_null(strstr(err.text, ".png or .svg"));
    assert_int_equal(pa_roll_write(scratch("none/roll.png"), &r, 1, &err), PA_FAIL);
    for (int i = 0; i < 2; i++) {
        scratch_limit(1000);
        assert_int_equal(pa_roll_write(scratch(name[i]), &r, 1, &err), PA_FAIL);
        scratch_limit(0);
        assert_non_null(strstr(err.text, name[i]));
    }
    assert_int_equal(scratch_entries(), 0);
}
#else
static void without_cairo_the_error_names_its_package(void **state) {
    (void)state;
    pa_rendition r = two_notes();
    pa_err err;
    assert_int_equal(pa_roll_write(scratch("roll.png"), &r, 1, &err), PA_USAGE);
    assert_non_null(strstr(err.text, "libcairo2-dev"));
    assert_int_equal(scratch_entries(), 0);
}
#endif

int main(void) {
    const struct CMUnitTest test[] = {
        cmocka_unit_test(time_wraps_into_rows),
        cmocka_unit_test(takes_share_pitches_and_seconds),
        cmocka_unit_test(most_takes_fit),
#ifdef PA_WITH_CAIRO
        SCRATCH_TEST(notes_are_where_they_sound),
        SCRATCH_TEST(a_note_over_the_end_of_a_row_is_in_both),
        SCRATCH_TEST(no_note_and_one_are_pictures_too),
        SCRATCH_TEST(pedal_has_a_strip),
        cmocka_unit_test(too_many_takes_are_refused),
        SCRATCH_TEST(svg_is_whole_and_short),
        SCRATCH_TEST(what_cannot_be_written_is_an_error),
#else
        SCRATCH_TEST(without_cairo_the_error_names_its_package),
#endif
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
