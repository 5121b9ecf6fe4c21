// test_generate.c: generation over a fake model whose logits depend on all that is visible: windows, streams and
// endings against the rule of generate.h computed anew for each token; and what each sampling option does to a
// distribution.
#include "host/base/philox.h"
#include "host/lib/generate.h"
#include "host/lib/repeats.h"
#include "tests/support/fake.h"

static pa_err err;

// pa_generate over the fake model of ctx.
static pa_status generate(pa_context *ctx, const pa_sampling_options *o, const uint16_t *primer, size_t primer_count,
                          size_t length, uint16_t *out, size_t *count) {
    const pa_generation g = {.backend = &fake_backend,
                             .ctx = ctx,
                             .model = &ctx->model,
                             .options = o,
                             .primer = primer,
                             .primer_count = primer_count,
                             .streams = ctx->streams,
                             .length = length,
                             .out = out,
                             .count = count};
    return pa_generate(&g, &err);
}

static pa_status draw_at(const pa_sampling_options *o, const float *logits, int stream, uint64_t index,
                         uint16_t *token) {
    const pa_draw d = {.logits = logits, .stream = (uint64_t)stream, .index = index};
    return pa_draw_token(o, &d, token, &err);
}

// ---- windows

// How many tokens are visible, and how many of these are prefix, when token `total` is sampled behind a primer of
// `primer` tokens.
static void rule(const pa_model *m, int refill, int primer, int total, int *visible, int *prefix) {
    int P = m->prefix, N = m->context - P, opened = primer;
    for (;;) {
        int first = opened <= P + refill ? opened : P + refill;
        *prefix = first <= P ? first - 1 : P;
        int full = opened + N - (first - *prefix); // tokens there are when this window is full
        *visible = first + total - opened;
        if (total <= full) return;
        opened = full + 1;
    }
}

typedef struct {
    const pa_model *model;
    const pa_sampling_options *options;
    const uint16_t *primer, *out;
    int primer_count, out_count;
    int refill; // as used: not 0
    int stream;
} stream_check;

static void check_stream(const stream_check *c) {
    uint16_t all[FAKE_CONTEXT * 8], token;
    float logits[PA_VOCAB];
    const int count = c->primer_count;
    memcpy(all, c->primer, (size_t)count * sizeof *all);
    memcpy(all + count, c->out, (size_t)c->out_count * sizeof *all);
    for (int i = count ? 0 : 1; i < c->out_count; i++) {
        int visible, prefix, total = count + i;
        rule(c->model, c->refill, count ? count : 1, total, &visible, &prefix);
        const uint16_t *seen = all + total - visible;
        fake_logits(seen, visible, prefix, logits);
        pa_repeats_penalise(seen, visible, c->options->repetition_penalty, logits);
        assert_int_equal(draw_at(c->options, logits, c->stream, (uint64_t)i, &token), PA_OK);
        if (token != c->out[i])
            fail_msg("context %d, prefix %d, refill %d, primer %d: token %d of stream %d: %d, expected %d",
                     c->model->context, c->model->prefix, c->refill, count, i, c->stream, c->out[i], token);
    }
}

