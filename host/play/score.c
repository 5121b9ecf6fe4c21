// score.c: see score.h.
#include "host/play/score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/philox.h"
#include "host/base/progress.h"
#include "host/lib/pieces.h"

typedef struct {
    const pa_scoring *x;
    int64_t pieces;
    pa_scored_batch batch;
} scorer;

int64_t pa_score_tokens(const pa_score *s) {
    int64_t n = 0;
    for (int c = 0; c < PA_CLASSES; c++) n += s->tokens[c];
    return n;
}
double pa_score_nats(const pa_score *s) {
    double sum = 0;
    for (int c = 0; c < PA_CLASSES; c++) sum += s->nats[c];
    return sum;
}
double pa_score_loss(const pa_score *s) {
    int64_t n = pa_score_tokens(s);
    return n ? pa_score_nats(s) / (double)n : (double)NAN;
}
double pa_score_loss_seed(const pa_score *s) {
    return s->seed_crops ? s->seed_sum / (double)s->seed_crops : (double)NAN;
}

const char *pa_class_name(int c) {
    static const char *const name[PA_CLASSES] = {"NOTE_ON", "NOTE_OFF", "TIME_SHIFT", "VELOCITY", "END"};
    return name[c];
}

static int class_of(uint16_t token) {
    return pa_is_note_on(token)      ? PA_CLASS_NOTE_ON
           : pa_is_note_off(token)   ? PA_CLASS_NOTE_OFF
           : pa_is_time_shift(token) ? PA_CLASS_TIME_SHIFT
           : pa_is_velocity(token)   ? PA_CLASS_VELOCITY
                                     : PA_CLASS_END;
}

static pa_status scorer_init(scorer *r, const pa_scoring *x, bool logits, pa_err *err) {
    *r = (scorer){.x = x};
    r->pieces = x->pieces > 0 && x->pieces < x->tokens->pieces ? x->pieces : x->tokens->pieces;
    return pa_scored_batch_init(&r->batch, x->vocab, x->batch, x->context, x->context - x->prefix, logits, err);
}

void pa_score_add(pa_score *score, uint16_t target, uint16_t best, float nats) {
    int c = class_of(target);
    score->nats[c] += (double)nats;
    score->tokens[c]++;
    score->correct[c] += best == target;
}

// As process_midi in train.py of the original project.
static void gather_crop(scorer *r, int64_t piece, uint64_t seed, int slot) {
    const pa_scoring *m = r->x;
    const pa_token_piece p = pa_token_set_piece(m->tokens, piece);
    const uint16_t *token = p.token;
    int64_t n = p.count, start = 0;
    uint16_t *input = r->batch.input + (size_t)slot * (size_t)m->context;
    uint16_t *target = r->batch.target + (size_t)slot * (size_t)(m->context - m->prefix);
    if (n > m->context)
        start = (int64_t)pa_below(pa_random(seed, PA_RANDOM_EVAL, (uint64_t)piece, 0), (uint64_t)(n - m->context));
    for (int i = 0; i < m->context; i++) input[i] = start + i < n ? token[start + i] : PA_PAD;
    for (int i = m->prefix; i < m->context; i++) {
        int64_t at = start + i + 1;
        target[i - m->prefix] = at < n ? token[at] : at == n && n ? PA_END : PA_PAD;
    }
}

static double nats_of(const float *logits, int token) {
    double top = -INFINITY, sum = 0;
    for (int v = 0; v < PA_VOCAB; v++) top = (double)logits[v] > top ? (double)logits[v] : top;
    for (int v = 0; v < PA_VOCAB; v++) sum += exp((double)logits[v] - top);
    return log(sum) + top - (double)logits[token];
}

static void add_crop(const scorer *r, int slot, bool seed_too, pa_score *score) {
    int N = r->x->context - r->x->prefix;
    double sum = 0;
    int64_t count = 0;
    for (int n = 0; n < N; n++) {
        size_t at = (size_t)slot * (size_t)N + (size_t)n;
        uint16_t target = r->batch.target[at];
        if (target != PA_PAD) pa_score_add(score, target, r->batch.best[at], r->batch.nats[at]);
        if (!seed_too || target == 0) continue;
        sum += target == PA_PAD ? nats_of(r->batch.logits + at * PA_VOCAB, PA_PAD) : (double)r->batch.nats[at];
        count++;
    }
    if (!count) return;
    score->seed_sum += sum / (double)count;
    score->seed_crops++;
}

