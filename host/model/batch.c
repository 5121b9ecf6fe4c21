// batch.c: see batch.h.
#include "host/model/batch.h"

static pa_status check(const pa_context *c, const pa_batch *b, pa_err *err) {
    const pa_model *m = &c->params->model;
    int most = c->open.max_batch ? c->open.max_batch : (c->open.streams ? 1 : 0);
    int prefix = b->length - b->latents, kept = b->keep ? b->kept : prefix;
    if (b->batch < 1 || b->batch > most)
        return pa_error(err, PA_USAGE, "batch: expected 1 to %d sequences, found %d", most, b->batch);
    if (b->latents < 1 || b->latents > pa_latents(m))
        return pa_error(err, PA_USAGE, "batch: expected 1 to %d latents, found %d", pa_latents(m), b->latents);
    if (prefix < 0 || prefix > m->prefix)
        return pa_error(err, PA_USAGE, "batch: expected a prefix of 0 to %d tokens, found %d", m->prefix, prefix);
    if (kept < 0 || kept > prefix)
        return pa_error(err, PA_USAGE, "batch: expected 0 to %d kept prefix positions, found %d", prefix, kept);
    return PA_OK;
}

// Row r is token `at` of `input`, and what is added to its embedding.
static void fill_row(const pa_model *m, const pa_slot *s, int r, const uint16_t *input, int at, pa_keyboard *k) {
    const size_t rows = (size_t)s->B * (size_t)(s->K + s->N);
    s->host.token[r] = input[at];
    s->host.position[r] = at;
    pa_bag_rows(m, k, input, at, s->host.bag + r, rows);
}

// Kept prefix rows, then latent rows.
static pa_status fill_rows(const pa_context *c, const pa_slot *s, const pa_batch *b, pa_err *err) {
    const pa_model *m = &c->params->model;
    const int prefix = s->M - s->N, Q = s->B * s->K;
    for (int i = 0; i < s->B * s->M; i++)
        if (b->input[i] >= m->vocab)
            return pa_error(err, PA_USAGE, "batch: expected tokens below %d, found %d", m->vocab, (int)b->input[i]);
    for (int i = 0; i < s->B; i++) {
        const uint16_t *input = b->input + i * s->M;
        pa_keyboard k;
        pa_keyboard_clear(&k);
        for (int j = 0; j < s->K; j++) {
            int at = b->keep ? b->keep[i * s->K + j] : j;
            if (at < 0 || at >= prefix)
                return pa_error(err, PA_USAGE, "batch: kept position %d is not in the prefix of %d", at, prefix);
            fill_row(m, s, i * s->K + j, input, at, &k);
        }
        for (int j = 0; j < s->N; j++) fill_row(m, s, Q + i * s->N + j, input, prefix + j, &k);
    }
    return PA_OK;
}

static pa_status fill(const pa_context *c, pa_slot *s, const pa_batch *b, pa_err *err) {
    pa_status e = check(c, b, err);
    if (e) return e;
    s->B = b->batch;
    s->M = b->length;
    s->N = b->latents;
    s->K = b->keep ? b->kept : b->length - b->latents;
    s->dropout = c->open.training && b->window && c->params->model.dropout > 0;
    s->last = b->last && c->info.ranks;
    for (int i = 0; i < s->B * s->N; i++) s->host.target[i] = b->target ? b->target[i] : UINT16_MAX;
    for (int i = 0; i < s->B; i++) s->host.window[i] = b->window ? b->window[i] : 0;
    return fill_rows(c, s, b, err);
}

pa_status pa_send_batch(pa_context *c, const pa_batch *b, pa_slot **slot, pa_err *err) {
    if (c->info.unified) {
        *slot = &c->slot[0];
        return fill(c, *slot, b, err);
    }
    pa_slot *s = &c->slot[c->filled == c->slot];
    if (s == c->staged) s = c->filled;
    int i = (int)(s - c->slot);
    // Its previous batch belonged to the call before the last: this waits only if the host is two calls ahead.
    pa_status e = c->ops->slot_wait(c->device, i, err);
    if (e || (e = fill(c, s, b, err))) return e;
    if ((e = c->ops->slot_send(c->device, i, s->device, s->host.token, c->input_bytes, err))) return e;
    c->filled = s;
    *slot = s;
    return PA_OK;
}

pa_status pa_take_batch(pa_context *c, pa_slot *s, float loss_scale, pa_err *err) {
    int i = (int)(s - c->slot);
    c->B = s->B;
    c->M = s->M;
    c->N = s->N;
    c->K = s->K;
    c->Q = c->B * c->K;
    c->R = c->B * c->N;
    c->dropout = s->dropout;
    c->last = s->last;
    *s->scalars = (pa_scalars){.loss_scale = loss_scale};
    if (c->info.unified) return PA_OK;
    pa_status e = c->ops->slot_take(c->device, i, c->in.token, s->device, c->input_bytes, err);
    if (!e) e = c->ops->upload(c->device, c->scalars, s->scalars, sizeof *c->scalars, err);
    return e ? e : c->ops->slot_free(c->device, i, err);
}

pa_status pa_context_stage(pa_context *c, const pa_batch *b, pa_err *err) {
    if (!c->dz) return pa_error(err, PA_USAGE, "stage: this context was not opened for training");
    return pa_send_batch(c, b, &c->staged, err);
}