static void follows_the_rule(void **state) {
    (void)state;
    enum { LENGTH = 40, STREAMS = 3 };
    uint16_t primer[FAKE_CONTEXT], out[STREAMS * LENGTH];
    size_t made[STREAMS];
    for (int i = 0; i < FAKE_CONTEXT; i++) primer[i] = (uint16_t)(fake_mix((uint64_t)i) % PA_END);
    pa_sampling_options o = pa_sampling_default();
    o.seed = 17;
    o.repetition_penalty = 1.5;
    for (int context = 2; context <= 8; context++)
        for (int prefix = 0; prefix < context; prefix++)
            for (int refill = 0; refill <= context - prefix; refill++)
                for (int count = 0; count <= context + 3; count += 1 + count / 4) {
                    pa_context ctx = fake_context(context, prefix, 0, STREAMS);
                    int N = context - prefix;
                    o.refill = refill;
                    pa_status s = generate(&ctx, &o, primer, (size_t)count, LENGTH, out, made);
                    if (s) fail_msg("%s", err.text);
                    for (int k = 0; k < STREAMS; k++) {
                        assert_int_equal(made[k], LENGTH);
                        check_stream(&(stream_check){.model = &ctx.model,
                                                     .options = &o,
                                                     .primer = primer,
                                                     .primer_count = count,
                                                     .out = out + k * LENGTH,
                                                     .out_count = LENGTH,
                                                     .refill = refill  ? refill
                                                               : N > 1 ? N / 2
                                                                       : 1,
                                                     .stream = k});
                    }
                    assert_int_equal(ctx.calls, count ? LENGTH : LENGTH - 1); // each token costs one prefill or one row
                }
}

// A window that opens with r latents and closes with N costs one prefill in N - r + 1 tokens.
static void prefills_seldom(void **state) {
    (void)state;
    uint16_t primer[8] = {60, 256, 188}, out[160];
    size_t made;
    pa_sampling_options o = pa_sampling_default();
    pa_context ctx = fake_context(16, 8, 0, 1);
    assert_int_equal(generate(&ctx, &o, primer, 8, 160, out, &made), PA_OK);
    assert_int_equal(ctx.prefills, 1 + (160 - 8 + 4) / 5);
}

// A stream is the same in any company, and by its number.
static void streams_are_their_own(void **state) {
    (void)state;
    uint16_t primer[5] = {356, 60, 64, 260, 188}, four[4 * 50], one[50];
    size_t made[4];
    pa_sampling_options o = pa_sampling_default();
    pa_context ctx = fake_context(12, 4, 0, 4);
    for (size_t count = 0; count <= 5; count += 5) {
        ctx = fake_context(12, 4, 0, 4);
        o.stream = 0;
        assert_int_equal(generate(&ctx, &o, primer, count, 50, four, made), PA_OK);
        for (int s = 0; s < 4; s++) {
            ctx = fake_context(12, 4, 0, 1);
            o.stream = (uint64_t)s;
            assert_int_equal(generate(&ctx, &o, primer, count, 50, one, made), PA_OK);
            assert_memory_equal(one, four + s * 50, sizeof one);
            assert_true(s == 0 || memcmp(four, four + s * 50, sizeof one));
        }
        o.seed++;
        assert_int_equal(generate(&ctx, &o, primer, count, 50, one, made), PA_OK);
        assert_memory_not_equal(one, four + 150, sizeof one); // another seed, another piece
    }
}

// From nothing, a piece begins with a velocity as pianists play: bins 12 to 21, each of them in its turn.
static void begins_with_a_velocity(void **state) {
    (void)state;
    enum { LOWEST = 12, BINS = 10, SEEDS = 500 };
    size_t seen[BINS] = {0}, made;
    uint16_t out[1];
    pa_sampling_options o = pa_sampling_default();
    for (o.seed = 0; o.seed < SEEDS; o.seed++) {
        pa_context ctx = fake_context(12, 4, 0, 1);
        assert_int_equal(generate(&ctx, &o, NULL, 0, 1, out, &made), PA_OK);
        assert_int_equal(made, 1);
        assert_true(pa_is_velocity(out[0]));
        assert_in_range(pa_velocity_bin(out[0]), LOWEST, LOWEST + BINS - 1);
        seen[pa_velocity_bin(out[0]) - LOWEST]++;
    }
    for (int i = 0; i < BINS; i++) assert_in_range(seen[i], SEEDS / BINS / 2, 2 * SEEDS / BINS);
}

