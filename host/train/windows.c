// windows.c: what a step trains on: a function of (seed, window) only. Windows, crops, augmentation, kept prefix
// positions. Knows nothing of models beyond context and prefix lengths.
#include "host/train/windows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint16_t token_at(const pa_token_piece *p, int64_t at) {
    return at < p->count ? p->token[at] : at == p->count ? PA_END : PA_PAD;
}

// `length` tokens of a piece (with END and PAD behind its end) from `start`.
static void copy_window(const pa_token_piece *p, int64_t start, int length, uint16_t *out) {
    for (int64_t i = 0; i < length; i++) out[i] = token_at(p, start + i);
}

// Start of a crop of context + 1 tokens that fits into piece and its END, uniform, from a draw; 0 where the piece is
// shorter.
static int64_t crop_start(const pa_token_piece *p, int context, pa_philox draw) {
    int64_t starts = p->count + 1 - context; // with END there is one token more
    return starts > 1 ? (int64_t)pa_below(draw, (uint64_t)starts) : 0;
}

pa_status pa_sampler_init(pa_sampler *s, const pa_token_set *tokens, const pa_config *config, pa_err *err) {
    *s = (pa_sampler){.tokens = tokens, .config = config, .epoch = -1};
    if (!tokens->pieces)
        return pa_error(err, PA_DATA, "%s: expected at least one piece, found none", config->data.train);
    s->order = malloc((size_t)tokens->pieces * sizeof *s->order);
    if (!s->order) return pa_error(err, PA_FAIL, "no memory for the order of %lld pieces", (long long)tokens->pieces);
    int64_t context = config->model.context, by_tokens = (tokens->tokens + context - 1) / context;
    s->epoch_windows = config->data.sampling == PA_SAMPLING_PIECE ? tokens->pieces : by_tokens > 0 ? by_tokens : 1;
    return PA_OK;
}

void pa_sampler_clear(pa_sampler *s) {
    free(s->order);
    s->order = NULL;
}

// Fisher and Yates' shuffle by (seed, epoch).
static void shuffle(pa_sampler *s, int64_t epoch) {
    int64_t n = s->tokens->pieces;
    for (int64_t i = 0; i < n; i++) s->order[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = (int64_t)pa_below(
            pa_random((uint64_t)s->config->train.seed, PA_RANDOM_ORDER, (uint64_t)epoch, (uint64_t)i), (uint64_t)i + 1);
        int64_t other = s->order[j];
        s->order[j] = s->order[i];
        s->order[i] = other;
    }
    s->epoch = epoch;
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
        if (pa_is_note(token[i])) {
            int pitch = pa_pitch_of(token[i]);
            low = pitch < low ? pitch : low;
            high = pitch > high ? pitch : high;
        }
    if (low > high) return 0;
    int down = low > 21 ? 21 - low : 0, up = high < 108 ? 108 - high : 0;
    return shift < down ? down : shift > up ? up : shift;
}

// Moves a window by as much of `shift` as fits.
static void transpose(uint16_t *token, int count, int shift) {
    shift = fitting_shift(token, count, shift);
    for (int i = 0; i < count; i++)
        if (pa_is_note(token[i])) token[i] = (uint16_t)(token[i] + shift);
}

static void put_shift(uint16_t *out, int length, int *written, int64_t steps) {
    for (; steps > 0 && *written < length; steps -= PA_MOST_STEPS)
        out[(*written)++] = pa_shift_of(steps < PA_MOST_STEPS ? (int)steps : PA_MOST_STEPS);
}

