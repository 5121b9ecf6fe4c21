// reference.c: see reference.h. One sequence at a time, naive loops, the letters of model.md.
#include "tests/support/reference.h"

#include "host/base/philox.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const pa_params *p;
    const double *w;
    uint64_t seed, window;
    bool dropout;
    int P, K, N, C, H, D, I;
    int turned;            // rotary dims
    int *position;         // (K + N) of each key: kept prefix, then latents
    double *turn;          // of rotary
    const uint16_t *input; // a sequence's
    ref_rounding rounding;
} ref;

static double *take(size_t count) {
    double *x = calloc(count + 1, sizeof *x);
    assert(x);
    return x;
}

static const double *at(const ref *r, int row) {
    return row < 0 ? NULL : r->w + r->p->row[row].offset;
}

// To nearest, ties to even.
static double round_to(double x, int bits) {
    int exponent;
    double fraction = frexp(x, &exponent);
    return ldexp(rint(ldexp(fraction, bits)), exponent - bits);
}

static double rounded(ref *r, double x) {
    ref_rounding *o = &r->rounding;
    if (o->mode == REF_EXACT) return x;
    if (o->mode == REF_FROZEN) return x * o->factor[o->next++];
    if (o->next == o->capacity) {
        o->capacity = o->capacity ? 2 * o->capacity : 4096;
        o->factor = realloc(o->factor, o->capacity * sizeof *o->factor);
        assert(o->factor);
    }
    double y = round_to(x, o->bits ? o->bits : 8);
    o->factor[o->next++] = x != 0 ? y / x : 1;
    return y;
}

static void round_all(ref *r, double *x, size_t count) {
    if (r->rounding.mode == REF_EXACT) return;
    for (size_t i = 0; i < count; i++) x[i] = rounded(r, x[i]);
}

// y (rows, out) = x (rows, in) w^T, w (out, in). With w turned and nothing shared, so that the compiler makes vectors
// of the inner loop.
static void product(ref *r, double *restrict y, const double *restrict x, const double *w, int rows, int in, int out) {
    double *restrict turned = take((size_t)in * out);
    for (int j = 0; j < out; j++)
        for (int i = 0; i < in; i++) turned[(size_t)i * out + j] = rounded(r, w[(size_t)j * in + i]);
    for (int n = 0; n < rows; n++) {
        for (int j = 0; j < out; j++) y[(size_t)n * out + j] = 0;
        for (int i = 0; i < in; i++)
            for (int j = 0; j < out; j++) y[(size_t)n * out + j] += x[(size_t)n * in + i] * turned[(size_t)i * out + j];
    }
    free(turned);
}

static void linear(ref *r, double *y, const double *x, const double *w, int rows, int in, int out) {
    product(r, y, x, w, rows, in, out);
    round_all(r, y, (size_t)rows * out);
}

static void layer_norm(ref *r, double *y, const double *x, const double *w, const double *b, int rows) {
    for (int n = 0; n < rows; n++, x += r->C, y += r->C) {
        double mean = 0, variance = 0;
        for (int c = 0; c < r->C; c++) mean += x[c] / r->C;
        for (int c = 0; c < r->C; c++) variance += (x[c] - mean) * (x[c] - mean) / r->C;
        for (int c = 0; c < r->C; c++) y[c] = rounded(r, (x[c] - mean) / sqrt(variance + 1e-5) * w[c] + b[c]);
    }
}

// Each head's D numbers over their root mean square, times w (D).
static void head_norm(ref *r, double *x, const double *w, int rows) {
    for (int g = 0; w && g < rows * r->H; g++, x += r->D) {
        double squares = 0;
        for (int d = 0; d < r->D; d++) squares += x[d] * x[d] / r->D;
        for (int d = 0; d < r->D; d++) x[d] = rounded(r, x[d] / sqrt(squares + 1e-6) * w[d]);
    }
}

// With T = turned, dims (j, j + T/2) turn by position * 10000^(-2j/T), j < T/2; dims from T on stay.
static void rotary(ref *r, double *x, const int *position, int rows) {
    int half = r->turned / 2;
    for (int n = 0; n < rows; n++)
        for (int h = 0; h < r->H; h++, x += r->D) {
            for (int j = 0; j < half; j++) {
                const double *turn = r->turn + 2 * ((size_t)position[n] * half + j), a = x[j], b = x[j + half];
                x[j] = a * turn[0] - b * turn[1];
                x[j + half] = b * turn[0] + a * turn[1];
            }
            for (int d = 0; d < r->turned; d++) x[d] = rounded(r, x[d]);
        }
}

