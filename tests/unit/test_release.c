// test_release.c: long notes that a model leaves down end by the hazard of pianists' note lengths: the table, what it
// leaves alone, and models that release as often as pianists, less often, or never.
#include "host/base/philox.h"
#include "host/lib/generate.h"
#include "host/lib/release.h"
#include "tests/support/fake.h"

enum { SECOND = 256 + 99 }; // TIME_SHIFT of a second

static pa_err err;

// The table of release.c: shares of notes of pitch 60 that exceed some ages. Where no key is struck they are steps.
static const struct {
    double share;
    int age;
} beyond[] = {{0.05, 415}, {0.02, 609}, {0.01, 797}, {0.005, 1044}, {0.002, 1479}, {0.001, 1958}, {0.0005, 2669}};
enum { BEYOND = sizeof beyond / sizeof *beyond };

static void ages_are_the_tables(void **state) {
    (void)state;
    for (int i = 0; i < BEYOND; i++) {
        assert_float_equal(pa_release_age(60, 0, 1 - beyond[i].share / 0.05), beyond[i].age, 1e-3);
        // Of notes that have sounded that long, the same shares.
        for (int j = i; j < BEYOND - 1; j++)
            assert_float_equal(pa_release_age(60, beyond[i].age, 1 - beyond[j].share / beyond[i].share), beyond[j].age,
                               1e-3);
    }
    // Halfway between two ages the share is their geometric mean: one hazard from one to the other. Behind the last
    // it stays the same.
    assert_float_equal(pa_release_age(60, 0, 1 - sqrt(0.02 * 0.01) / 0.05), (609 + 797) / 2.0, 1e-3);
    assert_float_equal(pa_release_age(60, 0, 1 - 0.00025 / 0.05), 2 * 2669 - 1958, 1e-3);
    assert_float_equal(pa_release_age(60, 3000, 0.5), 3000 + 2669 - 1958, 1e-3);
    for (int pitch = 0; pitch < 128; pitch++) {
        assert_true(pa_release_least(pitch) > 100);
        for (int age = 0; age < 2000; age += 37) {
            double before = 0;
            for (int i = 0; i < 100; i++) {
                double length = pa_release_age(pitch, age, i / 100.0);
                assert_true(length >= before && length >= pa_release_least(pitch) && length >= age - 1e-9);
                before = length;
            }
        }
    }
}

// Follows `count` tokens, and behind them TIME_SHIFTs of a second.
static void follow_all(pa_keys *k, const uint16_t *token, size_t count, int seconds) {
    pa_keys_start(k);
    for (size_t i = 0; i < count; i++) pa_keys_follow(k, token[i]);
    for (int i = 0; i < seconds; i++) pa_keys_follow(k, SECOND);
}

// Logits stay as they are while no note is long. One that is due leaves nothing else to draw, but its release.
static void normal_notes_are_untouched(void **state) {
    (void)state;
    const uint16_t young[] = {60, SECOND, 256 + 59, 62}, old[] = {60, 64, SECOND, 188 + 4, SECOND, 62};
    float logits[PA_VOCAB], before[PA_VOCAB];
    uint16_t token;
    pa_keys k;
    for (int v = 0; v < PA_VOCAB; v++) logits[v] = before[v] = (float)v / PA_VOCAB;
    for (int paired = 0; paired < 2; paired++) {
        follow_all(&k, young, sizeof young / sizeof *young, 0);
        pa_keys_release(&k, paired, 1, 0, logits);
        assert_memory_equal(logits, before, sizeof logits);
    }
    follow_all(&k, old, sizeof old / sizeof *old, 60);
    pa_keys_follow(&k, 65);
    pa_keys_release(&k, true, 1, 0, logits);
    for (int greedy = 0; greedy < 2; greedy++)
        for (uint64_t i = 0; i < 100; i++) {
            pa_sampling_options o = pa_sampling_default();
            if (greedy) o.temperature = 0;
            o.stop_at_end = true;
            assert_int_equal(pa_draw_token(&o, &(pa_draw){.logits = logits, .index = i}, &token, &err), PA_OK);
            assert_true(token == PA_NOTE_OFF + 60 || token == PA_NOTE_OFF + 62);
        }
    // midi-neural: a release of a silent key would make another note of its latest stroke.
    const uint16_t silent[] = {60, 256 + 9, 188};
    follow_all(&k, silent, sizeof silent / sizeof *silent, 60);
    memcpy(logits, before, sizeof logits);
    pa_keys_release(&k, false, 1, 0, logits);
    assert_true(logits[188] < -1e20f);
    logits[188] = before[188];
    assert_memory_equal(logits, before, sizeof logits);
}

