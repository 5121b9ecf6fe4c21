// score.h: how well a model predicts token files: whole pieces with every token scored once, or one crop of each piece.
#ifndef PA_SCORE_H
#define PA_SCORE_H

#include "host/backend.h"
#include "host/data.h"

enum { PA_CLASS_NOTE_ON, PA_CLASS_NOTE_OFF, PA_CLASS_TIME_SHIFT, PA_CLASS_VELOCITY, PA_CLASS_END, PA_CLASSES };

typedef struct {
    double nats[PA_CLASSES];     // sums of -ln p(token)
    int64_t tokens[PA_CLASSES], correct[PA_CLASSES];
    int64_t notes;               // of the pieces scored
    double seconds;              // of music
    double seed_nats;            // the seed project's definition over its crops: PAD scored, token 0 left out
    int64_t seed_tokens;
} pa_score;

double pa_score_loss(const pa_score *s);      // nats a token over all classes
double pa_score_loss_seed(const pa_score *s); // NaN where there was none

// Every token of every piece but its first, and not END, exactly once: windows of `context` tokens advance by `stride`, each token is scored in
// the window that gives it the most context while it is among the latents; before the first full window, with a shorter prefix.
// `batch` windows at a time (what ctx was opened for). Windows are independent of one another, so the sum has one order.
pa_status pa_score_pieces(const pa_backend *backend, pa_context *ctx, const pa_model *m, const pa_tokens *t, int64_t pieces, int stride, int batch,
                          bool progress, pa_score *score, pa_err *err);
// One crop of `context` + 1 tokens of each of the first `pieces` pieces, its start drawn from (seed, piece), as in training (END included,
// PAD not scored), with the whole prefix. Fills seed_nats and seed_tokens too where seed_too (which needs the logits: slower).
pa_status pa_score_crops(const pa_backend *backend, pa_context *ctx, const pa_model *m, const pa_tokens *t, int64_t pieces, uint64_t seed, int batch,
                         bool seed_too, pa_score *score, pa_err *err);

#endif
