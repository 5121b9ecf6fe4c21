// score.c: cuts pieces into windows, runs them in batches of one shape, and sums what the model gave each token. See
// score.h.
#include "host/play/score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/philox.h"
#include "host/base/progress.h"

enum { SHAPES = 8 };

// Inputs piece[start .. start + prefix + latents); the latents [skip, skip + count) are scored.
typedef struct {
    int64_t piece, start;
    int prefix, latents, skip, count;
} window;

typedef struct {
    window *item;
    size_t count, room;
} plan;

// The buffers of a batch.
typedef struct {
    const pa_scoring *x;
    const pa_model *model;
    const pa_token_set *tokens;
    int batch;
    int64_t pieces;
    uint16_t *input, *target, *best;
    float *nats, *logits;
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

int pa_score_batch(const pa_model *m) {
    int batch = PA_BUSY_LATENTS / pa_latents(m);
    return batch > 1 ? batch : 1;
}

static pa_status scorer_init(scorer *r, const pa_scoring *x, bool logits, pa_err *err) {
    const pa_model *m = x->model;
    *r = (scorer){.x = x, .model = m, .tokens = x->tokens, .batch = x->batch ? x->batch : pa_score_batch(m)};
    r->pieces = x->pieces > 0 && x->pieces < x->tokens->pieces ? x->pieces : x->tokens->pieces;
    if (m->vocab != PA_VOCAB) return pa_error(err, PA_USAGE, "model.vocab: expected %d to score tokens, found %d", PA_VOCAB, m->vocab);
    size_t B = (size_t)r->batch, rows = B * (size_t)(m->context - m->prefix);
    r->input = malloc(B * (size_t)m->context * sizeof *r->input);
    r->target = malloc(rows * sizeof *r->target);
    r->best = malloc(rows * sizeof *r->best);
    r->nats = malloc(rows * sizeof *r->nats);
    r->logits = logits ? malloc(rows * PA_VOCAB * sizeof *r->logits) : NULL;
    if (r->input && r->target && r->best && r->nats && (r->logits || !logits)) return PA_OK;
    return pa_error(err, PA_FAIL, "no memory to score %d windows at a time", r->batch);
}

static void scorer_clear(scorer *r) {
    free(r->input);
    free(r->target);
    free(r->best);
    free(r->nats);
    free(r->logits);
}

static void add_token(pa_score *score, uint16_t target, uint16_t best, float nats) {
    int c = class_of(target);
    score->nats[c] += (double)nats;
    score->tokens[c]++;
    score->correct[c] += best == target;
}

// ---- whole pieces

static bool add_window(plan *p, window w) {
    if (p->count == p->room) {
        size_t room = p->room ? 2 * p->room : 1024;
        window *larger = realloc(p->item, room * sizeof *larger);
        if (!larger) return false;
        p->item = larger;
        p->room = room;
    }
    p->item[p->count++] = w;
    return true;
}

// The windows of a piece. Its last token is no input. Of the last window as many latents are computed as SHAPES steps
// allow, a few too many, so that the last windows of pieces share shapes and can share batches; what lies behind the
// end is seen by no token before it.
static bool plan_piece(plan *p, const pa_model *m, const pa_token_set *t, int64_t piece, int stride) {
    int64_t inputs = pa_token_set_piece(t, piece).count - 1;
    int P = m->prefix, N = m->context - P, step = (N + SHAPES - 1) / SHAPES;
    for (int64_t done = 0; done < inputs;) {
        window w = {.piece = piece, .prefix = P};
        int room = N;
        if (done < P) { // the prefix of the first full window, piece by piece
            w.prefix = (int)done;
            room = P - w.prefix < N ? P - w.prefix : N;
        } else if (done > P) {
            w.start = done + stride - m->context;
            w.skip = N - stride;
        }
        int64_t left = inputs - w.start - w.prefix;
        w.latents = left < room ? ((int)left + step - 1) / step * step : room;
        if (w.latents > room) w.latents = room;
        w.count = (int)(left < room ? left : room) - w.skip;
        done += w.count;
        if (!add_window(p, w)) return false;
    }
    return true;
}

// Largest first, equal shapes together, then in order of the music.
static int by_shape(const void *x, const void *y) {
    const window *a = x, *b = y;
    if (a->latents != b->latents) return a->latents > b->latents ? -1 : 1;
    if (a->prefix != b->prefix) return a->prefix > b->prefix ? -1 : 1;
    if (a->piece != b->piece) return a->piece < b->piece ? -1 : 1;
    return a->start < b->start ? -1 : a->start > b->start;
}

static void gather(scorer *r, const window *w, int slot) {
    const pa_token_piece p = pa_token_set_piece(r->tokens, w->piece);
    const uint16_t *token = p.token + w->start;
    int64_t left = p.count - w->start;
    int length = w->prefix + w->latents;
    uint16_t *input = r->input + (size_t)slot * (size_t)length, *target = r->target + (size_t)slot * (size_t)w->latents;
    for (int i = 0; i < length; i++) input[i] = i < left ? token[i] : PA_PAD;
    for (int n = 0; n < w->latents; n++)
        target[n] = n >= w->skip && n < w->skip + w->count ? token[w->prefix + n + 1] : PA_PAD; // PAD is not scored
}

static pa_status score_windows(scorer *r, const window *w, int batch, pa_score *score, pa_err *err) {
    for (int b = 0; b < batch; b++) gather(r, &w[b], b);
    pa_batch x = {.batch = batch, .length = w->prefix + w->latents, .latents = w->latents, .input = r->input, .target = r->target};
    x.kept = w->prefix;
    double sum;
    pa_status s = r->x->backend->loss(r->x->ctx, &x, &sum, &(pa_scores){.nats = r->nats, .best = r->best}, err);
    for (int b = 0; b < batch && !s; b++)
        for (int n = w[b].skip; n < w[b].skip + w[b].count; n++) {
            size_t at = (size_t)b * (size_t)w->latents + (size_t)n;
            add_token(score, r->target[at], r->best[at], r->nats[at]);
        }
    return s;
}

// Plans the windows of all pieces, and adds up their notes and seconds.
static pa_status plan_pieces(const scorer *r, int stride, plan *p, pa_score *score, pa_err *err) {
    for (int64_t i = 0; i < r->pieces; i++) {
        const pa_token_piece piece = pa_token_set_piece(r->tokens, i);
        score->notes += piece.notes;
        score->seconds += piece.seconds;
        if (!plan_piece(p, r->model, r->tokens, i, stride))
            return pa_error(err, PA_FAIL, "no memory for the windows of %lld pieces", (long long)r->pieces);
    }
    if (p->count) qsort(p->item, p->count, sizeof *p->item, by_shape);
    return PA_OK;
}

pa_status pa_score_pieces(const pa_scoring *x, int stride, pa_score *score, pa_err *err) {
    scorer r = {0};
    plan p = {0};
    pa_progress bar;
    int N = x->model->context - x->model->prefix;
    double total = 0;
    *score = (pa_score){0};
    if (!stride) stride = pa_score_stride(x->model);
    if (stride < 1 || stride > N) return pa_error(err, PA_USAGE, "stride: expected 1 to %d, the latents of a window, found %d", N, stride);
    pa_status s = scorer_init(&r, x, false, err);
    if (!s) s = plan_pieces(&r, stride, &p, score, err);
    if (s) goto done;
    for (size_t i = 0; i < p.count; i++) total += p.item[i].count;
    pa_progress_start(&bar, "scoring", "tokens", total);
    for (size_t i = 0; i < p.count && !s;) {
        const window *w = &p.item[i];
        int same = 1;
        while (same < r.batch && i + (size_t)same < p.count && w[same].prefix == w->prefix && w[same].latents == w->latents) same++;
        s = score_windows(&r, w, same, score, err);
        i += (size_t)same;
        pa_progress_update(&bar, (double)pa_score_tokens(score));
    }
    pa_progress_end(&bar);
done:
    free(p.item);
    scorer_clear(&r);
    return s;
}

// ---- crops

// As process_midi in train.py of the seed project.
static void gather_crop(scorer *r, int64_t piece, uint64_t seed, int slot) {
    const pa_token_piece p = pa_token_set_piece(r->tokens, piece);
    const pa_model *m = r->model;
    const uint16_t *token = p.token;
    int64_t n = p.count, start = 0;
    uint16_t *input = r->input + (size_t)slot * (size_t)m->context;
    uint16_t *target = r->target + (size_t)slot * (size_t)(m->context - m->prefix);
    if (n > m->context) start = (int64_t)pa_below(pa_random(seed, PA_RANDOM_EVAL, (uint64_t)piece, 0), (uint64_t)(n - m->context));
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
    int N = r->model->context - r->model->prefix;
    double sum = 0;
    int64_t count = 0;
    for (int n = 0; n < N; n++) {
        size_t at = (size_t)slot * (size_t)N + (size_t)n;
        uint16_t target = r->target[at];
        if (target != PA_PAD) add_token(score, target, r->best[at], r->nats[at]);
        if (!seed_too || target == 0) continue;
        sum += target == PA_PAD ? nats_of(r->logits + at * PA_VOCAB, PA_PAD) : (double)r->nats[at];
        count++;
    }
    if (!count) return;
    score->seed_sum += sum / (double)count;
    score->seed_crops++;
}

// What each piece gave, from all ranks, in the order of pieces: however many ranks, one answer.
static pa_status add_crops(pa_comm *comm, pa_score *crop, int64_t pieces, bool stopped, pa_score *score, pa_err *err) {
    double stops = stopped;
    pa_status s = pa_comm_sum_f64(comm, &stops, 1, err);
    pa_span *of = calloc((size_t)comm->size, sizeof *of);
    if (!s && !of) s = pa_error(err, PA_FAIL, "no memory for the scores of %d ranks", comm->size);
    if (!s && stops > 0) s = PA_STOPPED;
    for (int r = 0; r < comm->size && !s; r++)
        of[r] = (pa_span){(size_t)(pieces * r / comm->size) * sizeof *crop, (size_t)(pieces * (r + 1) / comm->size) * sizeof *crop};
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
static pa_status score_batch_of_crops(scorer *r, const pa_crops *how, int64_t first, int count, pa_score *crop, pa_err *err) {
    const pa_model *m = r->model;
    double sum;
    for (int b = 0; b < count; b++) gather_crop(r, first + b, how->seed, b);
    pa_batch x = {.batch = count, .length = m->context, .latents = m->context - m->prefix, .input = r->input, .target = r->target};
    x.kept = m->prefix;
    pa_status s = r->x->backend->loss(r->x->ctx, &x, &sum, &(pa_scores){.nats = r->nats, .best = r->best, .logits = r->logits}, err);
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
    for (int64_t p = first; p < end && !s; p += r.batch) {
        int count = end - p < r.batch ? (int)(end - p) : r.batch;
        if ((stopped = how->stop && *how->stop)) break;
        s = score_batch_of_crops(&r, how, p, count, crop + p, err);
        if (shown) pa_progress_update(&bar, (double)(p + count - first));
    }
    if (shown) pa_progress_end(&bar);
    if (!s) s = add_crops(comm, crop, r.pieces, stopped, score, err);
    free(crop);
    scorer_clear(&r);
    return s;
}
