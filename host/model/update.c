// update.c: see update.h.
#include "host/model/update.h"

#include <math.h>

#include "host/base/checksum.h"
#include "host/model/backward.h"
#include "host/model/muon.h"
#include "host/model/open.h"

enum { SCALING_STEPS = 2000 };

// The sum of squares over the sum of all ranks' gradients.
static pa_status square_norm(pa_context *c, pa_err *err) {
    double *sum = &c->sums[PA_SUM_SQUARES];
    if (c->info.ranks && c->ops->squares_by_rank)
        return c->ops->squares_by_rank(c->device, sum, c->grad, c->floats, err);
    c->ops->sum_squares(c->device, sum, c->own_grad ? c->own_grad : c->grad, c->own_grad ? c->own : c->floats,
                        c->work.at);
    return c->own_grad ? c->ops->sum_f64(c->device, sum, err) : PA_OK;
}

// Parameters that are updated alike.
typedef struct {
    pa_span of;
    pa_group group;
} run;

// The next run of `within`; *t: the first tensor that may be in it. False after the last. Where all groups are updated
// alike, there is one.
static bool next_run(const pa_context *c, pa_span within, int *t, run *r) {
    const pa_params *p = c->params;
    while (*t < p->count) {
        r->of = (pa_span){p->row[*t].offset, c->floats};
        r->group = p->row[*t].group;
        if (c->open.muon || c->open.rates) {
            while (*t < p->count && p->row[*t].group == r->group) ++*t;
        } else {
            r->group = PA_GROUP_MATRIX;
            *t = p->count;
        }
        if (*t < p->count) r->of.to = p->row[*t].offset;
        if (r->of.from < within.from) r->of.from = within.from;
        if (r->of.to > within.to) r->of.to = within.to;
        if (r->of.from < r->of.to) return true;
    }
    return false;
}

static bool is_muon(const pa_context *c, const run *r) {
    return c->open.muon && r->group == PA_GROUP_MATRIX;
}

// Parameters [own.from, own.to), whose gradients begin at g, and moments at `moment` and `second`. Of Muon's matrices
// only the momentum is updated, and the gradient becomes what is to be orthogonalised.
static void update_span(pa_context *c, pa_span own, float *g, size_t moment, size_t second) {
    run r;
    for (int t = 0; next_run(c, own, &t, &r);) {
        size_t at = r.of.from - own.from;
        if (is_muon(c, &r)) {
            c->ops->momentum(c->device, &(pa_momentum){.m = c->moment1 + moment + at,
                                                       .g = g + at,
                                                       .n = r.of.to - r.of.from,
                                                       .squares = &c->sums[PA_SUM_SQUARES],
                                                       .scalars = c->scalars});
            continue;
        }
        c->ops->adam(c->device, &(pa_adam){.params = c->params,
                                           .from = r.of.from,
                                           .to = r.of.to,
                                           .group = r.group,
                                           .p = c->param + r.of.from,
                                           .g = g + at,
                                           .m = c->moment1 + moment + at,
                                           .v = c->moment2 + second,
                                           .copy = c->weight ? (uint16_t *)c->weight + r.of.from : NULL,
                                           .type = c->type,
                                           .squares = &c->sums[PA_SUM_SQUARES],
                                           .scalars = c->scalars});
        second += r.of.to - r.of.from;
    }
}

// With Muon, a rank puts into its shares of c->grad what the others need: of matrices what is to be orthogonalised,
// else parameters.
static pa_status offer_share(pa_context *c, pa_span own, const float *g, pa_err *err) {
    pa_status e = PA_OK;
    run r;
    for (int t = 0; !e && next_run(c, own, &t, &r);) {
        const float *from = is_muon(c, &r) ? g + (r.of.from - own.from) : c->param + r.of.from;
        e = c->ops->copy(c->device, c->grad + r.of.from, from, (r.of.to - r.of.from) * sizeof *from, err);
    }
    return e;
}

static pa_status take_shares(pa_context *c, pa_err *err) {
    pa_status e = c->ops->gather(c->device, c->grad, c->floats, err);
    run r;
    for (int t = 0; !e && next_run(c, (pa_span){0, c->floats}, &t, &r);)
        if (!is_muon(c, &r))
            e = c->ops->copy(c->device, c->param + r.of.from, c->grad + r.of.from,
                             (r.of.to - r.of.from) * sizeof *c->grad, err);
    return e;
}

