// pieces.h: cuts pieces into windows, so that every token is scored once with the most context there is, and scores
// them in batches of one shape.
#ifndef PA_PIECES_H
#define PA_PIECES_H

#include "host/model/backend.h"
#include "include/patrain.h"

// Windows at a time: about PA_BUSY_LATENTS latents.
int pa_pieces_batch(const pa_model *m);
static inline int pa_pieces_stride(const pa_model *m) { // unless set: half of the latents
    return pa_latents(m) > 1 ? pa_latents(m) / 2 : 1;
}

// The buffers of a batch of scored windows.
typedef struct {
    uint16_t *input, *target, *best;
    float *nats, *logits; // logits: NULL unless wanted
} pa_scored_batch;

// PA_USAGE where the model's vocabulary is not that of tokens.
pa_status pa_scored_batch_init(pa_scored_batch *b, int vocab, int batch, int context, int latents, bool logits,
                               pa_err *err);
void pa_scored_batch_clear(pa_scored_batch *b);

typedef struct {
    const pa_backend *backend;
    pa_context *ctx;
    const pa_model *model;
    const patrain_piece *piece;
    size_t pieces;
    int batch;  // windows at a time, at most what ctx was opened for
    int stride; // 0: pa_pieces_stride
    void (*scored)(void *arg, const patrain_scored *run);
    void *arg;
} pa_pieces;

// As patrain_scorer_pieces. What is scored does not depend on the batch, nor does its order.
pa_status pa_pieces_score(const pa_pieces *x, pa_err *err);

#endif