// With `keys` by the rule of generate.h, computed anew; without, keys are struck while they sound.
static void keys_are_up_or_down(void **state) {
    (void)state;
    enum { LENGTH = 600 };
    const uint16_t primer[6] = {64, 60, 64, 260, 188, 67}; // 64 is struck twice
    uint16_t all[6 + LENGTH], *out = all + 6;
    size_t made;
    int slips[2] = {0};
    for (int keys = 0; keys < 2; keys++) {
        pa_sampling_options o = pa_sampling_default();
        pa_context ctx = fake_context(12, 4, 0, 1);
        int down[128] = {[64] = 2, [67] = 1};
        o.seed = 5;
        o.keys = keys;
        memcpy(all, primer, sizeof primer);
        assert_int_equal(generate(&ctx, &o, primer, 6, LENGTH, out, &made), PA_OK);
        for (int i = 0; i < LENGTH; i++) {
            int visible, prefix, t = out[i];
            float logits[PA_VOCAB];
            uint16_t token;
            rule(&ctx.model, 4, 6, 6 + i, &visible, &prefix);
            fake_logits(all + 6 + i - visible, visible, prefix, logits);
            for (int k = 0; k < 128 && keys; k++) {
                double on = exp((double)logits[k]), off = exp((double)logits[128 + k]);
                logits[k] = down[k] ? -1e30f : (float)log(on);
                logits[128 + k] = down[k] ? (float)log(on + off) : -1e30f;
            }
            assert_int_equal(draw_at(&o, logits, 0, (uint64_t)i, &token), PA_OK);
            assert_int_equal(t, token);
            if (t >= PA_TIME_SHIFT) continue;
            slips[keys] += (down[t % 128] > 0) == (t < PA_NOTE_OFF);
            down[t % 128] = t < PA_NOTE_OFF ? down[t % 128] + 1 : down[t % 128] > 0 ? down[t % 128] - 1 : 0;
        }
    }
    assert_true(slips[0] > 0);
    assert_int_equal(slips[1], 0);
}

// The weights of waits by the rule of draw.h, computed anew; and the denser, the less time passes.
static void waits_by_density(void **state) {
    (void)state;
    enum { LENGTH = 600 };
    const double density[] = {0.25, 1, 4};
    const uint16_t primer[4] = {64, 60, 260, 67};
    uint16_t all[4 + LENGTH], *out = all + 4;
    size_t made;
    int waited[3] = {0};
    for (int d = 0; d < 3; d++) {
        pa_sampling_options o = pa_sampling_default();
        pa_context ctx = fake_context(12, 4, 0, 1);
        o.seed = 9;
        o.density = density[d];
        memcpy(all, primer, sizeof primer);
        assert_int_equal(generate(&ctx, &o, primer, 4, LENGTH, out, &made), PA_OK);
        for (int i = 0; i < LENGTH; i++) {
            int visible, prefix;
            float logits[PA_VOCAB];
            uint16_t token;
            rule(&ctx.model, 4, 4, 4 + i, &visible, &prefix);
            fake_logits(all + 4 + i - visible, visible, prefix, logits);
            for (int n = 0; n < 100; n++)
                logits[PA_TIME_SHIFT + n] -= (float)(log(density[d]) * (n < 24 ? (n + 1) / 25.0 : 1));
            assert_int_equal(draw_at(&o, logits, 0, (uint64_t)i, &token), PA_OK);
            assert_int_equal(out[i], token);
            waited[d] += pa_shift_steps(out[i]);
        }
    }
    assert_true(waited[0] > 3 * waited[1] / 2 && waited[1] > 3 * waited[2] / 2);
}

