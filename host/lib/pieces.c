// pieces.c: see pieces.h.
#include "host/lib/pieces.h"

#include <stdlib.h>

#include "tokenizer/tokens.h"

enum { SHAPES = 8 };

// Inputs piece[start .. start + prefix + latents); the latents [skip, skip + count) are scored.
typedef struct {
    size_t piece;
    int64_t start;
    int prefix, latents, skip, count;
} window;

typedef struct {
    window *item;
    size_t count, room;
} plan;

typedef struct {
    const pa_pieces *x;
    pa_scored_batch batch;
} scorer;

int pa_pieces_batch(const pa_model *m) {
    int batch = PA_BUSY_LATENTS / pa_latents(m);
    return batch > 1 ? batch : 1;
}

pa_status pa_scored_batch_init(pa_scored_batch *b, int vocab, int batch, int context, int latents, bool logits,
                               pa_err *err) {
    *b = (pa_scored_batch){0};
    if (vocab != PA_VOCAB)
        return pa_error(err, PA_USAGE, "model.vocab: expected %d to score tokens, found %d", PA_VOCAB, vocab);
    size_t rows = (size_t)batch * (size_t)latents;
    b->input = malloc((size_t)batch * (size_t)context * sizeof *b->input);
    b->target = malloc(rows * sizeof *b->target);
    b->best = malloc(rows * sizeof *b->best);
    b->nats = malloc(rows * sizeof *b->nats);
    b->logits = logits ? malloc(rows * PA_VOCAB * sizeof *b->logits) : NULL;
    if (b->input && b->target && b->best && b->nats && (b->logits || !logits)) return PA_OK;
    return pa_error(err, PA_FAIL, "no memory to score %d windows at a time", batch);
}

void pa_scored_batch_clear(pa_scored_batch *b) {
    free(b->input);
    free(b->target);
    free(b->best);
    free(b->nats);
    free(b->logits);
}

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

// The windows of a piece. Its last token is only a target. The latents of the last window are rounded up to one of
// SHAPES sizes, so that last windows of several pieces share shapes and batches; no token sees what lies behind the
// end.
static bool plan_piece(plan *p, const pa_pieces *x, size_t piece, int stride) {
    const pa_model *m = x->model;
    int64_t inputs = (int64_t)x->piece[piece].count - 1;
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
    const patrain_piece *p = &r->x->piece[w->piece];
    const uint16_t *token = p->tokens + w->start;
    int64_t left = (int64_t)p->count - w->start;
    int length = w->prefix + w->latents;
    uint16_t *input = r->batch.input + (size_t)slot * (size_t)length,
             *target = r->batch.target + (size_t)slot * (size_t)w->latents;
    for (int i = 0; i < length; i++) input[i] = i < left ? token[i] : PA_PAD;
    for (int n = 0; n < w->latents; n++)
        target[n] = n >= w->skip && n < w->skip + w->count ? token[w->prefix + n + 1] : PA_PAD; // PAD is not scored
}

static pa_status score_windows(scorer *r, const window *w, int batch, pa_err *err) {
    const pa_pieces *x = r->x;
    double sum;
    for (int b = 0; b < batch; b++) gather(r, &w[b], b);
    pa_batch all = {.batch = batch,
                    .length = w->prefix + w->latents,
                    .latents = w->latents,
                    .input = r->batch.input,
                    .target = r->batch.target};
    all.kept = w->prefix;
    pa_status s = x->backend->loss(x->ctx, &all, &sum, &(pa_scores){.nats = r->batch.nats, .best = r->batch.best}, err);
    for (int b = 0; b < batch && !s; b++) {
        size_t at = (size_t)b * (size_t)w->latents + (size_t)w[b].skip;
        const patrain_scored run = {.piece = w[b].piece,
                                    .first = (size_t)(w[b].start + w[b].prefix + w[b].skip + 1),
                                    .count = (size_t)w[b].count,
                                    .nats = r->batch.nats + at,
                                    .best = r->batch.best + at,
                                    .context = (size_t)(w[b].prefix + w[b].skip + 1)};
        x->scored(x->arg, &run);
    }
    return s;
}

static pa_status plan_pieces(const pa_pieces *x, int stride, plan *p, pa_err *err) {
    for (size_t i = 0; i < x->pieces; i++)
        if (!plan_piece(p, x, i, stride))
            return pa_error(err, PA_FAIL, "no memory for the windows of %zu pieces", x->pieces);
    if (p->count) qsort(p->item, p->count, sizeof *p->item, by_shape);
    return PA_OK;
}

pa_status pa_pieces_score(const pa_pieces *x, pa_err *err) {
    scorer r = {.x = x};
    plan p = {0};
    int N = pa_latents(x->model), stride = x->stride ? x->stride : pa_pieces_stride(x->model);
    if (stride < 1 || stride > N)
        return pa_error(err, PA_USAGE, "stride: expected 1 to %d, the latents of a window, found %d", N, stride);
    pa_status s = pa_scored_batch_init(&r.batch, x->model->vocab, x->batch, x->model->context, N, false, err);
    if (!s) s = plan_pieces(x, stride, &p, err);
    for (size_t i = 0; i < p.count && !s;) {
        const window *w = &p.item[i];
        int same = 1;
        while (same < x->batch && i + (size_t)same < p.count && w[same].prefix == w->prefix &&
               w[same].latents == w->latents)
            same++;
        s = score_windows(&r, w, same, err);
        i += (size_t)same;
    }
    free(p.item);
    pa_scored_batch_clear(&r.batch);
    return s;
}
