// test_page.c: the page of takes: what it holds, that its text is escaped, its errors. `test_page OUT.html` writes one,
// for tests/programs/test_page.py. Skipped (77) where cairo, sound or a SoundFont is missing.
#include "tests/support/scratch.h"

#include <math.h>

#include "host/play/page.h"
#include "host/play/roll.h"
#include "host/play/sound.h"

static const pa_note SCALE[] = {
    {0, 0.5, 60, 80, 0}, {0.5, 1, 62, 60, 0}, {1, 1.5, 64, 100, 0}, {2, 4, 66, 30, 0}, {2, 4, 70, 90, 0}};
static const pa_note WIDE[] = {{0, 0.5, 30, 80, 0}, {0.5, 1, 62, 60, 0}, {1, 1.5, 100, 100, 0}};
static pa_rendition take[] = {
    {.name = "first <take> & \"more\"", .remark = "1 < 2", .note = SCALE, .notes = 5, .begins = 1.5},
    {
        .name = "second take",
        .note = WIDE,
        .notes = 3,
    },
};
static const char *font;

// Rendering takes a second or two, so each take is played once for all pages.
static pa_status play(void *arg, size_t k, FILE *mp3, pa_err *err) {
    static struct {
        char *data;
        size_t size;
    } played[2];
    (void)arg;
    if (!played[k].data) {
        pa_piano *piano;
        pa_sound sound = {0};
        FILE *out = open_memstream(&played[k].data, &played[k].size);
        assert_non_null(out);
        pa_status s = pa_piano_open(&piano, font, err);
        if (!s) s = pa_piano_play(piano, &take[k], &sound, err);
        if (!s) s = pa_sound_encode(&sound, out, PA_SOUND_MP3, NULL, err);
        pa_sound_clear(&sound);
        pa_piano_close(piano);
        fclose(out);
        if (s) return s;
    }
    return fwrite(played[k].data, 1, played[k].size, mp3) == played[k].size
               ? PA_OK
               : pa_error(err, PA_FAIL, "cannot write MP3");
}

static pa_page example(const char *const *midi) {
    return (pa_page){
        .title = "A </title> & B", .facts = "seed 1 < 2", .take = take, .takes = 2, .midi = midi, .sound = play};
}

static char *page_text(const char *const *midi) {
    pa_page page = example(midi);
    char *text;
    assert_int_equal(pa_page_write(scratch("page.html"), &page, NULL), PA_OK);
    assert_int_equal(pa_read_text(scratch("page.html"), &text, NULL, NULL), PA_OK);
    return text;
}

static int occurrences(const char *text, const char *word) {
    int n = 0;
    for (; (text = strstr(text, word)); text += strlen(word)) n++;
    return n;
}

static void a_page_holds_all_of_its_takes(void **state) {
    (void)state;
    char *text = page_text(NULL);
    assert_int_equal(occurrences(text, "<section "), 2);
    assert_int_equal(occurrences(text, "</section>"), 2);
    assert_int_equal(occurrences(text, "<svg "), 2);
    assert_int_equal(occurrences(text, "src=\"data:audio/mpeg;base64,"), 2);
    assert_int_equal(occurrences(text, "<tr><td>"), 5 + 3);
    assert_int_equal(occurrences(text, "<td>primer\n"), 3);
    assert_int_equal(occurrences(text, "<td>continuation\n"), 2);
    assert_non_null(strstr(text, "<tr><td>2.00<td>F♯4<td>2.00<td>30<td>continuation"));
    assert_int_equal(occurrences(text, "class=\"features\""), 0); // of takes without them
    assert_int_equal(occurrences(text, "{{"), 0);                 // marks of the template
    assert_int_equal(occurrences(text, "src=\"http"), 0);
    free(text);
}

static void names_are_text_and_not_markup(void **state) {
    (void)state;
    char *text = page_text(NULL);
    assert_int_equal(occurrences(text, "A &lt;/title&gt; &amp; B"), 2);
    assert_int_equal(occurrences(text, "first &lt;take&gt; &amp; &quot;more&quot;"), 1);
    assert_int_equal(occurrences(text, "seed 1 &lt; 2"), 1);
    assert_int_equal(occurrences(text, "<take>"), 0);
    assert_int_equal(occurrences(text, "<p class=\"remark\">1 &lt; 2</p>"), 1); // the other take has none
    assert_int_equal(occurrences(text, "class=\"remark\""), 1);
    free(text);
}