pa_status pa_share_lost(pa_comm *comm, pa_status s, pa_err *err) {
    double lost = s != PA_OK;
    pa_err why;
    pa_status sent = pa_comm_sum_f64(comm, &lost, 1, &why);
    if (sent) return pa_error(err, sent, "%s", why.text);
    return lost > 0 ? pa_comm_first_error(comm, s, err) : PA_OK;
}

// Collects each piece's score from all ranks in the order of pieces, so that the sum does not depend on the number of
// ranks.
static pa_status add_crops(pa_comm *comm, pa_score *crop, int64_t pieces, bool stopped, pa_score *score, pa_err *err) {
    double stops = stopped;
    pa_status s = pa_comm_sum_f64(comm, &stops, 1, err);
    pa_span *of = calloc((size_t)comm->size, sizeof *of);
    if (!s && !of) s = pa_error(err, PA_FAIL, "no memory for the scores of %d ranks", comm->size);
    if (!s && stops > 0) s = PA_STOPPED;
    for (int r = 0; r < comm->size && !s; r++)
        of[r] = (pa_span){(size_t)(pieces * r / comm->size) * sizeof *crop,
                          (size_t)(pieces * (r + 1) / comm->size) * sizeof *crop};
    if (!s) s = pa_comm_gather(comm, crop, of, err);
    for (int64_t p = 0; p < pieces && !s; p++) {
        for (int c = 0; c < PA_CLASSES; c++) {
            score->nats[c] += crop[p].nats[c];
            score->tokens[c] += crop[p].tokens[c];
            score->correct[c] += crop[p].correct[c];
        }
        score->seed_sum += crop[p].seed_sum;
        score->seed_crops += crop[p].seed_crops;
    }
    free(of);
    return s;
}

// Pieces [first, first + count), whose scores go to crop[0 ..].
static pa_status score_batch_of_crops(scorer *r, const pa_crops *how, int64_t first, int count, pa_score *crop,
                                      pa_err *err) {
    const pa_scoring *x = r->x;
    for (int b = 0; b < count; b++) gather_crop(r, first + b, how->seed, b);
    const patrain_windows w = {.size = sizeof w,
                               .batch = count,
                               .length = x->context,
                               .latents = x->context - x->prefix,
                               .input = r->batch.input,
                               .target = r->batch.target,
                               .nats = r->batch.nats,
                               .best = r->batch.best,
                               .logits = r->batch.logits};
    pa_status s = x->predict(x->arg, &w, err);
    for (int b = 0; b < count && !s; b++) add_crop(r, b, how->seed_too, &crop[b]);
    return s;
}

pa_status pa_score_crops(const pa_scoring *x, const pa_crops *how, pa_score *score, pa_err *err) {
    scorer r = {0};
    pa_progress bar;
    pa_comm single = pa_comm_single(), *comm = how->comm ? how->comm : &single;
    bool shown = !comm->rank, stopped = false;
    *score = (pa_score){0};
    pa_status s = scorer_init(&r, x, how->seed_too, err);
    pa_score *crop = calloc((size_t)r.pieces + 1, sizeof *crop);
    if (!s && !crop) s = pa_error(err, PA_FAIL, "no memory for scores");
    int64_t first = r.pieces * comm->rank / comm->size, end = r.pieces * (comm->rank + 1) / comm->size;
    if (shown) pa_progress_start(&bar, "evaluating", "pieces", (double)(end - first));
    for (int64_t p = first; p < end && !s; p += x->batch) {
        int count = end - p < x->batch ? (int)(end - p) : x->batch;
        if ((stopped = how->stop && *how->stop)) break;
        s = score_batch_of_crops(&r, how, p, count, crop + p, err);
        if (shown) pa_progress_update(&bar, (double)(p + count - first));
    }
    if (shown) pa_progress_end(&bar);
    if (!s || s == PA_DATA) s = pa_share_lost(comm, s, err);
    if (!s) s = add_crops(comm, crop, r.pieces, stopped, score, err);
    free(crop);
    pa_scored_batch_clear(&r.batch);
    return s;
}