// Of notes that have sounded for five seconds more are due where a pianist played meanwhile.
static void strokes_age_a_note(void **state) {
    (void)state;
    int due[2] = {0};
    for (uint64_t seed = 0; seed < 500; seed++)
        for (int busy = 0; busy < 2; busy++) {
            float logits[PA_VOCAB] = {0};
            pa_keys k;
            pa_keys_start(&k);
            pa_keys_follow(&k, 60);
            for (int i = 0; i < 50; i++) {
                if (busy) pa_keys_follow(&k, 72);
                pa_keys_follow(&k, pa_shift_of(10));
                if (busy) pa_keys_follow(&k, PA_NOTE_OFF + 72);
            }
            k.begun = 0;
            due[busy] += pa_keys_release(&k, true, seed, 0, logits);
        }
    // Of the long notes, those that exceed age 415, 72 % exceed the silent five seconds' 490, 4 % the busy ones' 1490.
    assert_in_range(due[0], 100, 200);
    assert_true(due[1] > 440);
}

// What the primer's player still holds is not cut off where the continuation begins.
static void a_primers_note_sounds_on(void **state) {
    (void)state;
    const uint16_t held[] = {60};
    int cut[2] = {0};
    for (uint64_t seed = 0; seed < 500; seed++)
        for (int primer = 0; primer < 2; primer++) {
            float logits[PA_VOCAB] = {0};
            pa_keys k;
            follow_all(&k, held, 1, 20); // which few notes reach
            k.begun = primer ? k.clock : 0;
            pa_keys_release(&k, true, seed, 0, logits);
            cut[primer] += logits[0] < 0;
        }
    assert_int_equal(cut[1], 0);
    assert_true(cut[0] > 450);
}

// The share of notes of pitch 60 that exceed an age, of those that are long.
static double share_of(double age) {
    int i = 1;
    if (age <= beyond[0].age) return 1;
    while (i < BEYOND - 1 && age > beyond[i].age) i++;
    double part = (age - beyond[i - 1].age) / (beyond[i].age - beyond[i - 1].age);
    return pow(beyond[i - 1].share, 1 - part) * pow(beyond[i].share, part) / beyond[0].share;
}

// Strikes key 60 in a model that moves on by `shift` steps and at each moment releases a long note by `rate` times the
// hazard of pianists since the moment before. Returns the age at which it ends; counts draws that the rule has changed.
static int64_t play_note(pa_keys *k, double rate, int shift, uint64_t note, size_t *changed) {
    float logits[PA_VOCAB], before[PA_VOCAB];
    double chance[PA_VOCAB], last = 1;
    pa_sampling_options o = pa_sampling_default();
    o.temperature = 1;
    pa_keys_follow(k, 60);
    int64_t struck = k->clock;
    for (uint16_t token = 0; token != PA_NOTE_OFF + 60; pa_keys_follow(k, token)) {
        double share = pow(share_of((double)(k->clock - struck)), rate), released = 1 - share / last;
        for (int t = 0; t < PA_VOCAB; t++) logits[t] = -1e4f;
        if (released > 0) logits[PA_NOTE_OFF + 60] = (float)log(released);
        logits[pa_shift_of(shift)] = (float)log(1 - released);
        last = share;
        memcpy(before, logits, sizeof logits);
        bool due = pa_keys_release(k, true, 7, 0, logits);
        assert_int_equal(due, memcmp(before, logits, sizeof logits) != 0);
        *changed += due;
        pa_draw d = {.logits = logits, .stream = note, .index = k->tokens, .chance = chance};
        assert_int_equal(pa_draw_token(&o, &d, &token, &err), PA_OK);
        if (!due) pa_keys_spare(k, chance);
    }
    return k->clock - struck;
}

