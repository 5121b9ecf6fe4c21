// test_copies.c: longest shared stretches against brute force, over small pieces of few different tokens, and known
// ones.
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "host/base/philox.h"
#include "host/play/copies.h"
#include "tests/support/token_memory.h"

enum { PIECES = 6, LONGEST = 60 };

typedef struct {
    uint16_t token[PIECES * LONGEST];
    int64_t offset[PIECES + 1], notes[PIECES];
    float seconds[PIECES];
    token_memory memory;
} corpus;

static void close_corpus(corpus *c, int pieces) {
    token_memory_open(
        &c->memory,
        (pa_tokens){
            .tokens = c->token, .offsets = c->offset, .seconds = c->seconds, .notes = c->notes, .pieces = pieces});
}

// Few different tokens, so that stretches repeat, overlap, and differ by a transposition.
static void draw(corpus *c, uint64_t seed) {
    static const uint16_t some[] = {60, 61, 62, 60 + 128, 61 + 128, 62 + 128, 300, 301, 370};
    uint64_t next = 0;
    c->offset[0] = 0;
    for (int p = 0; p < PIECES; p++) {
        int64_t count = (int64_t)pa_below(pa_random(seed, 1, 0, next++), LONGEST + 1);
        uint64_t most = pa_below(pa_random(seed, 2, 0, next++), sizeof some / sizeof *some) + 1;
        for (int64_t i = 0; i < count; i++)
            c->token[c->offset[p] + i] = (uint16_t)(some[pa_below(pa_random(seed, 3, (uint64_t)i, next), most)] +
                                                    (i % 16 < 8 ? 0 : most < 7)); // transposes; other time shifts stay
        c->offset[p + 1] = c->offset[p] + count;
        next++;
    }
    close_corpus(c, PIECES);
}

static int shift_of(uint16_t a, uint16_t b) {
    return pa_pitch_of(a) - pa_pitch_of(b);
}

// A sequence of tokens as a kind of copy sees it.
typedef struct {
    uint16_t token[LONGEST];
    int64_t at[LONGEST];
    int count;
} seen;

static seen see(const corpus *c, int piece, pa_copy_kind kind) {
    seen s = {.count = 0};
    for (int64_t i = c->offset[piece]; i < c->offset[piece + 1]; i++) {
        if (kind >= PA_COPY_NOTES && !pa_is_note_on(c->token[i])) continue;
        s.at[s.count] = i - c->offset[piece];
        s.token[s.count++] = c->token[i];
    }
    return s;
}

// How many tokens from a[i] on are those from b[j] on.
static int shared(const seen *a, int i, const seen *b, int j, pa_copy_kind kind) {
    bool transposed = kind == PA_COPY_TOKENS_TRANSPOSED || kind == PA_COPY_NOTES_TRANSPOSED;
    if (transposed && (!pa_is_note(a->token[i]) || !pa_is_note(b->token[j]))) return 0;
    int shift = transposed ? shift_of(a->token[i], b->token[j]) : 0, n = 0;
    for (; i + n < a->count && j + n < b->count; n++) {
        uint16_t x = a->token[i + n], y = b->token[j + n];
        bool same = x == y;
        if (transposed && pa_is_note(x))
            same = pa_is_note(y) && pa_is_note_on(x) == pa_is_note_on(y) && shift_of(x, y) == shift;
        if (!same) break;
    }
    return n;
}

static int64_t longest_by_force(const corpus *x, int piece, const corpus *c, pa_copy_kind kind) {
    seen a = see(x, piece, kind);
    int longest = 0;
    for (int p = 0; p < c->memory.set.pieces; p++) {
        seen b = see(c, p, kind);
        for (int i = 0; i < a.count; i++)
            for (int j = 0; j < b.count; j++) {
                int n = shared(&a, i, &b, j, kind);
                longest = n > longest ? n : longest;
            }
    }
    return longest;
}

static int index_of(const seen *s, int64_t token) {
    for (int i = 0; i < s->count; i++)
        if (s->at[i] == token) return i;
    fail_msg("token %lld is none of the sequence", (long long)token);
    return -1;
}

static void by_force(void **state) {
    (void)state;
    static corpus x, c;
    pa_err err;
    pa_copy found[PIECES];
    int64_t total = 0;
    for (uint64_t seed = 1; seed <= 300; seed++)
        for (pa_copy_kind kind = 0; kind < PA_COPIES; kind++) {
            draw(&x, 2 * seed);
            draw(&c, 2 * seed + 1);
            if (pa_copies_find(&x.memory.set, &c.memory.set, kind, found, &err)) fail_msg("%s", err.text);
            for (int p = 0; p < PIECES; p++) {
                int64_t expected = longest_by_force(&x, p, &c, kind);
                if (found[p].length != expected)
                    fail_msg("seed %d, %s, piece %d: expected %lld, found %lld", (int)seed, pa_copy_name(kind), p,
                             (long long)expected, (long long)found[p].length);
                if (!expected) continue;
                seen a = see(&x, p, kind), b = see(&c, (int)found[p].piece, kind);
                int there = shared(&a, index_of(&a, found[p].own), &b, index_of(&b, found[p].token), kind);
                if (there < expected)
                    fail_msg("seed %d, %s, piece %d: not where it is said to be", (int)seed, pa_copy_name(kind), p);
                total += expected;
            }
        }
    assert_true(total > 10 * 300 * PA_COPIES * PIECES / 2); // long ones too
}

// A phrase, and the same a third higher, faster and louder.
static void known(void **state) {
    (void)state;
    static corpus x, c;
    const uint16_t phrase[] = {370, 60, 265, 188, 62, 265, 190, 64, 265, 192};
    const uint16_t other[] = {372, 64, 260, 192, 66, 260, 194, 68, 260, 196};
    const uint16_t higher[] = {370, 64, 265, 192, 66, 265, 194, 68, 265, 196};
    const struct {
        const uint16_t *token;
        int64_t length[PA_COPIES];
    } row[] = {{phrase, {10, 9, 3, 3}}, {higher, {3, 9, 1, 3}}, {other, {1, 2, 1, 3}}};
    pa_err err;
    pa_copy found;
    for (size_t r = 0; r < sizeof row / sizeof *row; r++)
        for (pa_copy_kind kind = 0; kind < PA_COPIES; kind++) {
            memcpy(c.token, phrase, sizeof phrase);
            memcpy(x.token, row[r].token, sizeof phrase);
            c.offset[1] = x.offset[1] = 10;
            close_corpus(&c, 1);
            close_corpus(&x, 1);
            assert_int_equal(pa_copies_find(&x.memory.set, &c.memory.set, kind, &found, &err), PA_OK);
            if (found.length != row[r].length[kind])
                fail_msg("row %zu, %s: expected %lld, found %lld", r, pa_copy_name(kind),
                         (long long)row[r].length[kind], (long long)found.length);
        }
    x.memory.set.encoding = PA_MIDI_NEURAL;
    assert_int_equal(pa_copies_find(&x.memory.set, &c.memory.set, PA_COPY_NOTES, &found, &err), PA_DATA);
    assert_string_equal(err.text, "encoding: expected performance, that of the corpus, found midi-neural");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(by_force), cmocka_unit_test(known)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