// Cosine and sine of each position's turns, (length, turned / 2, 2).
static double *turns(const ref *r, int length) {
    int half = r->turned / 2;
    double *turn = take((size_t)length * r->turned);
    for (int i = 0; i < length * half; i++) {
        double angle = i / half * pow(10000, -2.0 * (i % half) / r->turned);
        turn[2 * i] = cos(angle);
        turn[2 * i + 1] = sin(angle);
    }
    return turn;
}

// Dropout: 0 with probability p, else 1 / (1 - p). Element `at` of a run of draws takes one of the four words of draw
// at / 4. Weights of cross-attention: a run for each layer, head and query; of the feed-forward: one for each layer and
// row of the sequence.
static double survives(const ref *r, uint64_t run, size_t at) {
    double p = (double)(float)r->p->model.dropout;
    if (!r->dropout || p == 0) return 1;
    uint32_t draw = pa_random(r->seed, PA_RANDOM_DROPOUT, r->window, run + at / 4).v[at % 4];
    return draw < (uint32_t)(p * 0x1p32) ? 0 : 1 / (1 - p);
}

static uint64_t attention_run(int layer, int h, int n) {
    return 1ull << 63 | (uint64_t)layer << 52 | (uint64_t)h << 40 | (uint64_t)n << 20;
}

static uint64_t feed_forward_run(int layer, int n, int F) {
    return ((uint64_t)layer << 48) + (uint64_t)n * (uint64_t)((F + 3) / 4);
}

static bool crosses(const ref *r, int layer) {
    return layer < r->p->model.perceive_depth;
}

// o (N, H, D): query n sees the prefix keys, in cross-attention, and latent keys 0..n. k, v (K + N, H, D).
static void attention(ref *r, int layer, double *o, const double *q, const double *k, const double *v) {
    const bool cross = crosses(r, layer);
    const int K = cross ? r->K : 0;
    const double root = sqrt(r->D);
    double *weight = take((size_t)K + r->N);
    for (int n = 0; n < r->N; n++)
        for (int h = 0; h < r->H; h++) {
            double most = -INFINITY, sum = 0;
            const double *qn = q + (size_t)n * r->I + h * r->D;
            double *on = o + (size_t)n * r->I + h * r->D;
            for (int m = 0; m <= K + n; m++) {
                weight[m] = 0;
                for (int d = 0; d < r->D; d++) weight[m] += qn[d] * k[(size_t)m * r->I + h * r->D + d];
                weight[m] /= root;
                most = fmax(most, weight[m]);
            }
            for (int m = 0; m <= K + n; m++) sum += weight[m] = exp(weight[m] - most);
            for (int d = 0; d < r->D; d++) on[d] = 0;
            for (int m = 0; m <= K + n; m++) {
                double kept = cross ? survives(r, attention_run(layer, h, n), (size_t)m) : 1,
                       a = rounded(r, weight[m] / sum * kept);
                for (int d = 0; d < r->D; d++) on[d] += a * v[(size_t)m * r->I + h * r->D + d];
            }
            for (int d = 0; d < r->D; d++) on[d] = rounded(r, on[d]);
        }
    free(weight);
}

// z (N, C) += attention of a block; xp (K, C): the prefix, for a cross-attention.
static void attention_block(ref *r, int layer, double *z, const double *xp) {
    const pa_block_index *t = &r->p->block[layer];
    bool cross = crosses(r, layer);
    int N = r->N, C = r->C, I = r->I, K = cross ? r->K : 0;
    const double *wq = at(r, cross ? t->q : t->qkv);
    const double *wk = cross ? at(r, t->kv) : wq + (size_t)I * C, *wv = wk + (size_t)I * C;
    double *seen = take((size_t)(K + N) * C), *zn = seen + (size_t)K * C; // [LN(prefix) ; LN(z)]
    double *q = take((size_t)N * I), *k = take((size_t)(K + N) * I), *v = take((size_t)(K + N) * I);
    double *o = take((size_t)N * I), *y = take((size_t)N * C);
    if (cross) layer_norm(r, seen, xp, at(r, t->context_norm_w), at(r, t->context_norm_b), K);
    layer_norm(r, zn, z, at(r, t->norm_w), at(r, t->norm_b), N);
    linear(r, q, zn, wq, N, C, I);
    linear(r, k, seen, wk, K + N, C, I);
    linear(r, v, seen, wv, K + N, C, I);
    for (int n = 0; r->p->model.value_emb && n < (K + N) * I; n++) {
        const int token = r->input[r->position[r->K - K + n / I]];
        v[n] = rounded(r, v[n] + at(r, t->value_emb)[(size_t)token * I + n % I]);
    }
    head_norm(r, q, at(r, t->q_norm), N);
    head_norm(r, k, at(r, t->k_norm), K + N);
    rotary(r, q, r->position + r->K, N);
    rotary(r, k, r->position + r->K - K, K + N);
    attention(r, layer, o, q, k, v);
    linear(r, y, o, at(r, t->out_w), N, I, C);
    const double *bias = at(r, t->out_b);
    for (size_t i = 0; i < (size_t)N * C; i++) z[i] += y[i] + (bias ? bias[i % C] : 0);
    free(seen);
    free(q);
    free(k);
    free(v);
    free(o);
    free(y);
}