// Lengths have the smaller share of the model's and pianists', at every age; nothing is done to a model that releases
// as pianists do, or sooner.
static void the_rule_adds_what_is_missing(void **state) {
    (void)state;
    enum { NOTES = 1000, SHIFT = 5, LATE = 2 * SHIFT };
    static const double rate[] = {0, 0.5, 1, 2};
    for (size_t r = 0; r < sizeof rate / sizeof *rate; r++) {
        size_t changed = 0, longer[BEYOND] = {0}, late[BEYOND] = {0};
        pa_keys k;
        pa_keys_start(&k);
        for (uint64_t n = 0; n < NOTES; n++) {
            int64_t age = play_note(&k, rate[r], SHIFT, n, &changed);
            for (int j = 0; j < BEYOND; j++) {
                longer[j] += age > beyond[j].age;
                late[j] += age > beyond[j].age + LATE;
            }
        }
        if (rate[r] >= 1 ? changed > 0 : changed < NOTES / 4)
            fail_msg("%g times pianists' hazard: %zu draws changed", rate[r], changed);
        for (int j = 0; j < BEYOND; j++) {
            double p = pow(share_of(beyond[j].age), fmax(1, rate[r])), slack = 4 * sqrt(p * (1 - p) * NOTES) + 1e-9;
            if ((double)longer[j] < p * NOTES - slack || (double)late[j] > p * NOTES + slack)
                fail_msg("%g times pianists' hazard: %zu notes beyond age %d, %zu by %d, expected %.1f", rate[r],
                         longer[j], beyond[j].age, late[j], LATE, p * NOTES);
        }
    }
}

// A model that never releases: with `releases` each note has its own age of the table, and ends behind the first moment
// in which it has reached it; the ages of all have the table's shares. Without, keys stick.
static void notes_end_as_pianists_do(void **state) {
    (void)state;
    enum { LENGTH = 60000, GREATEST_AGE = 17235 }; // in the corpus
    static const char *const name[] = {"midi-neural", "performance"};
    static uint16_t out[LENGTH];
    const uint16_t primer[] = {370, 256};
    size_t made;
    for (int e = 0; e < 2; e++)
        for (int releases = 0; releases < 2; releases++) {
            pa_sampling_options o = pa_sampling_default();
            pa_context ctx = fake_context(12, 4, 0, 1);
            int64_t clock = 0, moment = 0, earlier = 0, struck[128] = {0}, longest = 0;
            size_t stroke[128] = {0}, notes = 0, longer[BEYOND] = {0};
            bool down[128] = {false};
            ctx.never_releases = true;
            o.seed = 3;
            o.keys = e;
            o.releases = releases;
            const pa_generation g = {.backend = &fake_backend,
                                     .ctx = &ctx,
                                     .model = &ctx.model,
                                     .options = &o,
                                     .primer = primer,
                                     .primer_count = 2,
                                     .streams = 1,
                                     .length = LENGTH,
                                     .out = out,
                                     .count = &made};
            assert_int_equal(pa_generate(&g, &err), PA_OK);
            for (size_t i = 0; i < LENGTH; i++) {
                int key = out[i] % 128;
                if (pa_is_time_shift(out[i])) {
                    earlier = moment;
                    moment = clock;
                    clock += pa_shift_steps(out[i]);
                } else if (pa_is_note_on(out[i])) {
                    clock += PA_RELEASE_STROKE;
                    down[key] = true;
                    struck[key] = clock;
                    stroke[key] = i + 2;
                } else if (pa_is_note_off(out[i]) && down[key]) {
                    int64_t age = clock - struck[key];
                    double least =
                        pa_release_age(key, 0, pa_uniform(pa_random(o.seed, PA_RANDOM_RELEASE, 0, stroke[key])));
                    // With `keys` a stroke's probability is a release's.
                    bool late = (double)(earlier - struck[key]) >= least,
                         early = (double)(moment - struck[key]) < least;
                    if (releases && !e && (late || early))
                        fail_msg("%s: a note ends at age %lld, expected %g", name[e], (long long)age, least);
                    if (age > longest) longest = age;
                    down[key] = false;
                    if (key < 60 || key >= 72) continue; // another row of the table
                    notes++;
                    for (int j = 0; j < BEYOND; j++) longer[j] += least >= beyond[j].age - 1e-6;
                }
            }
            if (!releases) {
                assert_true(e == 0 ? longest == 0 : longest > 10000);
                continue;
            }
            if (longest < 1000 || longest > GREATEST_AGE)
                fail_msg("%s: greatest age %lld", name[e], (long long)longest);
            assert_true(notes > 50);
            for (int j = 0; j < BEYOND; j++) {
                double p = beyond[j].share / 0.05, expected = p * (double)notes, sigma = sqrt(expected * (1 - p));
                if (fabs((double)longer[j] - expected) > 4 * sigma + 1e-9)
                    fail_msg("%s: %zu of %zu notes beyond age %d, expected %.1f", name[e], longer[j], notes,
                             beyond[j].age, expected);
            }
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ages_are_the_tables),
        cmocka_unit_test(normal_notes_are_untouched),
        cmocka_unit_test(strokes_age_a_note),
        cmocka_unit_test(a_primers_note_sounds_on),
        cmocka_unit_test(the_rule_adds_what_is_missing),
        cmocka_unit_test(notes_end_as_pianists_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
