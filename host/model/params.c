// params.c: a model's settings checked, the one table of its tensors, and its work in flop. Knows nothing of devices,
// files or training.
#include "host/model/params.h"

#include "tokenizer/tokens.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/philox.h"

pa_model pa_model_default(void) {
    return (pa_model){.context = 2048,
                      .prefix = 1024,
                      .dim = 512,
                      .heads = 8,
                      .dim_head = 64,
                      .depth = 8,
                      .perceive_depth = 1,
                      .ff_mult = 4,
                      .vocab = 390,
                      .prefix_dropout = 0.7};
}

int pa_rotary_dims(const pa_model *m) {
    int r = m->rotary_dims ? m->rotary_dims : (m->dim_head / 2 > 32 ? m->dim_head / 2 : 32);
    return (r < m->dim_head ? r : m->dim_head) & ~1;
}

pa_status pa_model_check(const pa_model *m, pa_err *err) {
    const struct {
        const char *name;
        int value, low, high;
    } range[] = {{"context", m->context, 2, 1 << 20},
                 {"prefix", m->prefix, 0, m->context - 1},
                 {"dim", m->dim, 1, 1 << 16},
                 {"heads", m->heads, 1, 1024},
                 {"dim_head", m->dim_head, 1, 256},
                 {"depth", m->depth, 0, 1024},
                 {"perceive_depth", m->perceive_depth, 1, 64},
                 {"ff_mult", m->ff_mult, 1, 64},
                 {"vocab", m->vocab, 2, 65535},
                 {"rotary_dims", m->rotary_dims, 0, m->dim_head},
                 {"lags", m->lags, 0, PA_MOST_LAGS}};
    for (size_t i = 0; i < sizeof range / sizeof *range; i++)
        if (range[i].value < range[i].low || range[i].value > range[i].high)
            return pa_error(err, PA_USAGE, "model.%s: expected %d to %d, found %d", range[i].name, range[i].low,
                            range[i].high, range[i].value);
    if (m->rotary_dims % 2)
        return pa_error(err, PA_USAGE, "model.rotary_dims: expected an even number, found %d", m->rotary_dims);
    if (m->keyboard && m->vocab != PA_VOCAB)
        return pa_error(err, PA_USAGE, "model.keyboard: expected a vocabulary of %d, found %d", PA_VOCAB, m->vocab);
    const struct {
        const char *name;
        double value, below;
    } share[] = {{"prefix_dropout", m->prefix_dropout, 1}, {"dropout", m->dropout, 0.99}, {"z_loss", m->z_loss, 1e6}};
    for (size_t i = 0; i < sizeof share / sizeof *share; i++)
        if (!(share[i].value >= 0 && share[i].value < share[i].below))
            return pa_error(err, PA_USAGE, "model.%s: expected at least 0 and below %g, found %g", share[i].name,
                            share[i].below, share[i].value);
    return PA_OK;
}

// Appends a row and returns its index.
static int add(pa_params *p, const char *prefix, const char *name, int rows, int columns, pa_init init, double scale) {
    pa_param *row = &p->row[p->count];
    snprintf(row->name, sizeof row->name, "%.31s%.31s", prefix, name);
    row->rank = columns ? 2 : 1;
    row->shape[0] = rows;
    row->shape[1] = columns ? columns : 1;
    row->size = (size_t)rows * (size_t)row->shape[1];
    row->offset = p->floats;
    row->init = init;
    row->scale = (float)scale;
    row->decays = row->linear = false;
    row->group = PA_GROUP_REST;
    row->parts = 1;
    p->floats += (row->size + 15) & ~(size_t)15;
    p->parameters += row->size;
    return p->count++;
}

// PyTorch's nn.Linear: uniform within 1 / sqrt(inputs). `parts` of `out` outputs each share the tensor.
static int add_linear(pa_params *p, const char *prefix, const char *name, int parts, int out, int in) {
    int t = add(p, prefix, name, parts * out, in, PA_INIT_UNIFORM, 1 / sqrt(in));
    p->row[t].group = PA_GROUP_MATRIX;
    p->row[t].decays = p->row[t].linear = true;
    p->row[t].parts = parts;
    return t;
}