static double activation(pa_activation kind, double h) {
    if (kind == PA_SQRELU) return h > 0 ? h * h : 0;
    return 0.5 * h * (1 + erf(h / sqrt(2)));
}

static void feed_forward(ref *r, int layer, double *z) {
    const pa_block_index *t = &r->p->block[layer];
    int N = r->N, C = r->C, F = pa_ff(&r->p->model);
    double *zn = take((size_t)N * C), *h = take((size_t)N * F), *y = take((size_t)N * C);
    layer_norm(r, zn, z, at(r, t->ff_norm_w), at(r, t->ff_norm_b), N);
    linear(r, h, zn, at(r, t->ff_1), N, C, F);
    for (int n = 0; n < N; n++)
        for (int j = 0; j < F; j++) {
            double *g = &h[(size_t)n * F + j];
            *g = rounded(r, activation(r->p->model.activation, *g) *
                                survives(r, feed_forward_run(layer, n, F), (size_t)j));
        }
    linear(r, y, h, at(r, t->ff_4), N, F, C);
    for (int i = 0; i < N * C; i++) z[i] += y[i];
    free(zn);
    free(h);
    free(y);
}

// How many of the limits are at most `value`.
static int reached(const int *limit, int count, int value) {
    int n = 0;
    while (n < count && limit[n] <= value) n++;
    return n;
}

// Adds rows of keyboard_emb to x (C), token by token backwards from the last of a window's `count`.
static void add_keyboard(const ref *r, double *x, const uint16_t *input, int count) {
    static const int ages[] = {8, 24, 56, 120, 248, 504, 1016};
    int times[63], n = 0, row[2 + 4 + 24], rows = 0;
    for (int i = 1; i < 24; i++) times[n++] = i;
    for (int octave = 24; n < 63; octave *= 2)
        for (int i = 0; i < 8 && n < 63; i++) times[n++] = octave + i * octave / 8;
    bool seen[128] = {false};
    int ago = 0, onsets = 0, last_on = 0, releases = 0, held = 0;
    for (int i = count - 1; i >= 0; i--) {
        const int t = input[i], key = t % 128;
        if (t >= 256 && t < 356) ago += t - 255;
        if (t < 128) {
            if (!onsets || (onsets == 1 && ago - last_on >= 4)) row[rows++] = 64 * onsets++ + reached(times, 63, ago);
            last_on = ago;
            if (!seen[key] && held++ < 24) row[rows++] = 128 + 1024 + 8 * key + reached(ages, 7, ago);
        } else if (t < 256 && releases++ < 4) {
            row[rows++] = 128 + 8 * key + reached(ages, 7, ago);
        }
        if (t < 256) seen[key] = true;
    }
    const double *table = at(r, r->p->keyboard_emb);
    for (int i = 0; i < rows; i++)
        for (int c = 0; c < r->C; c++) x[c] += table[(size_t)row[i] * r->C + c];
}

// x (K + N, C): embeddings of the kept prefix, then of the latents.
static void embed(const ref *r, double *x, const uint16_t *input) {
    const double *token = at(r, r->p->token_emb), *place = at(r, r->p->pos_emb), *lags = at(r, r->p->lag_emb);
    for (int m = 0; m < r->K + r->N; m++) {
        for (int c = 0; c < r->C; c++) {
            const int at_m = r->position[m];
            double *sum = &x[(size_t)m * r->C + c];
            *sum = token[(size_t)input[at_m] * r->C + c] + (place ? place[(size_t)at_m * r->C + c] : 0);
            for (int lag = 1; lag <= r->p->model.lags && lag <= at_m; lag++)
                *sum += lags[((size_t)(lag - 1) * r->p->model.vocab + input[at_m - lag]) * r->C + c];
        }
        if (r->p->model.keyboard) add_keyboard(r, x + (size_t)m * r->C, input, r->position[m] + 1);
    }
}

