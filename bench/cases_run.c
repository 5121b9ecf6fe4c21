// cases_run.c: how each row of the case table is run. Knows nothing of float64 (cases_check.c).
#include <math.h>
#include <stddef.h>

#include "bench/cases.h"

static void run_attention(case_run *r) {
    const case_row *c = &r->row;
    const pa_attn a = case_attention(r);
    const size_t I = (size_t)a.ldo * pa_size(r->type);
    char *dkv = c->cross ? r->at[X_DKV] : (char *)r->at[X_DQ] + I,
         *own = dkv + (size_t)(c->batch * c->kept) * (size_t)a.ldkv * pa_size(r->type);
    const pa_work work = {.at = r->at[X_WORK],
                          .bytes = r->x[X_WORK].bytes,
                          .rare = true}; // rare: a GPU's other library is measured apart
    if (c->kind == CASE_ATTENTION_FWD)
        r->ops->attn_fwd(r->device, &a, r->at[X_O], r->at[X_LSE], work);
    else
        r->ops->attn_bwd(r->device, &a,
                         &(pa_attn_grads){.o = r->at[X_O],
                                          .lse = r->at[X_LSE],
                                          .dout = r->at[X_DOUT],
                                          .dq = r->at[X_DQ],
                                          .dkp = dkv,
                                          .dvp = dkv + I,
                                          .dkn = own,
                                          .dvn = own + I},
                         work);
}

static void run_decode(case_run *r) {
    const case_row *c = &r->row;
    const ptrdiff_t I = (ptrdiff_t)c->heads * c->dim_head;
    const float *last = r->at[X_NEW];
    r->ops->attn_decode(r->device, &(pa_attn_decode){.type = r->type,
                                                     .streams = c->batch,
                                                     .heads = c->heads,
                                                     .dim_head = c->dim_head,
                                                     .length = r->at[X_LENGTH],
                                                     .capacity = c->latents,
                                                     .scale = 1 / sqrtf((float)c->dim_head),
                                                     .ldq = I,
                                                     .ldkv = I,
                                                     .q = r->at[X_Q],
                                                     .k_new = last,
                                                     .v_new = last + c->batch * I,
                                                     .k = r->at[X_KV],
                                                     .v = (char *)r->at[X_KV] + r->x[X_KV].bytes / 2,
                                                     .o = r->at[X_O],
                                                     .work = r->at[X_WORK]});
}

static void run_layernorm(case_run *r) {
    const case_row *c = &r->row;
    void *const *x = r->at;
    if (c->kind == CASE_LAYERNORM_FWD)
        r->ops->layernorm_fwd(r->device, &(pa_layernorm){.type = r->type,
                                                         .z = x[X_Z],
                                                         .y = x[X_Y],
                                                         .mean = x[X_MEAN],
                                                         .rstd = x[X_RSTD],
                                                         .x = x[X_X],
                                                         .r = x[X_R],
                                                         .w = x[X_W],
                                                         .b = x[X_B],
                                                         .rows = c->rows,
                                                         .C = c->in});
    else
        r->ops->layernorm_bwd(r->device, &(pa_layernorm_grads){.type = r->type,
                                                               .dx = x[X_DX],
                                                               .dx_copy = x[X_COPY],
                                                               .dw = x[X_DW],
                                                               .db = x[X_DB],
                                                               .dy = x[X_DY],
                                                               .x = x[X_IN],
                                                               .mean = x[X_IN_MEAN],
                                                               .rstd = x[X_IN_RSTD],
                                                               .w = x[X_WEIGHT],
                                                               .rows = c->rows,
                                                               .C = c->in,
                                                               .work = x[X_WORK]});
}

static void run_head_norm(case_run *r) {
    const case_row *c = &r->row;
    void *const *x = r->at;
    const ptrdiff_t I = (ptrdiff_t)c->heads * c->dim_head;
    if (c->kind == CASE_HEAD_NORM_FWD)
        r->ops->head_norm_fwd(r->device, &(pa_head_norm){.type = r->type,
                                                         .x = x[X_X],
                                                         .ld = I,
                                                         .rstd = x[X_RSTD],
                                                         .w = x[X_W],
                                                         .rows = c->rows,
                                                         .H = c->heads,
                                                         .D = c->dim_head});
    else
        r->ops->head_norm_bwd(r->device, &(pa_head_norm_grads){.type = r->type,
                                                               .dy = x[X_DX],
                                                               .ld_dy = I,
                                                               .dw = x[X_DW],
                                                               .x = x[X_IN],
                                                               .ld_x = I,
                                                               .rstd = x[X_IN_RSTD],
                                                               .w = x[X_WEIGHT],
                                                               .rows = c->rows,
                                                               .H = c->heads,
                                                               .D = c->dim_head,
                                                               .work = x[X_WORK]});
}

static void run_rotary(case_run *r) {
    const case_row *c = &r->row;
    r->ops->rotary(r->device, &(pa_rotary){.type = r->type,
                                           .x = r->at[X_TURNED],
                                           .ld = (ptrdiff_t)c->heads * c->dim_head,
                                           .position = r->at[X_AT],
                                           .table = r->at[X_TABLE],
                                           .rows = c->rows,
                                           .H = c->heads,
                                           .D = c->dim_head,
                                           .dims = c->in,
                                           .sign = 1});
}