static void add_norm(pa_params *p, const char *prefix, const char *name, int C, int *w, int *b) {
    char full[32];
    snprintf(full, sizeof full, "%s.weight", name);
    *w = add(p, prefix, full, C, 0, PA_INIT_ONE, 0);
    snprintf(full, sizeof full, "%s.bias", name);
    *b = add(p, prefix, full, C, 0, PA_INIT_ZERO, 0);
}

static void add_block(pa_params *p, pa_block_index *x, const char *layers, int i, bool cross) {
    const pa_model *m = &p->model;
    int C = m->dim, I = pa_inner(m), F = pa_ff(m);
    char at[40];
    memset(x, -1, sizeof *x); // every index -1
    snprintf(at, sizeof at, "%s.%d.0.", layers, i);
    add_norm(p, at, "norm", C, &x->norm_w, &x->norm_b);
    if (cross) {
        add_norm(p, at, "context_norm", C, &x->context_norm_w, &x->context_norm_b);
        x->q = add_linear(p, at, "to_q.weight", 1, I, C);
        x->kv = add_linear(p, at, "to_kv.weight", 2, I, C);
    } else {
        x->qkv = add_linear(p, at, "to_qkv.weight", 3, I, C);
    }
    if (m->value_emb) {
        x->value_emb = add(p, at, "value_emb.weight", m->vocab, I, PA_INIT_ZERO, 0);
        p->row[x->value_emb].group = PA_GROUP_EMBEDDING;
    }
    if (m->qk_norm) {
        x->q_norm = add(p, at, "q_norm.weight", m->dim_head, 0, PA_INIT_ONE, 0);
        x->k_norm = add(p, at, "k_norm.weight", m->dim_head, 0, PA_INIT_ONE, 0);
    }
    x->out_w = add_linear(p, at, "to_out.weight", 1, C, I);
    if (cross) x->out_b = add(p, at, "to_out.bias", C, 0, PA_INIT_UNIFORM, 1 / sqrt(I));
    snprintf(at, sizeof at, "%s.%d.1.", layers, i);
    add_norm(p, at, "0", C, &x->ff_norm_w, &x->ff_norm_b);
    x->ff_1 = add_linear(p, at, "1.weight", 1, F, C);
    x->ff_4 = add_linear(p, at, "4.weight", 1, C, F);
}

pa_status pa_params_init(pa_params *p, const pa_model *m, pa_err *err) {
    memset(p, 0, sizeof *p);
    pa_status s = pa_model_check(m, err);
    if (s) return s;
    p->model = *m;
    int blocks = m->perceive_depth + m->depth;
    p->row = calloc((size_t)blocks * 16 + 7, sizeof *p->row);
    p->block = calloc((size_t)blocks, sizeof *p->block);
    if (!p->row || !p->block) {
        pa_params_clear(p);
        return pa_error(err, PA_FAIL, "no memory for the table of %d blocks", blocks);
    }
    // As the logits' weight too, numbers of size 1 would give logits of size dim and a first loss of hundreds.
    p->token_emb =
        add(p, "", "token_emb.weight", m->vocab, m->dim, PA_INIT_NORMAL, m->tie_embeddings ? 1 / sqrt(m->dim) : 1);
    p->pos_emb = m->position == PA_POSITION_LEARNED_ROTARY
                     ? add(p, "", "pos_emb.weight", m->context, m->dim, PA_INIT_NORMAL, 1)
                     : -1;
    p->keyboard_emb = m->keyboard ? add(p, "", "keyboard_emb.weight", PA_KEYBOARD_ROWS, m->dim, PA_INIT_ZERO, 0) : -1;
    p->lag_emb = m->lags ? add(p, "", "lag_emb.weight", m->lags * m->vocab, m->dim, PA_INIT_ZERO, 0) : -1;
    p->bag_emb = m->keyboard ? p->keyboard_emb : p->lag_emb;
    for (int i = 0; i < m->perceive_depth; i++) add_block(p, &p->block[i], "perceive_layers", i, true);
    for (int i = 0; i < m->depth; i++) add_block(p, &p->block[m->perceive_depth + i], "layers", i, false);
    p->final_norm_w = p->final_norm_b = -1;
    if (m->final_norm) add_norm(p, "", "norm", m->dim, &p->final_norm_w, &p->final_norm_b);
    p->logits = m->tie_embeddings ? p->token_emb : add_linear(p, "", "to_logits.weight", 1, m->vocab, m->dim);
    p->row[p->logits].group = PA_GROUP_HEAD;
    p->row[p->token_emb].group = PA_GROUP_EMBEDDING;
    if (p->pos_emb >= 0) p->row[p->pos_emb].group = PA_GROUP_EMBEDDING;
    if (p->keyboard_emb >= 0) p->row[p->keyboard_emb].group = PA_GROUP_EMBEDDING;
    if (p->lag_emb >= 0) p->row[p->lag_emb].group = PA_GROUP_EMBEDDING;
    return PA_OK;
}

