// data.c: what a step trains on: a function of (seed, window) alone. Windows, crops, augmentation, kept prefix positions.
// Knows nothing of models beyond context and prefix lengths.
#include "host/data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void pa_tokens_window(const pa_tokens *t, int64_t piece, int64_t start, int length, uint16_t *out) {
    int64_t count = t->offsets[piece + 1] - t->offsets[piece];
    for (int64_t i = 0; i < length; i++) {
        int64_t at = start + i;
        out[i] = at < count ? t->tokens[t->offsets[piece] + at] : at == count ? PA_END : PA_PAD;
    }
}

int64_t pa_crop_start(const pa_tokens *t, int64_t piece, int context, pa_philox draw) {
    int64_t starts = t->offsets[piece + 1] - t->offsets[piece] + 1 - context; // with END there is one token more
    return starts > 1 ? (int64_t)pa_below(draw, (uint64_t)starts) : 0;
}

pa_status pa_sampler_init(pa_sampler *s, const pa_tokens *tokens, const pa_config *config, pa_err *err) {
    *s = (pa_sampler){.tokens = tokens, .config = config, .epoch = -1};
    if (!tokens->pieces) return pa_error(err, PA_DATA, "%s: expected at least one piece, found none", config->data.train);
    int context = config->model.context;
    s->order = malloc((size_t)tokens->pieces * sizeof *s->order);
    // A stretch that slows down needs no more tokens than context + 1; one that speeds up drops shifts that round to nothing.
    s->scratch = malloc((size_t)context * 2 * sizeof *s->scratch + 64);
    if (!s->order || !s->scratch) {
        pa_sampler_clear(s);
        return pa_error(err, PA_FAIL, "no memory for the order of %lld pieces", (long long)tokens->pieces);
    }
    int64_t by_tokens = (tokens->offsets[tokens->pieces] + context - 1) / context;
    s->epoch_windows = config->data.sampling == PA_SAMPLING_PIECE ? tokens->pieces : by_tokens > 0 ? by_tokens : 1;
    return PA_OK;
}

void pa_sampler_clear(pa_sampler *s) {
    free(s->order);
    free(s->scratch);
    s->order = NULL, s->scratch = NULL;
}

// Fisher and Yates' shuffle by (seed, epoch).
static void shuffle(pa_sampler *s, int64_t epoch) {
    int64_t n = s->tokens->pieces;
    for (int64_t i = 0; i < n; i++) s->order[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j =
            (int64_t)pa_below(pa_random((uint64_t)s->config->train.seed, PA_RANDOM_ORDER, (uint64_t)epoch, (uint64_t)i), (uint64_t)i + 1);
        int64_t other = s->order[j];
        s->order[j] = s->order[i], s->order[i] = other;
    }
    s->epoch = epoch;
}