static void run_cross_entropy(case_run *r) {
    void *const *x = r->at;
    r->ops->cross_entropy(r->device, &(pa_cross_entropy){.type = r->type,
                                                         .dlogits = x[X_DLOGITS],
                                                         .nats = x[X_NATS],
                                                         .best = x[X_BEST],
                                                         .logits = x[X_LOGITS],
                                                         .target = x[X_TARGET],
                                                         .scalars = x[X_SCALARS],
                                                         .z_loss = case_z_loss,
                                                         .rows = r->row.rows,
                                                         .V = r->row.vocab,
                                                         .ld = r->row.vocab});
}

static void run_embed(case_run *r) {
    const case_row *c = &r->row;
    void *const *x = r->at;
    if (c->kind == CASE_EMBED_FWD)
        r->ops->embed_fwd(r->device, x[X_ROWS],
                          &(pa_embed){.token = x[X_TOKEN],
                                      .position = x[X_POSITION],
                                      .token_emb = x[X_TOKEN_EMB],
                                      .pos_emb = x[X_POSITION_EMB],
                                      .rows = c->rows,
                                      .C = c->in});
    else
        r->ops->embed_bwd(r->device, &(pa_embed_grads){.dtoken_emb = x[X_TOKEN_EMB],
                                                       .dpos_emb = x[X_POSITION_EMB],
                                                       .dx = x[X_ROWS],
                                                       .token = x[X_TOKEN],
                                                       .position = x[X_POSITION],
                                                       .rows = c->rows,
                                                       .C = c->in,
                                                       .V = c->vocab,
                                                       .positions = c->positions});
}

static void run_adam(case_run *r) {
    void *const *x = r->at;
    pa_param param = {.rank = 1, .size = r->row.count, .decays = true};
    const pa_params params = {.row = &param, .count = 1};
    r->ops->adam(r->device, &(pa_adam){.params = &params,
                                       .to = r->row.count,
                                       .p = x[X_P],
                                       .g = x[X_GRAD],
                                       .m = x[X_M],
                                       .v = x[X_V],
                                       .copy = x[X_NARROW],
                                       .type = r->type,
                                       .squares = x[X_SQUARES],
                                       .scalars = x[X_SCALARS]});
}

static pa_type type_on(const case_run *r, pa_type t) {
    return t == PA_TYPE_F32 ? PA_TYPE_F32 : r->type;
}

static pa_status run_product(case_run *r, pa_err *err) {
    const case_row *c = &r->row;
    void *const *x = r->at;
    pa_product p = c->product;
    if (c->kind == CASE_GEMV) {
        r->ops->gemv(r->device, &(pa_gemv){.type = r->type,
                                           .y = x[X_OUT],
                                           .x = x[X_LEFT],
                                           .w = x[X_RIGHT],
                                           .bias = x[X_BIAS],
                                           .streams = c->rows,
                                           .in = c->in,
                                           .out = c->out,
                                           .work = x[X_WORK]});
        return PA_OK;
    }
    p.a = type_on(r, p.a);
    p.b = type_on(r, p.b);
    p.c = type_on(r, p.c);
    if (r->mm) return cpu_matmul_run(r->mm, &p, x[X_LEFT], x[X_RIGHT], x[X_OUT], err);
    return r->ops->product(r->device, &p, x[X_LEFT], x[X_RIGHT], x[X_OUT], err);
}

pa_status case_execute(case_run *r, pa_err *err) {
    const case_row *c = &r->row;
    const pa_ops *ops = r->ops;
    void *const *x = r->at;
    const pa_activate activate = {.type = r->type,
                                  .kind = c->activation,
                                  .g = x[X_G],
                                  .h = x[X_H],
                                  .rows = c->rows,
                                  .F = c->in,
                                  .sequence = c->rows};
    switch (c->kind) {
    case CASE_ATTENTION_FWD:
    case CASE_ATTENTION_BWD:
        run_attention(r);
        break;
    case CASE_ATTENTION_DECODE:
        run_decode(r);
        break;
    case CASE_LAYERNORM_FWD:
    case CASE_LAYERNORM_BWD:
        run_layernorm(r);
        break;
    case CASE_HEAD_NORM_FWD:
    case CASE_HEAD_NORM_BWD:
        run_head_norm(r);
        break;
    case CASE_ACTIVATION_FWD:
        ops->activation_fwd(r->device, &activate);
        break;
    case CASE_ACTIVATION_BWD:
        ops->activation_bwd(r->device, &activate);
        break;
    case CASE_ROTARY_FWD:
        run_rotary(r);
        break;
    case CASE_CROSS_ENTROPY:
        run_cross_entropy(r);
        break;
    case CASE_EMBED_FWD:
    case CASE_EMBED_BWD:
        run_embed(r);
        break;
    case CASE_SUM_SQUARES:
        ops->sum_squares(r->device, x[X_TO], x[X_FROM], c->count, x[X_WORK]);
        break;
    case CASE_ADAM:
        run_adam(r);
        break;
    case CASE_CAST:
        ops->cast(r->device, r->type, x[X_TO], x[X_FROM], c->count);
        break;
    case CASE_WIDEN:
        ops->widen(r->device, r->type, x[X_TO], x[X_FROM], c->count);
        break;
    case CASE_COLUMN_SUM:
        ops->column_sum(r->device, x[X_TO], x[X_FROM], c->rows, c->in, x[X_WORK]);
        break;
    case CASE_GEMV:
    case CASE_MATMUL:
        return run_product(r, err);
    }
    return PA_OK;
}
