// draw.c: see draw.h.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/philox.h"
#include "host/lib/draw.h"

typedef struct {
    double weight; // a logit, later a probability not yet divided by the sum
    int token;
} candidate;

pa_sampling_options pa_sampling_default(void) {
    return (pa_sampling_options){.temperature = 0.9, .top_p = 1, .repetition_penalty = 1, .density = 1, .seed = 1};
}

pa_status pa_sampling_check(const pa_sampling_options *o, const pa_model *m, pa_err *err) {
    int N = m->context - m->prefix;
    if (m->vocab != PA_VOCAB)
        return pa_error(err, PA_USAGE, "model.vocab: expected %d to make music, found %d", PA_VOCAB, m->vocab);
    if (!(o->temperature >= 0 && o->temperature <= 100))
        return pa_error(err, PA_USAGE, "temperature: expected 0 (greedy) to 100, found %g", o->temperature);
    if (o->top_k < 0 || o->top_k > PA_VOCAB)
        return pa_error(err, PA_USAGE, "top-k: expected 1 to %d, or 0 for all, found %d", PA_VOCAB, o->top_k);
    if (!(o->top_p > 0 && o->top_p <= 1))
        return pa_error(err, PA_USAGE, "top-p: expected more than 0, at most 1, found %g", o->top_p);
    if (!(o->min_p >= 0 && o->min_p <= 1)) return pa_error(err, PA_USAGE, "min-p: expected 0 to 1, found %g", o->min_p);
    if (!(o->repetition_penalty >= 0.01 && o->repetition_penalty <= 100))
        return pa_error(err, PA_USAGE, "repetition-penalty: expected 0.01 to 100, found %g", o->repetition_penalty);
    if (o->refill < 0 || o->refill > N)
        return pa_error(err, PA_USAGE, "refill: expected 1 to %d, the latents of a window, or 0 for half, found %d", N,
                        o->refill);
    if (!(o->density >= 0.25 && o->density <= 4))
        return pa_error(err, PA_USAGE, "density: expected 0.25 to 4, found %g", o->density);
    return PA_OK;
}

static int by_weight(const void *x, const void *y) {
    const candidate *a = x, *b = y;
    if (a->weight != b->weight) return a->weight > b->weight ? -1 : 1;
    return a->token - b->token;
}

// The allowed tokens; *top is the most probable.
static pa_status list(const pa_sampling_options *o, const pa_draw *d, candidate *c, int *count, int *top, pa_err *err) {
    *count = 0;
    *top = 0;
    for (int t = 0; t < PA_VOCAB; t++) {
        double x = (double)d->logits[t];
        if (!isfinite(x)) return pa_error(err, PA_FAIL, "logits: expected finite numbers, found %g for token %d", x, t);
        if (t == PA_PAD || (t == PA_END && !o->stop_at_end)) continue;
        if (!*count || x > c[*top].weight) *top = *count;
        c[(*count)++] = (candidate){x, t};
    }
    return PA_OK;
}

// Keeps of sorted candidates those that top-k and top-p allow.
static int truncate_sorted(const pa_sampling_options *o, const candidate *c, int count) {
    double sum = 0, reached = 0;
    if (o->top_k && o->top_k < count) count = o->top_k;
    if (o->top_p >= 1) return count;
    for (int i = 0; i < count; i++) sum += c[i].weight;
    for (int i = 0; i < count; i++)
        if ((reached += c[i].weight) >= o->top_p * sum) return i + 1;
    return count;
}

// Shares the probability of the tokens first to last - 1, of all together as it is, by the temperature among them.
static void temper(const pa_draw *d, candidate *c, int count, int first, int last, double temperature) {
    double top = -HUGE_VAL, mass = 0, sum = 0;
    for (int i = 0; i < count; i++) {
        if (c[i].token < first || c[i].token >= last) continue;
        top = fmax(top, (double)d->logits[c[i].token]);
        mass += c[i].weight;
    }
    if (mass == 0) return;
    for (int i = 0; i < count; i++)
        if (c[i].token >= first && c[i].token < last)
            sum += c[i].weight = exp(((double)d->logits[c[i].token] - top) / temperature);
    for (int i = 0; i < count; i++)
        if (c[i].token >= first && c[i].token < last) c[i].weight *= mass / sum;
}

static double largest(const candidate *c, int count) {
    double most = 0;
    for (int i = 0; i < count; i++) most = fmax(most, c[i].weight);
    return most;
}

pa_status pa_draw_token(const pa_sampling_options *o, const pa_draw *d, uint16_t *token, pa_err *err) {
    candidate c[PA_VOCAB];
    int count, top, last = 0;
    double sum = 0;
    pa_status s = list(o, d, c, &count, &top, err);
    if (s) return s;
    *token = (uint16_t)c[top].token;
    if (d->chance) memset(d->chance, 0, PA_VOCAB * sizeof *d->chance);
    if (o->temperature == 0) {
        if (d->chance) d->chance[*token] = 1;
        return PA_OK;
    }
    double most = c[top].weight;
    for (int i = 0; i < count; i++) c[i].weight = exp(c[i].weight - most);
    temper(d, c, count, PA_NOTE_ON, PA_NOTE_OFF, o->temperature);
    temper(d, c, count, PA_VELOCITY, PA_END, o->temperature);
    double least = o->min_p * largest(c, count);
    if (o->top_k || o->top_p < 1) {
        qsort(c, (size_t)count, sizeof *c, by_weight);
        count = truncate_sorted(o, c, count);
    }
    for (int i = 0; i < count; i++)
        if (c[i].weight >= least) sum += c[i].weight;
    double left = pa_uniform(pa_random(o->seed, PA_RANDOM_SAMPLE, d->stream, d->index)) * sum;
    for (int i = 0; i < count; i++) {
        if (c[i].weight < least || c[i].weight == 0) continue;
        if (d->chance) d->chance[c[i].token] = c[i].weight / sum;
        if (left >= 0) last = i; // the last one, should rounding leave a rest
        left -= c[i].weight;
    }
    *token = (uint16_t)c[last].token;
    return PA_OK;
}
