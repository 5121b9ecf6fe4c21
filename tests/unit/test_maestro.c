// test_maestro.c: the whole of MAESTRO v3.0.0, both encodings: every validation piece by its hash, the corpus by its
// totals. Needs PA_MAESTRO, the unpacked folder, and PA_DATA, the folder of tokens_validation.tsv; is skipped without.
#include "host/prep/corpus_find.h"
#include "tests/support/scratch.h"
#include "tokenizer/workers.h"
#include "tokenizer/write.h"

#include <glib.h>
#include <math.h>
#include <unistd.h>

enum { SKIPPED = 77 };

// pieces, notes, seconds (of the metadata: within a ten-thousandth of ours), tokens by encoding
static const struct {
    size_t pieces, notes;
    double seconds;
    size_t tokens[2];
} expected[PA_SPLITS] = {{962, 5659329, 573277, {22885711, 23201626}},
                         {137, 639425, 69946, {2591657, 2607223}},
                         {177, 741410, 71928, {2989305, 3019852}}};

typedef struct {
    pa_corpus corpus;
    pa_piece *piece;
} results;

static void take(void *user, size_t index, pa_status status, pa_piece piece, const char *reason) {
    results *r = user;
    if (status && !strstr(reason, "has a place in the midi-neural encoding"))
        fail_msg("%s", reason); // 9 files without a pedal
    r->piece[index] = piece;
}

static results encode(pa_encoding e) {
    results r;
    pa_err err;
    if (pa_corpus_find(&r.corpus, getenv("PA_MAESTRO"), NULL, &err)) fail_msg("%s", err.text);
    char **path = calloc(r.corpus.count, sizeof(char *));
    r.piece = calloc(r.corpus.count, sizeof *r.piece);
    for (size_t i = 0; i < r.corpus.count; i++)
        assert_true(asprintf(&path[i], "%s/%s", r.corpus.folder, r.corpus.file[i].name) > 0);
    const pa_encode_options o = {.encoding = e, .longest_pause = PA_LONGEST_PAUSE};
    int jobs = (int)sysconf(_SC_NPROCESSORS_ONLN);
    assert_int_equal(pa_encode_files((const char *const *)path, r.corpus.count, &o, jobs, take, &r, NULL), PA_OK);
    for (size_t i = 0; i < r.corpus.count; i++) free(path[i]);
    free(path);
    return r;
}

static void check_totals(const results *r, pa_encoding e) {
    for (pa_split split = 0; split < PA_SPLITS; split++) {
        size_t pieces = 0, notes = 0, tokens = 0;
        double seconds = 0;
        for (size_t i = 0; i < r->corpus.count; i++) {
            if (r->corpus.file[i].split != split) continue;
            pieces++;
            notes += r->piece[i].notes;
            tokens += r->piece[i].count;
            seconds += r->piece[i].seconds;
        }
        assert_int_equal(pieces, expected[split].pieces);
        assert_int_equal(tokens, expected[split].tokens[e]);
        if (e == PA_PERFORMANCE) assert_int_equal(notes, expected[split].notes);
        assert_true(fabs(seconds / expected[split].seconds - 1) < 1e-4);
    }
}

static void check_hashes(const results *r, pa_encoding e) {
    char path[4096], line[4096];
    snprintf(path, sizeof path, "%s/tokens_validation.tsv", getenv("PA_DATA"));
    FILE *f = fopen(path, "r");
    size_t checked = 0;
    if (!f) fail_msg("%s cannot be read", path);
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *rest = line, *cell[5];
        for (int i = 0; i < 5; i++) cell[i] = strsep(&rest, "\t");
        if (!cell[4] || strcmp(cell[1], pa_encoding_name(e))) continue;
        for (size_t i = 0; i < r->corpus.count; i++) {
            if (strcmp(r->corpus.file[i].name, cell[4])) continue;
            const pa_piece *p = &r->piece[i];
            char *hash =
                g_compute_checksum_for_data(G_CHECKSUM_SHA256, (const guchar *)p->token, p->count * sizeof *p->token);
            assert_int_equal(p->count, strtol(cell[2], NULL, 10));
            assert_string_equal(hash, cell[3]);
            g_free(hash);
            checked++;
        }
    }
    fclose(f);
    assert_int_equal(checked, 137);
}

// What was decoded from a real piece and encoded again decodes to the same notes.
static void check_round_trip(const results *r) {
    for (size_t i = 0; i < r->corpus.count; i++) {
        pa_piece again[2];
        pa_note *note;
        size_t count;
        if (r->corpus.file[i].split != PA_SPLIT_VALIDATION) continue;
        const pa_piece *from = &r->piece[i];
        for (int k = 0; k < 2; k++, from = &again[0]) {
            assert_int_equal(pa_decode(from->token, from->count, PA_PERFORMANCE, &note, &count, NULL), PA_OK);
            assert_int_equal(pa_midi_write(scratch("a.mid"), note, count, NULL), PA_OK);
            assert_int_equal(
                pa_encode_file(scratch("a.mid"), &(pa_encode_options){.encoding = PA_PERFORMANCE}, &again[k], NULL),
                PA_OK);
            assert_int_equal(again[k].notes, count);
            free(note);
        }
        assert_int_equal(again[0].count, again[1].count);
        assert_memory_equal(again[0].token, again[1].token, again[0].count * sizeof(uint16_t));
        pa_piece_clear(&again[0]);
        pa_piece_clear(&again[1]);
    }
}

static void clear(results *r) {
    for (size_t i = 0; i < r->corpus.count; i++) pa_piece_clear(&r->piece[i]);
    free(r->piece);
    pa_corpus_clear(&r->corpus);
}

static void performance(void **state) {
    (void)state;
    results r = encode(PA_PERFORMANCE);
    check_totals(&r, PA_PERFORMANCE);
    check_hashes(&r, PA_PERFORMANCE);
    check_round_trip(&r);
    clear(&r);
}

static void midi_neural(void **state) {
    (void)state;
    results r = encode(PA_MIDI_NEURAL);
    check_totals(&r, PA_MIDI_NEURAL);
    check_hashes(&r, PA_MIDI_NEURAL);
    clear(&r);
}

int main(void) {
    if (!getenv("PA_MAESTRO") || !getenv("PA_DATA")) {
        fprintf(stderr, "skipped: PA_MAESTRO and PA_DATA are not set\n");
        return SKIPPED;
    }
    const struct CMUnitTest tests[] = {SCRATCH_TEST(performance), SCRATCH_TEST(midi_neural)};
    return cmocka_run_group_tests_name("maestro", tests, NULL, NULL);
}
