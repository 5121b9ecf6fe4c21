// update.c: see update.h.
#include "host/model/update.h"

#include <math.h>

#include "host/model/backward.h"

enum { SCALING_STEPS = 2000 };

// The sum of squares over the sum of all ranks' gradients.
static pa_status square_norm(pa_context *c, pa_err *err) {
    double *sum = &c->sums[PA_SUM_SQUARES];
    if (c->info.ranks && c->ops->squares_by_rank) return c->ops->squares_by_rank(c->device, sum, c->grad, c->floats, err);
    c->ops->sum_squares(c->device, sum, c->own_grad ? c->own_grad : c->grad, c->own_grad ? c->own : c->floats, c->work.at);
    return c->own_grad ? c->ops->sum_f64(c->device, sum, err) : PA_OK;
}

// Parameters [own.from, own.to), whose gradients and moments begin at g and `moment`.
static void update_span(pa_context *c, pa_span own, float *g, size_t moment) {
    void *copy = c->weight ? (uint16_t *)c->weight + own.from : NULL;
    c->ops->adam(c->device, &(pa_adam){.params = c->params,
                                       .from = own.from,
                                       .to = own.to,
                                       .p = c->param + own.from,
                                       .g = g,
                                       .m = c->moment1 + moment,
                                       .v = c->moment2 + moment,
                                       .copy = copy,
                                       .type = c->type,
                                       .squares = &c->sums[PA_SUM_SQUARES],
                                       .scalars = c->scalars});
}

// This rank's shares only; then all ranks' parameters come together.
static pa_status update_shares(pa_context *c, pa_err *err) {
    const pa_comm *comm = c->open.comm;
    for (size_t b = 0, at = 0; b < pa_comm_buckets(comm, c->floats); b++) {
        pa_span own = pa_comm_share(comm, c->floats, b, comm->rank);
        update_span(c, own, c->own_grad ? c->own_grad + at : c->grad + own.from, at);
        at += own.to - own.from;
    }
    pa_status e = c->ops->clear(c->device, c->grad, c->floats * sizeof *c->grad, err);
    return e ? e : c->ops->gather(c->device, c->param, c->floats, err);
}

static pa_status apply(void *what, pa_err *err) {
    pa_context *c = what;
    pa_status e = c->ops->upload(c->device, c->scalars, c->host_scalars, sizeof *c->scalars, err);
    if (e || (e = square_norm(c, err))) return e;
    if (c->shared)
        e = update_shares(c, err);
    else
        update_span(c, (pa_span){0, c->floats}, c->grad, 0);
    if (!e) e = c->ops->download(c->device, c->host_sums, c->sums, PA_SUMS * sizeof *c->sums, err);
    return e ? e : c->ops->clear(c->device, &c->sums[PA_SUM_TOTAL], sizeof *c->sums, err);
}

// fp16: halved when a gradient overflowed, doubled after SCALING_STEPS steps without.
static void rescale_loss(pa_context *c, bool finite) {
    if (c->type != PA_TYPE_F16) return;
    if (!finite) {
        if (c->loss_scaling > 1) c->loss_scaling /= 2;
        c->good_steps = 0;
    } else if (++c->good_steps == SCALING_STEPS) {
        if (c->loss_scaling < 0x1p24f) c->loss_scaling *= 2;
        c->good_steps = 0;
    }
}

pa_scaling pa_context_scaling(pa_context *c, const pa_scaling *set) {
    if (c->type != PA_TYPE_F16) return (pa_scaling){0};
    if (set) {
        c->loss_scaling = (float)set->factor;
        c->good_steps = (int)set->steps;
    }
    return (pa_scaling){c->loss_scaling, c->good_steps};
}

// Sums over ranks what loss_grad has not.
static pa_status sum_gradients(pa_context *c, pa_err *err) {
    pa_status e = PA_OK;
    if (!c->info.ranks) return PA_OK;
    if (!c->summing) {
        e = c->ops->sum_begin(c->device, c->grad, c->own_grad, c->floats, c->shared, err);
        if (!e) e = c->ops->sum_ready(c->device, 0, err);
    }
    c->summing = false;
    return e ? e : c->ops->sum_end(c->device, err);
}

pa_status pa_context_update(pa_context *c, const pa_update *u, double *norm, double *nats, pa_err *err) {
    if (!c->grad) return pa_error(err, PA_USAGE, "update: this context was not opened for training");
    pa_status e = sum_gradients(c, err);
    if (e) return e;
    *c->host_scalars = (pa_scalars){.grad_scale = 1 / c->loss_scaling,
                                    .clip = u->clip,
                                    .lr = u->lr,
                                    .beta1 = u->beta1,
                                    .beta2 = u->beta2,
                                    .eps = u->eps,
                                    .decay = u->weight_decay,
                                    .c1 = 1 - pow(u->beta1, (double)u->step),
                                    .c2 = 1 - pow(u->beta2, (double)u->step),
                                    .decoupled = u->decoupled};
    e = pa_replay(c, &(pa_step){.kind = PA_STEP_UPDATE}, apply, err);
    c->weight_stale |= c->shared;
    if (e || (e = c->ops->wait(c->device, "computing a step", err))) return e;
    *norm = sqrt(c->host_sums[PA_SUM_SQUARES]) / (double)c->loss_scaling;
    if (nats) *nats = c->host_sums[PA_SUM_TOTAL];
    rescale_loss(c, isfinite(*norm));
    return PA_OK;
}