// A generator that went back into its window predicts from the window up to there, without a new one; before it, as one
// that starts with the tokens that are left. Where it predicted before, it continues as if it had never been ahead.
static void rewinds(void **state) {
    (void)state;
    enum { S = 2, START = 7, ALL = 40 };
    pa_sampling_options o = pa_sampling_default();
    o.seed = 3;
    o.keys = o.releases = o.steady = true;
    int held = 0, same = 0;
    for (size_t back = 1; back <= ALL; back++) {
        pa_context ctx = fake_context(16, 6, 0, S), again = fake_context(16, 6, 0, S);
        pa_generator g, fresh;
        uint16_t token[S], other[S];
        float logits[PA_VOCAB];
        size_t opened = 0;
        assert_int_equal(pa_generator_init(&g, &fake_backend, &ctx, &ctx.model, S, &err), PA_OK);
        assert_int_equal(pa_generator_init(&fresh, &fake_backend, &again, &again.model, S, &err), PA_OK);
        for (size_t i = 0; i < ALL; i++) {
            int prefills = ctx.prefills;
            token[0] = (uint16_t)(40 + i);
            token[1] = (uint16_t)(300 + i);
            bool drawn = i >= START && i % 5;
            assert_int_equal(drawn ? pa_generator_draw(&g, &o, token, &err) : pa_generator_append(&g, token, &err), 0);
            if (ctx.prefills > prefills) opened = i;
            if (i >= back) continue;
            assert_int_equal(
                drawn ? pa_generator_draw(&fresh, &o, other, &err) : pa_generator_append(&fresh, token, &err), 0);
        }
        size_t window = g.seen - (size_t)g.length;
        int prefix = g.prefix, prefills = ctx.prefills;
        bool inside = back > window + (size_t)prefix;
        assert_int_equal(pa_generator_rewind(&g, ALL + 1, &err), PA_USAGE);
        assert_int_equal(pa_generator_rewind(&g, back, &err), PA_OK);
        assert_int_equal(g.total, back);
        assert_int_equal(g.drawn, fresh.drawn);
        assert_memory_equal(g.keys, fresh.keys, S * sizeof *g.keys);
        assert_memory_equal(g.density, fresh.density, S * sizeof *g.density);
        assert_int_equal(pa_generator_advance(&g, 0, &err), PA_OK);
        assert_int_equal(ctx.prefills - prefills, !inside);
        if (!inside) window = back - (size_t)g.length;
        if (!inside) prefix = back > 6 ? 6 : (int)back - 1;
        for (int s = 0; s < S; s++) {
            fake_logits(g.token + (size_t)s * g.room + window, (int)(back - window), prefix, logits);
            assert_memory_equal(g.logits + (size_t)s * PA_VOCAB, logits, sizeof logits);
        }
        for (int i = 0; i < 3 && back >= opened; i++, same++) {
            assert_int_equal(pa_generator_draw(&g, &o, token, &err), PA_OK);
            assert_int_equal(pa_generator_draw(&fresh, &o, other, &err), PA_OK);
            assert_memory_equal(token, other, sizeof token);
        }
        held += inside;
        pa_generator_clear(&g);
        pa_generator_clear(&fresh);
    }
    assert_in_range(held, 3, ALL - 3);
    assert_true(same > 6);
}

static void endings(void **state) {
    (void)state;
    uint16_t primer[3] = {60, 64, 67}, out[3 * 30];
    size_t made[3];
    pa_sampling_options o = pa_sampling_default();
    pa_context ctx = fake_context(12, 4, 0, 3);
    // END stops a stream only if it may; the others continue.
    for (int stop = 0; stop < 2; stop++) {
        ctx = fake_context(12, 4, 0, 3);
        ctx.end_after = 10;
        o.stop_at_end = stop;
        assert_int_equal(generate(&ctx, &o, primer, 3, 30, out, made), PA_OK);
        for (size_t s = 0; s < 3; s++) {
            assert_int_equal(made[s], stop ? 10 + s : 30);
            for (size_t i = 0; i < 30; i++)
                assert_true(i < made[s] ? out[s * 30 + i] < PA_END : out[s * 30 + i] == PA_PAD || i > 12);
        }
        assert_int_equal(ctx.calls, stop ? 13 : 30);
    }
    // Nothing to make.
    ctx = fake_context(12, 4, 0, 3);
    assert_int_equal(generate(&ctx, &o, NULL, 0, 0, out, made), PA_OK);
    assert_int_equal(made[0] + made[1] + made[2] + (size_t)ctx.calls, 0);
    // Errors from below are reported with their place.
    ctx.fail_at = 4;
    assert_int_equal(generate(&ctx, &o, primer, 3, 30, out, made), PA_FAIL);
    assert_string_equal(err.text, "the device is on fire");
    ctx = fake_context(12, 4, 0, 1);
    ctx.spoil = NAN;
    assert_int_equal(generate(&ctx, &o, primer, 3, 30, out, made), PA_FAIL);
    assert_non_null(strstr(err.text, "token 1 of stream 0: logits: expected finite numbers, found"));
}