void pa_params_clear(pa_params *p) {
    free(p->row);
    free(p->block);
    p->row = NULL;
    p->block = NULL;
    p->count = 0;
}

int pa_params_find(const pa_params *p, const char *name) {
    for (int i = 0; i < p->count; i++)
        if (!strcmp(p->row[i].name, name)) return i;
    return -1;
}

size_t pa_params_largest(const pa_params *p) {
    size_t most = 0;
    for (int t = 0; t < p->count; t++)
        if (p->row[t].size > most) most = p->row[t].size;
    return most;
}

size_t pa_params_adam(const pa_params *p, bool muon, size_t from, size_t to) {
    size_t count = to - from;
    for (int t = 0; muon && t < p->count; t++) {
        const pa_param *row = &p->row[t];
        size_t begin = row->offset > from ? row->offset : from;
        size_t next = t + 1 < p->count ? row[1].offset : p->floats;
        size_t end = next < to ? next : to;
        if (row->group == PA_GROUP_MATRIX && begin < end) count -= end - begin;
    }
    return count;
}

void pa_params_draw(const pa_params *p, int t, uint64_t seed, float *out) {
    const pa_param *row = &p->row[t];
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < row->size; i++) {
        if (row->init == PA_INIT_ZERO || row->init == PA_INIT_ONE) {
            out[i] = row->init == PA_INIT_ONE;
            continue;
        }
        pa_philox r = pa_random(seed, PA_RANDOM_INIT, (uint64_t)t, i);
        double u = pa_uniform(r);
        if (row->init == PA_INIT_UNIFORM) {
            out[i] = (float)((2 * u - 1) * row->scale);
        } else { // Box and Muller's, of two uniforms; 1 - u is never 0
            double angle = 2 * M_PI * pa_uniform((pa_philox){{r.v[2], r.v[3], 0, 0}});
            out[i] = (float)(sqrt(-2 * log(1 - u)) * cos(angle) * row->scale);
        }
    }
}

int pa_kept(int prefix, double prefix_dropout) {
    return prefix - (int)floor(prefix * prefix_dropout);
}

pa_flops pa_count_flops(const pa_model *m, int batch, int kept, int latents) {
    double C = m->dim, I = pa_inner(m), F = pa_ff(m), N = latents, K = kept, B = batch;
    double cross = N * (I * C + C * I + 2 * F * C) + (N + K) * 2 * I * C;
    double self = N * (3 * I * C + C * I + 2 * F * C);
    double weights = m->perceive_depth * cross + m->depth * self + N * m->vocab * C; // weight-rows
    double self_pairs = N * (N + 1) / 2, cross_pairs = N * K + self_pairs;
    double pairs = m->perceive_depth * cross_pairs + m->depth * self_pairs;
    return (pa_flops){.linear_forward = 2 * B * weights,
                      .linear_backward = 4 * B * weights,
                      .attention_forward = 4 * I * B * pairs,
                      .attention_backward = 8 * I * B * pairs};
}