// The piece that holds token `at` of the corpus, each piece's END counted as one of its tokens.
static int64_t piece_of(const pa_tokens *t, int64_t at) {
    int64_t low = 0, high = t->pieces - 1;
    while (low < high) {
        int64_t middle = (low + high + 1) / 2;
        if (t->offsets[middle] + middle <= at)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static pa_philox draw(const pa_sampler *s, unsigned purpose, uint64_t w, uint64_t index) {
    return pa_random((uint64_t)s->config->train.seed, purpose, w, index);
}

// A whole number in [-most, most].
static int draw_offset(const pa_sampler *s, uint64_t w, uint64_t index, int most) {
    return most ? (int)pa_below(draw(s, PA_RANDOM_AUGMENT, w, index), 2 * (uint64_t)most + 1) - most : 0;
}

// The largest part of `shift` that keeps every pitch of the window within a piano's range (or where it is already).
static int fitting_shift(const uint16_t *token, int count, int shift) {
    int low = 127, high = 0;
    for (int i = 0; i < count; i++)
        if (token[i] < PA_TIME_SHIFT) {
            int pitch = token[i] & 127;
            low = pitch < low ? pitch : low, high = pitch > high ? pitch : high;
        }
    if (low > high) return 0;
    int down = low > 21 ? 21 - low : 0, up = high < 108 ? 108 - high : 0;
    return shift < down ? down : shift > up ? up : shift;
}

static void put_shift(uint16_t *out, int length, int *made, int64_t steps) {
    for (; steps > 0 && *made < length; steps -= 100) out[(*made)++] = (uint16_t)(PA_TIME_SHIFT + (steps < 100 ? steps : 100) - 1);
}

// Writes `length` augmented tokens from `count` given ones. The stretched clock is rounded, not each shift, so that it does not drift.
static void augment(const pa_sampler *s, uint64_t w, const uint16_t *token, int count, uint16_t *out, int length) {
    int shift = fitting_shift(token, count, draw_offset(s, w, 0, s->config->data.augment_transpose));
    int louder = draw_offset(s, w, 1, s->config->data.augment_velocity), made = 0;
    double factor = 1 + s->config->data.augment_stretch * (2 * pa_uniform(draw(s, PA_RANDOM_AUGMENT, w, 2)) - 1);
    int64_t clock = 0, sent = 0; // steps of 10 ms: of the music as written; put out so far
    for (int i = 0; i < count && made < length; i++) {
        int t = token[i];
        if (t >= PA_TIME_SHIFT && t < PA_VELOCITY) {
            clock += t - PA_TIME_SHIFT + 1;
            continue;
        }
        int64_t now = llround((double)clock * factor);
        put_shift(out, length, &made, now - sent);
        sent = now;
        if (made == length) break;
        if (t < PA_TIME_SHIFT) {
            t += shift;
        } else if (t < PA_END) {
            int bin = t - PA_VELOCITY + louder;
            t = PA_VELOCITY + (bin < 0 ? 0 : bin > 31 ? 31 : bin);
        }
        out[made++] = (uint16_t)t;
    }
    put_shift(out, length, &made, llround((double)clock * factor) - sent);
    while (made < length) out[made++] = PA_PAD;
}

void pa_sampler_window(pa_sampler *s, uint64_t w, uint16_t *out) {
    const pa_config *c = s->config;
    const pa_tokens *t = s->tokens;
    int context = c->model.context;
    int64_t piece;
    if (c->data.sampling == PA_SAMPLING_PIECE) {
        int64_t epoch = (int64_t)(w / (uint64_t)t->pieces);
        if (epoch != s->epoch) shuffle(s, epoch);
        piece = s->order[w % (uint64_t)t->pieces];
    } else {
        piece = piece_of(t, (int64_t)pa_below(draw(s, PA_RANDOM_ORDER, w, 0), (uint64_t)(t->offsets[t->pieces] + t->pieces)));
    }
    int64_t start = pa_crop_start(t, piece, context, draw(s, PA_RANDOM_CROP, w, 0));
    if (!c->data.augment_transpose && !c->data.augment_velocity && c->data.augment_stretch == 0) {
        pa_tokens_window(t, piece, start, context + 1, out);
        return;
    }
    int more =
        context + 1 + (int)(context * (c->data.augment_stretch < 0.9 ? c->data.augment_stretch : 0.9)); // shifts that merge or vanish
    pa_tokens_window(t, piece, start, more, s->scratch);
    augment(s, w, s->scratch, more, out, context + 1);
}

// Knuth's selection sampling (TAOCP 2, 3.4.2, algorithm S).
void pa_keep_positions(uint64_t seed, uint64_t w, int prefix, int kept, int32_t *keep) {
    int chosen = 0;
    for (int i = 0; i < prefix && chosen < kept; i++)
        if (pa_uniform(pa_random(seed, PA_RANDOM_PREFIX, w, (uint64_t)i)) * (prefix - i) < kept - chosen) keep[chosen++] = i;
}