// ---- sampling

// Logits of the given probabilities for tokens 10, 11, …; everything else next to impossible.
static void set(float *logits, const double *p, int count) {
    for (int v = 0; v < PA_VOCAB; v++) logits[v] = -1e4f;
    for (int i = 0; i < count; i++) logits[10 + i] = (float)log(p[i]);
}

static uint16_t draw(const pa_sampling_options *o, const float *logits, uint64_t index) {
    uint16_t token;
    if (draw_at(o, logits, 0, index, &token)) fail_msg("%s", err.text);
    return token;
}

// Draws 5000 times and compares with the probabilities expected of tokens 10, 11, …: Pearson's statistic; a 0 may never
// be drawn. The bound is the 99.9 % point of chi-square with 7 degrees of freedom, more than any case here has; the
// seed is fixed, so it can't flicker.
static void expect(const pa_sampling_options *o, const float *logits, const double *p, int count) {
    enum { DRAWS = 5000 };
    double found[8] = {0}, statistic = 0;
    for (uint64_t i = 0; i < DRAWS; i++) {
        int at = draw(o, logits, i) - 10;
        if (at < 0 || at >= count || p[at] == 0) fail_msg("drew token %d, which has no probability", at + 10);
        found[at]++;
    }
    for (int i = 0; i < count; i++)
        if (p[i] > 0) statistic += (found[i] - DRAWS * p[i]) * (found[i] - DRAWS * p[i]) / (DRAWS * p[i]);
    if (statistic > 24.32) fail_msg("chi-square %.1f", statistic);
}

static void distributions(void **state) {
    (void)state;
    const double p[] = {0.05, 0.4, 0.1, 0.3, 0.15};
    float logits[PA_VOCAB];
    set(logits, p, 5);
    pa_sampling_options plain = pa_sampling_default(), o = plain;
    expect(&o, logits, p, 5);
    o.temperature = 0.5; // squares
    double sum = 0.0025 + 0.16 + 0.01 + 0.09 + 0.0225;
    expect(&o, logits, (double[]){0.0025 / sum, 0.16 / sum, 0.01 / sum, 0.09 / sum, 0.0225 / sum}, 5);
    o = plain, o.temperature = 2; // roots
    sum = sqrt(0.05) + sqrt(0.4) + sqrt(0.1) + sqrt(0.3) + sqrt(0.15);
    expect(&o, logits,
           (double[]){sqrt(0.05) / sum, sqrt(0.4) / sum, sqrt(0.1) / sum, sqrt(0.3) / sum, sqrt(0.15) / sum}, 5);
    o = plain;
    o.top_k = 2;
    expect(&o, logits, (double[]){0, 4 / 7.0, 0, 3 / 7.0, 0}, 5);
    o = plain, o.top_p = 0.8; // 0.4 + 0.3 falls short, 0.15 more does not
    expect(&o, logits, (double[]){0, 0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85}, 5);
    o = plain, o.min_p = 0.3; // of 0.4
    expect(&o, logits, (double[]){0, 0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85}, 5);
    o.top_k = 5;
    o.top_p = 0.7;
    o.min_p = 0.9;
    expect(&o, logits, (double[]){0, 1, 0, 0, 0}, 5);
    o = plain, o.top_k = 2, o.top_p = 0.5; // top-p is of what top-k leaves: 0.4 of 0.7 is enough
    expect(&o, logits, (double[]){0, 1, 0, 0, 0}, 5);
    o = plain, o.temperature = 0.5, o.top_p = 0.55; // of what temperature makes: 0.16 of 0.285 is enough
    expect(&o, logits, (double[]){0, 1, 0, 0, 0}, 5);
}