static void features_are_a_table(void **state) {
    (void)state;
    pa_features f[2] = {{.value[PA_NOTES_PER_SECOND] = 12.345}, {.value[PA_NOTES_PER_SECOND] = (double)NAN}},
                primer = {.value[PA_NOTE_SECONDS] = 0.678};
    pa_page page = example(NULL);
    char *text;
    for (int k = 0; k < 2; k++) {
        take[k].features = &f[k];
        take[k].rank = 2 - k;
    }
    page.primer = &primer;
    assert_int_equal(pa_page_write(scratch("page.html"), &page, NULL), PA_OK);
    assert_int_equal(pa_read_text(scratch("page.html"), &text, NULL, NULL), PA_OK);
    assert_int_equal(occurrences(text, "<th>median note (s)</th>"), 1);
    assert_non_null(
        strstr(text, "<a href=\"#take0\">first &lt;take&gt; &amp; &quot;more&quot;</a></th><td>2<td>12.3<"));
    assert_non_null(strstr(text, "<a href=\"#take1\">second take</a></th><td>1<td>-<"));
    for (int i = 0; i < 2; i++) // the second take is the nearer
        assert_true(strstr(text, i ? "<h2 id=\"take1" : "#take1") < strstr(text, i ? "<h2 id=\"take0" : "#take0"));
    assert_non_null(strstr(text, "primer</th><td><td>0.0<td>0.0<td>0.68<"));
    assert_non_null(strstr(text, "pianists</th><td><td>3.5 to 17.9<"));
    free(text);
    page.takes = 1; // needs no rank
    assert_int_equal(pa_page_write(scratch("page.html"), &page, NULL), PA_OK);
    assert_int_equal(pa_read_text(scratch("page.html"), &text, NULL, NULL), PA_OK);
    assert_int_equal(occurrences(text, "Rank"), 0);
    assert_non_null(strstr(text, "</a></th><td>12.3<"));
    for (int k = 0; k < 2; k++) take[k].features = NULL, take[k].rank = 0;
    free(text);
}

static void ids_of_two_rolls_differ(void **state) {
    (void)state;
    char *text = page_text(NULL);
    int seen = 0;
    for (const char *p = text; (p = strstr(p, " id=\"")); p += 5, seen++) {
        char id[80];
        snprintf(id, sizeof id, "%.*s\"", (int)strcspn(p + 5, "\"") + 5, p);
        if (occurrences(text, id) != 1) print_error("%s is there %d times\n", id, occurrences(text, id));
        assert_int_equal(occurrences(text, id), 1);
    }
    assert_true(seen > 20);
    free(text);
}

static void midi_files_are_embedded(void **state) {
    (void)state;
    char name[2][SCRATCH_PATH];
    scratch_put("a.mid", "MThd1");
    scratch_put("b&.mid", "MThd");
    snprintf(name[0], sizeof name[0], "%s", scratch("a.mid"));
    snprintf(name[1], sizeof name[1], "%s", scratch("b&.mid"));
    const char *midi[] = {name[0], name[1]};
    char *text = page_text(midi);
    assert_non_null(strstr(text, "download=\"a.mid\" href=\"data:audio/midi;base64,TVRoZDE=\"")); // "MThd1"
    assert_non_null(strstr(text, "download=\"b&amp;.mid\" href=\"data:audio/midi;base64,TVRoZA==\""));
    free(text);
}

static void what_cannot_be_made_is_an_error(void **state) {
    (void)state;
    char missing[SCRATCH_PATH];
    snprintf(missing, sizeof missing, "%s", scratch("none.mid"));
    const char *midi[] = {missing, missing};
    pa_page page = example(midi);
    pa_err err;
    assert_int_equal(pa_page_write(scratch("page.html"), &page, &err), PA_FAIL);
    assert_non_null(strstr(err.text, "none.mid: No such file"));
    page.midi = NULL;
    scratch_limit(20000);
    assert_int_equal(pa_page_write(scratch("page.html"), &page, &err), PA_FAIL);
    scratch_limit(0);
    assert_int_equal(pa_page_write(scratch("none/page.html"), &page, &err), PA_FAIL);
    assert_int_equal(scratch_entries(), 0);
}

int main(int argc, char **argv) {
    const struct CMUnitTest test[] = {
        SCRATCH_TEST(a_page_holds_all_of_its_takes), SCRATCH_TEST(names_are_text_and_not_markup),
        SCRATCH_TEST(features_are_a_table),          SCRATCH_TEST(ids_of_two_rolls_differ),
        SCRATCH_TEST(midi_files_are_embedded),       SCRATCH_TEST(what_cannot_be_made_is_an_error),
    };
    pa_err err;
    if (pa_roll_check("x.svg", 1, &err) || pa_sound_font(NULL, &font, &err)) {
        print_message("skipped: %s\n", err.text);
        return 77;
    }
    if (argc < 2) return cmocka_run_group_tests(test, NULL, NULL);
    take[1].seconds = 70; // two rows
    const pa_features features = {.value[PA_LOOP] = 3};
    for (int k = 0; k < 2; k++) take[k].features = &features;
    pa_page page = example(NULL);
    return (int)pa_page_write(argv[1], &page, NULL);
}

const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { // of the leak sanitizer: fontconfig keeps its patterns
    return "leak:libfontconfig";
}