// This rank's shares only; then all ranks' parameters come together.
static pa_status update_shares(pa_context *c, pa_err *err) {
    const pa_comm *comm = c->open.comm;
    pa_status e = PA_OK;
    for (size_t b = 0, at = 0, second = 0; !e && b < pa_comm_buckets(comm, c->floats); b++) {
        pa_span own = pa_comm_share(comm, c->floats, b, comm->rank);
        float *g = c->own_grad ? c->own_grad + at : c->grad + own.from;
        update_span(c, own, g, at, second);
        at += own.to - own.from;
        second += pa_params_adam(c->params, c->open.muon, own.from, own.to);
        if (c->open.muon) e = offer_share(c, own, g, err);
    }
    if (e || c->open.muon) return e ? e : take_shares(c, err);
    e = c->ops->clear(c->device, c->grad, c->floats * sizeof *c->grad, err);
    return e ? e : c->ops->gather(c->device, c->param, c->floats, err);
}

static pa_status apply(void *what, pa_err *err) {
    pa_context *c = what;
    pa_status e = c->ops->upload(c->device, c->scalars, c->host_scalars, sizeof *c->scalars, err);
    if (e || (e = square_norm(c, err))) return e;
    if (c->shared)
        e = update_shares(c, err);
    else
        update_span(c, (pa_span){0, c->floats}, c->grad, 0, 0);
    if (!e && c->open.muon) e = pa_muon_matrices(c, err);
    if (!e && c->open.muon && c->shared) e = c->ops->clear(c->device, c->grad, c->floats * sizeof *c->grad, err);
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

// ---- bits that flip

// With train.zero a rank's numbers become everybody's at each step. Without, ranks compare their weights; a GPU's
// memory corrects its own.
static bool needs_guard(const pa_context *c) {
    return c->info.unified && c->shared;
}

static void guard(pa_context *c) {
    c->crc = pa_crc32c(0, c->param, c->floats * sizeof *c->param);
    c->crc = pa_crc32c(c->crc, c->moment1, c->own * sizeof *c->moment1);
    c->crc = pa_crc32c(c->crc, c->moment2, c->second * sizeof *c->moment2);
    c->guarded = true;
}

pa_status pa_context_check(pa_context *c, pa_err *err) {
    const uint32_t before = c->crc;
    const bool guarded = c->guarded;
    if (!needs_guard(c)) return PA_OK;
    guard(c);
    if (!guarded || c->crc == before) return PA_OK;
    return pa_error(err, PA_FAIL, "rank %d: weights or moments changed in memory between two updates (bad memory?)",
                    c->open.comm->rank);
}

// ---- the step

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
    pa_status e = pa_context_check(c, err);
    if (!e) e = pa_settle_gradients(c, err);
    if (e || (e = sum_gradients(c, err))) return e;
    *c->host_scalars = (pa_scalars){.grad_scale = 1 / c->loss_scaling,
                                    .clip = u->clip,
                                    .lr = {[PA_GROUP_MATRIX] = u->lr,
                                           [PA_GROUP_EMBEDDING] = u->lr_embedding > 0 ? u->lr_embedding : u->lr,
                                           [PA_GROUP_HEAD] = u->lr_head > 0 ? u->lr_head : u->lr,
                                           [PA_GROUP_REST] = u->lr_rest > 0 ? u->lr_rest : u->lr},
                                    .momentum = u->momentum,
                                    .beta1 = u->beta1,
                                    .beta2 = u->beta2,
                                    .eps = u->eps,
                                    .decay = u->weight_decay,
                                    .c1 = 1 - pow(u->beta1, (double)u->step),
                                    .c2 = 1 - pow(u->beta2, (double)u->step),
                                    .decoupled = u->decoupled};
    e = pa_replay(c, &(pa_step){.kind = PA_STEP_UPDATE, .ranks = c->info.ranks}, apply, err);
    c->grad_stale = true;
    c->weight_stale |= c->shared || (c->open.muon && c->info.ranks);
    if (e || (e = c->ops->wait(c->device, "computing a step", err))) return e;
    *norm = sqrt(c->host_sums[PA_SUM_SQUARES]) / (double)c->loss_scaling;
    if (nats) *nats = c->host_sums[PA_SUM_TOTAL];
    rescale_loss(c, isfinite(*norm));
    if (needs_guard(c)) guard(c);
    return PA_OK;
}