// The temperature is of keys struck and of velocities, each among themselves: releases, times, and the sum of each kind
// stay as they are.
static void temperature_is_of_pitch_and_velocity(void **state) {
    (void)state;
    enum { DRAWS = 20000, TOKENS = 8 };
    const int token[TOKENS] = {60, 61, 188, 189, 300, 301, 360, 361};
    const double p[TOKENS] = {0.1, 0.2, 0.05, 0.15, 0.1, 0.2, 0.05, 0.15};
    const double expected[TOKENS] = {0.3 / 5, 1.2 / 5, 0.05, 0.15, 0.1, 0.2, 0.2 / 10, 1.8 / 10}; // squares
    float logits[PA_VOCAB];
    double found[TOKENS] = {0};
    pa_sampling_options o = pa_sampling_default();
    o.temperature = 0.5;
    for (int v = 0; v < PA_VOCAB; v++) logits[v] = -1e4f;
    for (int i = 0; i < TOKENS; i++) logits[token[i]] = (float)log(p[i]);
    for (uint64_t n = 0; n < DRAWS; n++)
        for (int i = 0, t = draw(&o, logits, n); i < TOKENS; i++) found[i] += t == token[i];
    for (int i = 0; i < TOKENS; i++) {
        double error = 4 * sqrt(expected[i] * (1 - expected[i]) / DRAWS);
        if (fabs(found[i] / DRAWS - expected[i]) > error)
            fail_msg("token %d: expected %g, found %g", token[i], expected[i], found[i] / DRAWS);
    }
    o.min_p = 0.8; // of the most probable after the temperature, 0.24
    for (uint64_t n = 0; n < 100; n++) {
        int t = draw(&o, logits, n);
        assert_true(t == 61 || t == 301);
    }
}

// Four tokens as probable as each other: sums of their shares are exact, so each border can be met exactly. Of equals
// the first stay.
static void nucleus_edges(void **state) {
    (void)state;
    float logits[PA_VOCAB];
    set(logits, (double[]){1, 1, 1, 1}, 4);
    pa_sampling_options o = pa_sampling_default();
    const struct {
        double top_p;
        int kept;
    } edge[] = {{1e-300, 1}, {0.25, 1}, {0.2500001, 2}, {0.5, 2}, {0.75, 3}, {0.7500001, 4}, {1, 4}};
    for (size_t i = 0; i < sizeof edge / sizeof *edge; i++) {
        double p[4] = {0};
        o.top_p = edge[i].top_p;
        for (int k = 0; k < edge[i].kept; k++) p[k] = 1.0 / edge[i].kept;
        expect(&o, logits, p, 4);
    }
}

static void the_most_probable(void **state) {
    (void)state;
    float logits[PA_VOCAB];
    set(logits, (double[]){0.2, 0.3, 0.3, 0.2}, 4);
    pa_sampling_options plain = pa_sampling_default(), way[3] = {plain, plain, plain};
    way[0].temperature = 0;
    way[1].top_k = 1;
    way[2].top_p = 1e-9;
    for (int i = 0; i < 3; i++)
        for (uint64_t k = 0; k < 200; k++) assert_int_equal(draw(&way[i], logits, k), 11); // of equals the first
    logits[12] += 1e-3f;
    plain.temperature = 1e-6;
    for (uint64_t k = 0; k < 200; k++) assert_int_equal(draw(&plain, logits, k), 12);
    plain = pa_sampling_default();
    plain.min_p = 1;
    for (uint64_t k = 0; k < 200; k++) assert_int_equal(draw(&plain, logits, k), 12);
}

