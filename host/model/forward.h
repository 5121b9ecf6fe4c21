// forward.h: the model's forward pass and its loss.
#ifndef PA_FORWARD_H
#define PA_FORWARD_H

#include "host/model/context.h"

// Called when a block's keys and values are ready.
typedef pa_status (*pa_keep)(pa_context *c, int block, int stream, pa_err *err);
// Embeds the current batch and runs all blocks; the result is zf. With keep, the last block computes only the last
// latent's row, and zf has only that.
pa_status pa_forward(pa_context *c, pa_keep keep, int stream, pa_err *err);
// Logits of zf's first `rows` rows, ld numbers apart.
pa_status pa_logits(pa_context *c, int rows, int ld, pa_err *err);
pa_status pa_context_loss(pa_context *c, const pa_batch *b, double *sum, const pa_scores *scores, pa_err *err);

// For the backward pass. pa_enter normalises a block's input: z = x + r where r is given (the previous block's last
// product), else x.
void pa_enter(pa_context *c, int block, const float *x, const float *r, float *z);
// A block from its normalised input to the feed-forward's activation, all that the backward pass reads.
pa_status pa_recompute(pa_context *c, int block, pa_err *err);
// Rotates a block's queries and keys in place: in a latent layer, where they lie in one row, by one call. sign -1:
// back.
void pa_turn_heads(pa_context *c, int block, void *q, void *k, float sign);
pa_attn pa_attention_of(const pa_context *c, int block);
pa_dropout pa_dropout_of(const pa_context *c, int block);

#endif