// Adds to *loss; target NULL: nothing is scored.
static void score(const ref *r, ref_loss *loss, const double *logits, const uint16_t *target, double *nats) {
    int V = r->p->model.vocab;
    for (int n = 0; n < r->N; n++, logits += V) {
        if (nats) nats[n] = 0;
        if (!target || target[n] >= V - 1) continue;
        double most = -INFINITY, sum = 0;
        for (int j = 0; j < V; j++) most = fmax(most, logits[j]);
        for (int j = 0; j < V; j++) sum += exp(logits[j] - most);
        double ln_z = most + log(sum), value = ln_z - logits[target[n]];
        if (nats) nats[n] = value;
        loss->nats += value;
        loss->objective += value + r->p->model.z_loss * ln_z * ln_z;
        loss->scored++;
    }
}

static void sequence(ref *r, const pa_batch *b, int s, ref_loss *loss, double *logits, double *nats) {
    const pa_model *m = &r->p->model;
    int V = m->vocab, last = r->p->logits;
    for (int i = 0; i < r->K; i++) r->position[i] = b->keep ? b->keep[(size_t)s * r->K + i] : i;
    for (int i = 0; i < r->N; i++) r->position[r->K + i] = r->P + i;
    double *x = take((size_t)(r->K + r->N) * r->C), *z = x + (size_t)r->K * r->C;
    double *own = logits ? logits : take((size_t)r->N * V);
    r->input = b->input + (size_t)s * b->length;
    embed(r, x, r->input);
    for (int i = 0; i < m->perceive_depth + m->depth; i++) {
        attention_block(r, i, z, x);
        feed_forward(r, i, z);
    }
    if (m->final_norm)
        layer_norm(r, z, z, at(r, r->p->final_norm_w), at(r, r->p->final_norm_b), r->N);
    else
        round_all(r, z, (size_t)r->N * r->C);
    // Logits are not rounded: every backend keeps them in float32.
    product(r, own, z, at(r, m->tie_embeddings ? r->p->token_emb : last), r->N, r->C, V);
    score(r, loss, own, b->target ? b->target + (size_t)s * r->N : NULL, nats);
    if (!logits) free(own);
    free(x);
}

static ref_loss run(const pa_params *p, const double *w, const pa_batch *b, uint64_t seed, ref_rounding *rounding,
                    double *logits, double *nats) {
    const pa_model *m = &p->model;
    ref r = {.p = p, .w = w, .seed = seed, .dropout = b->window != NULL, .rounding = *rounding};
    r.C = m->dim;
    r.H = m->heads;
    r.D = m->dim_head;
    r.I = m->heads * m->dim_head;
    r.turned = m->rotary_dims ? m->rotary_dims : (m->dim_head / 2 > 32 ? m->dim_head / 2 : 32);
    r.turned = (r.turned < r.D ? r.turned : r.D) & ~1;
    r.N = b->latents;
    r.P = b->length - b->latents;
    r.K = b->keep ? b->kept : r.P;
    r.position = calloc((size_t)r.K + r.N, sizeof *r.position);
    assert(r.position);
    r.turn = turns(&r, b->length);
    ref_loss loss = {0};
    for (int s = 0; s < b->batch; s++) {
        r.window = b->window ? b->window[s] : 0;
        double *l = logits ? logits + (size_t)s * r.N * m->vocab : NULL;
        sequence(&r, b, s, &loss, l, nats ? nats + (size_t)s * r.N : NULL);
    }
    free(r.position);
    free(r.turn);
    *rounding = r.rounding;
    return loss;
}

ref_loss ref_forward(const pa_params *p, const double *w, const pa_batch *b, uint64_t seed,
                     const ref_rounding *rounding, double *logits, double *nats) {
    ref_rounding o = {0};
    if (rounding && rounding->mode == REF_FROZEN) o = *rounding;
    o.mode = rounding ? rounding->mode : REF_EXACT;
    o.bits = rounding ? rounding->bits : 0;
    o.next = 0;
    ref_loss loss = run(p, w, b, seed, &o, logits, nats);
    if (o.mode == REF_ROUND) free(o.factor);
    return loss;
}

ref_rounding ref_freeze(const pa_params *p, const double *w, const pa_batch *b, uint64_t seed, int bits) {
    ref_rounding o = {.mode = REF_ROUND, .bits = bits};
    run(p, w, b, seed, &o, NULL, NULL);
    o.mode = REF_FROZEN;
    o.next = 0;
    return o;
}
