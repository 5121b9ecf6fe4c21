// open.c: see open.h. A model's memory is planned, printed and taken here.
#include "host/model/open.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/model/muon.h"
#include "host/model/plan.h"
#include "host/model/trace.h"

static pa_status take_arenas(pa_context *c, pa_err *err) {
    size_t plan = pa_arenas_total(c->arena);
    for (int i = 0; i < ARENAS; i++) {
        pa_arena *a = &c->arena[i];
        void *base = NULL;
        a->size = a->used;
        if (!a->size) continue;
        pa_status s = c->ops->take(c->device, pa_arena_name(i), a->size, plan, &base, err);
        if (s) return s;
        a->base = base;
    }
    pa_plan(c);
    size_t host = pa_plan_host(c, NULL);
    if (!host) return PA_OK;
    pa_status s = c->ops->take_host(c->device, host, &c->host, err);
    if (!s) pa_plan_host(c, c->host);
    return s;
}

// Copies from memory that is about to be freed.
static pa_status send(pa_context *c, void *to, const void *from, size_t bytes, const char *what, pa_err *err) {
    pa_status s = c->ops->upload(c->device, to, from, bytes, err);
    return s ? s : c->ops->wait(c->device, what, err);
}

static pa_status fill_rotary(pa_context *c, pa_err *err) {
    const pa_model *m = &c->params->model;
    int half = pa_rotary_dims(m) / 2;
    size_t angles = (size_t)m->context * (size_t)half;
    if (!c->rotary_table || !angles) return PA_OK;
    float *table = malloc(angles * 2 * sizeof *table);
    if (!table) return pa_error(err, PA_FAIL, "no memory for %zu rotation angles", angles);
#pragma omp parallel for
    for (int p = 0; p < m->context; p++)
        for (int j = 0; j < half; j++) {
            double angle = p * pow(10000, -(double)j / half);
            size_t at = ((size_t)p * (size_t)half + (size_t)j) * 2;
            table[at] = (float)cos(angle);
            table[at + 1] = (float)sin(angle);
        }
    pa_status s = send(c, c->rotary_table, table, angles * 2 * sizeof *table, "copying tables", err);
    free(table);
    return s;
}

static const char *precision_name(pa_type type) {
    return type == PA_TYPE_F32 ? "fp32" : type == PA_TYPE_BF16 ? "bf16" : "fp16";
}

static pa_status prepare(pa_context *c, pa_err *err) {
    if (c->open.int8 && c->open.training)
        return pa_error(err, PA_USAGE, "weights of 8 bits are for evaluation and generation, not for training");
    pa_plan(c);
    if (c->open.plan) pa_arenas_print(c->arena, precision_name(c->type), c->info.name, c->open.plan);
    if (c->open.plan_only) return PA_OK;
    pa_status s = c->ops->start(c->device, err);
    if (s || (s = take_arenas(c, err)) || (s = c->ops->ready(c->device, c->workspace, err))) return s;
    return fill_rotary(c, err);
}

// Of this rank's parameters, those with a second moment.
static size_t second_floats(const pa_context *c) {
    const pa_comm *comm = c->open.comm;
    size_t count = 0;
    if (!c->shared) return pa_params_adam(c->params, c->open.muon, 0, c->floats);
    for (size_t b = 0; b < pa_comm_buckets(comm, c->floats); b++) {
        pa_span own = pa_comm_share(comm, c->floats, b, comm->rank);
        count += pa_params_adam(c->params, c->open.muon, own.from, own.to);
    }
    return count;
}