static void never_pad(void **state) {
    (void)state;
    float logits[PA_VOCAB];
    set(logits, (double[]){0.5, 0.5}, 2);
    logits[PA_PAD] = 50;
    logits[PA_END] = 40;
    pa_sampling_options o = pa_sampling_default();
    expect(&o, logits, (double[]){0.5, 0.5}, 2);
    o.temperature = 0;
    assert_int_equal(draw(&o, logits, 0), 10);
    o.stop_at_end = true;
    assert_int_equal(draw(&o, logits, 0), PA_END);
    o.temperature = 0.9;
    assert_int_equal(draw(&o, logits, 0), PA_END);
}

static void refuses(void **state) {
    (void)state;
    pa_model m = pa_model_default();
    const struct {
        const char *says;
        pa_sampling_options o;
    } wrong[] = {
        {"temperature: expected 0 (greedy) to 100, found -1", {.temperature = -1, .top_p = 1, .repetition_penalty = 1}},
        {"temperature", {.temperature = (double)NAN, .top_p = 1, .repetition_penalty = 1}},
        {"top-k: expected 1 to 390", {.temperature = 1, .top_k = 391, .top_p = 1, .repetition_penalty = 1}},
        {"top-k", {.temperature = 1, .top_k = -1, .top_p = 1, .repetition_penalty = 1}},
        {"top-p: expected more than 0, at most 1, found 0", {.temperature = 1, .top_p = 0, .repetition_penalty = 1}},
        {"top-p", {.temperature = 1, .top_p = 1.1, .repetition_penalty = 1}},
        {"min-p: expected 0 to 1, found 1.5", {.temperature = 1, .top_p = 1, .min_p = 1.5, .repetition_penalty = 1}},
        {"min-p", {.temperature = 1, .top_p = 1, .min_p = (double)NAN, .repetition_penalty = 1}},
        {"repetition-penalty: expected 0.01 to 100, found 0", {.temperature = 1, .top_p = 1, .repetition_penalty = 0}},
        {"refill: expected 1 to 1024", {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .refill = 1025}},
        {"refill", {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .refill = -1}},
        {"density: expected 0.25 to 4, found 0", {.temperature = 1, .top_p = 1, .repetition_penalty = 1}},
        {"density", {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .density = 4.1}},
        {"density", {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .density = (double)NAN}},
    };
    pa_sampling_options o = pa_sampling_default();
    assert_int_equal(pa_sampling_check(&o, &m, &err), PA_OK);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(pa_sampling_check(&wrong[i].o, &m, &err), PA_USAGE);
        if (strncmp(err.text, wrong[i].says, strlen(wrong[i].says))) fail_msg("%s", err.text);
    }
    float logits[PA_VOCAB] = {0};
    uint16_t token;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        logits[200] = bad[i];
        assert_int_equal(draw_at(&o, logits, 0, 0, &token), PA_FAIL);
        assert_non_null(strstr(err.text, "logits: expected finite numbers, found"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_the_rule),
        cmocka_unit_test(prefills_seldom),
        cmocka_unit_test(streams_are_their_own),
        cmocka_unit_test(begins_with_a_velocity),
        cmocka_unit_test(keys_are_up_or_down),
        cmocka_unit_test(waits_by_density),
        cmocka_unit_test(rewinds),
        cmocka_unit_test(endings),
        cmocka_unit_test(distributions),
        cmocka_unit_test(temperature_is_of_pitch_and_velocity),
        cmocka_unit_test(nucleus_edges),
        cmocka_unit_test(the_most_probable),
        cmocka_unit_test(never_pad),
        cmocka_unit_test(refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