// Writes `length` tokens of a piece from `start`, time stretched by `factor` and velocities moved by `louder` bins. The
// stretched clock is rounded, not each shift, so that it does not drift. Shifts may merge or vanish, so that more
// tokens are read than written.
static void stretch(const pa_token_piece *p, int64_t start, double factor, int louder, uint16_t *out, int length) {
    int64_t clock = 0, sent = 0; // steps of 10 ms: of the piece; written so far
    int written = 0;
    for (int64_t at = start; written < length; at++) {
        int token = token_at(p, at);
        if (pa_is_time_shift(token)) {
            clock += pa_shift_steps(token);
            continue;
        }
        int64_t now = llround((double)clock * factor);
        put_shift(out, length, &written, now - sent);
        sent = now;
        if (written == length) break;
        if (pa_is_velocity(token)) {
            int bin = pa_velocity_bin(token) + louder;
            token = PA_VELOCITY + (bin < 0 ? 0 : bin > 31 ? 31 : bin);
        }
        out[written++] = (uint16_t)token;
    }
}

int pa_step_starts(const pa_config *c, uint64_t step) {
    double mean = c->data.piece_starts * c->train.global_batch;
    if (!(mean > 0)) return 0;
    int starts = (int)(mean + pa_uniform(pa_random((uint64_t)c->train.seed, PA_RANDOM_STARTS, step, 0)));
    return starts < c->train.global_batch ? starts : c->train.global_batch;
}

static bool is_start(const pa_config *c, uint64_t w) {
    uint64_t batch = (uint64_t)c->train.global_batch;
    return w % batch + (uint64_t)pa_step_starts(c, w / batch) >= batch;
}

// Half of all starts have no prefix: so a piece is scored and generated from its first token on.
int pa_window_prefix(const pa_config *c, uint64_t w) {
    enum { PARTS = 16 };
    int prefix = c->model.prefix;
    if (!is_start(c, w)) return prefix;
    uint64_t step = w / (uint64_t)c->train.global_batch;
    int part = (int)pa_below(pa_random((uint64_t)c->train.seed, PA_RANDOM_STARTS, step, 1), 2 * PARTS) - (PARTS - 1);
    return part > 0 ? (int)((int64_t)prefix * part / PARTS) : 0;
}

void pa_sampler_window(pa_sampler *s, uint64_t w, uint16_t *out) {
    const pa_config *c = s->config;
    const pa_token_set *t = s->tokens;
    int context = c->model.context;
    int64_t number;
    if (c->data.sampling == PA_SAMPLING_PIECE) {
        int64_t epoch = (int64_t)(w / (uint64_t)t->pieces);
        if (epoch != s->epoch) shuffle(s, epoch);
        number = s->order[w % (uint64_t)t->pieces];
    } else {
        number =
            pa_token_set_find(t, (int64_t)pa_below(draw(s, PA_RANDOM_ORDER, w, 0), (uint64_t)(t->tokens + t->pieces)));
    }
    pa_token_piece piece = pa_token_set_piece(t, number);
    int64_t start = is_start(c, w) ? 0 : crop_start(&piece, context, draw(s, PA_RANDOM_CROP, w, 0));
    if (!c->data.augment_transpose && !c->data.augment_velocity && c->data.augment_stretch == 0) {
        copy_window(&piece, start, context + 1, out);
        return;
    }
    double factor = 1 + c->data.augment_stretch * (2 * pa_uniform(draw(s, PA_RANDOM_AUGMENT, w, 2)) - 1);
    stretch(&piece, start, factor, draw_offset(s, w, 1, c->data.augment_velocity), out, context + 1);
    transpose(out, context + 1, draw_offset(s, w, 0, c->data.augment_transpose));
}

// Knuth's selection sampling (TAOCP 2, 3.4.2, algorithm S).
void pa_keep_positions(uint64_t seed, uint64_t w, int prefix, int kept, int32_t *keep) {
    int chosen = 0;
    for (int i = 0; i < prefix && chosen < kept; i++)
        if (pa_uniform(pa_random(seed, PA_RANDOM_PREFIX, w, (uint64_t)i)) * (prefix - i) < kept - chosen)
            keep[chosen++] = i;
}

uint16_t pa_greatest(const uint16_t *token, size_t count) {
    uint16_t greatest = 0;
    for (size_t i = 0; i < count; i++) greatest = token[i] > greatest ? token[i] : greatest;
    return greatest;
}