pa_status pa_context_open(pa_context **out, const pa_open *o, const pa_ops *ops, pa_device *d,
                          const pa_device_info *info, pa_err *err) {
    *out = NULL;
    pa_status s = o->comm->rank ? PA_OK : pa_trace_wrap(&ops, &d, info, err);
    pa_context *c = s ? NULL : calloc(1, sizeof *c);
    if (!c) {
        ops->close(d);
        return s ? s : pa_error(err, PA_FAIL, "no memory");
    }
    const pa_params *p = o->params;
    c->open = *o;
    c->params = p;
    c->ops = ops;
    c->device = d;
    c->info = *info;
    c->type = info->type;
    c->floats = (p->floats + info->multiple - 1) / info->multiple * info->multiple;
    c->shared = o->training && o->zero && o->comm->size > 1;
    c->own = c->shared ? pa_comm_share_floats(o->comm, c->floats) : c->floats;
    c->second = second_floats(c);
    c->softmax_scale = 1 / sqrtf((float)p->model.dim_head);
    c->loss_scaling = c->type == PA_TYPE_F16 ? 65536 : 1;
    c->grad_stale = true;
    c->logits_ld = (p->model.vocab + info->row - 1) / info->row * info->row;
    c->blocks = p->model.perceive_depth + p->model.depth;
    c->saved = calloc((size_t)c->blocks, sizeof *c->saved);
    c->cache = calloc((size_t)c->blocks, sizeof *c->cache);
    c->z = calloc((size_t)c->blocks + 1, sizeof *c->z);
    c->scale_at = calloc((size_t)p->count, sizeof *c->scale_at);
    c->window = calloc((size_t)o->streams * (size_t)p->model.context + 1, sizeof *c->window);
    c->keyboard = calloc((size_t)o->streams + 1, sizeof *c->keyboard);
    c->muon_of = calloc(o->training ? (size_t)o->comm->size : 1, sizeof *c->muon_of);
    if (c->muon_of && o->training && o->muon) pa_muon_divide(p, o->comm->size, c->muon_of);
    s = c->saved && c->cache && c->z && c->scale_at && c->window && c->keyboard && c->muon_of
            ? prepare(c, err)
            : pa_error(err, PA_FAIL, "no memory");
    if (s || o->plan_only)
        pa_context_close(c);
    else
        *out = c;
    return s;
}

void pa_context_close(pa_context *c) {
    if (!c) return;
    c->ops->wait(c->device, "ending", NULL);
    if (c->host) c->ops->give_host(c->device, c->host); // before the arenas that copies from it go to
    for (int i = 0; i < ARENAS; i++)
        if (c->arena[i].base) c->ops->give(c->device, c->arena[i].base, c->arena[i].size);
    c->ops->close(c->device);
    free(c->saved);
    free(c->cache);
    free(c->z);
    free(c->scale_at);
    free(c->window);
    free(c->keyboard);
    free(c->muon_of);
    free(c);
}

static float *tensor(pa_context *c, pa_kind kind, int t) {
    float *base = kind == PA_PARAM     ? c->param
                  : kind == PA_GRAD    ? c->grad
                  : kind == PA_MOMENT1 ? c->moment1
                                       : c->moment2;
    if (!base || t < 0 || t >= c->params->count) return NULL;
    const pa_param *row = &c->params->row[t];
    if (kind != PA_MOMENT2) return base + row->offset;
    if (c->open.muon && row->group == PA_GROUP_MATRIX) return NULL;
    return base + pa_params_adam(c->params, c->open.muon, 0, row->offset);
}

static bool is_shared(const pa_context *c, pa_kind kind) {
    return c->shared && (kind == PA_MOMENT1 || kind == PA_MOMENT2);
}

// This rank's part of a moment, to `out` or, where that is NULL, from `in`: both are the whole tensor.
static pa_status copy_shares(pa_context *c, pa_kind kind, int t, float *out, const float *in, pa_err *err) {
    const pa_param *row = &c->params->row[t];
    const pa_comm *comm = c->open.comm;
    float *moment = kind == PA_MOMENT1 ? c->moment1 : c->moment2;
    pa_status s = PA_OK;
    const bool muon = c->open.muon && kind == PA_MOMENT2; // this moment leaves matrices out
    for (size_t b = 0, at = 0; b < pa_comm_buckets(comm, c->floats) && !s; b++) {
        pa_span own = pa_comm_share(comm, c->floats, b, comm->rank);
        size_t end = row->offset + row->size;
        size_t from = own.from > row->offset ? own.from : row->offset, to = own.to < end ? own.to : end;
        float *there = moment + at;
        at += pa_params_adam(c->params, muon, own.from, own.to);
        if (from >= to) continue;
        there += pa_params_adam(c->params, muon, own.from, from);
        size_t bytes = (to - from) * sizeof(float);
        s = out ? c->ops->download(c->device, out + (from - row->offset), there, bytes, err)
                : c->ops->upload(c->device, there, in + (from - row->offset), bytes, err);
    }
    return s ? s : c->ops->wait(c->device, "copying moments", err);
}

pa_status pa_settle_gradients(pa_context *c, pa_err *err) {
    if (!c->grad || !c->grad_stale) return PA_OK;
    c->grad_stale = false;
    return c->ops->clear(c->device, c->grad, c->floats * sizeof *c->grad, err);
}

pa_status pa_context_read(pa_context *c, pa_kind kind, int t, float *out, pa_err *err) {
    const float *from = tensor(c, kind, t);
    if (!from) return pa_error(err, PA_USAGE, "read: no tensor %d of kind %d here", t, (int)kind);
    size_t n = c->params->row[t].size, offset = c->params->row[t].offset;
    if (is_shared(c, kind)) {
        pa_status s = copy_shares(c, kind, t, out, NULL, err);
        return s ? s : pa_comm_gather_part(c->open.comm, NULL, c->floats, offset, offset + n, out, err);
    }
    pa_status s = kind == PA_GRAD ? pa_settle_gradients(c, err) : PA_OK;
    if (!s) s = c->ops->download(c->device, out, from, n * sizeof *out, err);
    if (!s) s = c->ops->wait(c->device, "reading a tensor", err);
    // Gradients are kept times the loss scaling, a power of two.
    for (size_t i = 0; !s && kind == PA_GRAD && c->loss_scaling != 1 && i < n; i++) out[i] /= c->loss_scaling;
    return s;
}

pa_status pa_context_write(pa_context *c, pa_kind kind, int t, const float *in, pa_err *err) {
    float *to = tensor(c, kind, t);
    if (!to) return pa_error(err, PA_USAGE, "write: no tensor %d of kind %d here", t, (int)kind);
    if (is_shared(c, kind)) {
        c->guarded = false;
        return copy_shares(c, kind, t, NULL, in, err);
    }
    size_t n = c->params->row[t].size;
    float *scaled = NULL;
    if (kind == PA_GRAD && c->loss_scaling != 1) {
        if (!(scaled = malloc(n * sizeof *scaled))) return pa_error(err, PA_FAIL, "no memory to write a gradient");
        for (size_t i = 0; i < n; i++) scaled[i] = in[i] * c->loss_scaling;
    }
    pa_status s = kind == PA_GRAD ? pa_settle_gradients(c, err) : PA_OK;
    if (!s) s = send(c, to, scaled ? scaled : in, n * sizeof *in, "writing a tensor", err);
    free(scaled);
    if (kind == PA_PARAM) c->weight_stale = true;
    if (kind != PA_GRAD) c->guarded = false;
    return s;
}

void pa_refresh_weights(pa_context *c) {
    if (!c->weight_stale) return;
    for (int t = 0; c->weight8 && t < c->params->count; t++) {
        const pa_param *row = &c->params->row[t];
        if (c->scale_at[t] < 0) continue;
        c->ops->round_int8(c->device, c->weight8 + row->offset, c->scale + c->scale_at[t], c->param + row->offset,
                           row->shape[0], row->shape[1]);
    }
    if (c->weight) c->ops->cast(c->device, c->type, c->weight, c->param, c->params->floats);
    c->weight_stale = false;
}

size_t pa_context_memory(const pa_context *c) {
    return pa_arenas_total(c->arena);
}

double pa_context_peak(pa_context *c) {
    return c->ops->peak(c->device);
}

void pa_context_describe(const pa_context *c, pa_hardware *hardware) {
    *hardware = c->info.hardware;
}

pa_precision pa_context_precision(const pa_context *c) {
    return c->type == PA_TYPE_F32 ? PA_PRECISION_FP32 : c->type == PA_TYPE_BF16 ? PA_PRECISION_BF16 : PA_PRECISION_FP16;
}
