// cases_attention.c: see cases_attention.h. Plain loops over the definitions of host/model/ops.h.
#include "bench/cases_attention.h"

#include <stdlib.h>

// Attention. Keys of a query: the kept ones, then its own sequence's up to itself.
static size_t key_row(const case_row *c, int b, int m) { // in rows of kv
    return m < c->kept ? (size_t)(b * c->kept + m) : (size_t)(c->batch * c->kept + b * c->latents + m - c->kept);
}
typedef struct {
    const char *q, *k, *v;
    size_t ldq, ldkv, H, D, N;
    double scale, exp_off; // exp_off: relative error of the exponential itself
} attention;
static attention attention_of(const case_run *r) {
    case_run host = *r;
    for (int i = 0; i < CASE_OPERANDS; i++) host.at[i] = r->x[i].data;
    host.type = r->row.type;
    const pa_attn of = case_attention(&host);
    attention a = {.q = of.q, .k = r->row.kept ? of.kp : of.kn, .v = r->row.kept ? of.vp : of.vn};
    a.ldq = (size_t)of.ldq, a.ldkv = (size_t)of.ldkv, a.H = (size_t)r->row.heads, a.D = (size_t)r->row.dim_head;
    a.N = (size_t)r->row.latents, a.scale = (double)of.scale;
    a.exp_off = r->row.type == PA_TYPE_BF16 ? 3e-6 : 4 * u; // degree 4 of vf_exp2
    return a;
}
static double dot(pa_type t, const void *x, size_t i, const void *y, size_t j, size_t n, double *magnitude) {
    double sum = 0, most = 0;
    for (size_t d = 0; d < n; d++) {
        double p = get(t, x, i + d) * get(t, y, j + d);
        sum += p, most += fabs(p);
    }
    *magnitude = most;
    return sum;
}

static void check_query(checker *k, const attention *a, int b, size_t h, size_t n) {
    const case_row *c = k->row;
    size_t seen = (size_t)c->kept + n + 1, at = ((size_t)b * a->N + n) * a->ldq + h * a->D;
    double *p = malloc(seen * sizeof *p), top = -INFINITY, sum = 0, scores = 0, magnitude;
    for (size_t m = 0; p && m < seen; m++) {
        p[m] = a->scale * dot(c->type, a->q, at, a->k, key_row(c, b, (int)m) * a->ldkv + h * a->D, a->D, &magnitude);
        top = fmax(top, p[m]), scores = fmax(scores, a->scale * magnitude);
    }
    for (size_t m = 0; p && m < seen; m++) sum += p[m] = exp(p[m] - top);
    double off = sum_off((double)a->D) * scores + 4 * u * fabs(top) + a->exp_off; // of a weight, relative
    double lse = top + log(sum);
    output(k, "lse");
    compare(k, f32(k->run, X_LSE, ((size_t)b * a->H + h) * a->N + n), lse,
            off + sum_off((double)seen) + u * (4 + fabs(lse)));
    output(k, "o");
    for (size_t d = 0; p && d < a->D; d++) {
        double o = 0, most = 0;
        for (size_t m = 0; m < seen; m++) {
            double v = p[m] / sum * get(c->type, a->v, key_row(c, b, (int)m) * a->ldkv + h * a->D + d);
            o += v, most += fabs(v);
        }
        double rounded = c->type == PA_TYPE_BF16 ? 0x1p-8 : 0; // of each weight
        compare(k, act(k->run, X_O, ((size_t)b * a->N + n) * a->H * a->D + h * a->D + d), o,
                most * (2 * off + rounded + 2 * sum_off((double)seen)) + stored(c->type) * fabs(o));
    }
    free(p);
}

void case_check_attention_fwd(checker *k) {
    attention a = attention_of(k->run);
    size_t all = (size_t)k->row->batch * a.H * a.N;
    for (size_t i = 0; i < all; i = next(k, i, all)) check_query(k, &a, (int)(i / a.N / a.H), i / a.N % a.H, i % a.N);
}

// One pair of the backward pass: the weight, its gradient's share ds, and what rounding may add to each.
typedef struct {
    double p, ds, p_off, ds_off;
} pair;
static pair pair_of(const checker *k, const attention *a, int b, size_t h, size_t n, size_t m) {
    const case_row *c = k->row;
    const case_operand *x = k->run->x;
    size_t q = ((size_t)b * a->N + n) * a->ldq + h * a->D, key = key_row(c, b, (int)m) * a->ldkv + h * a->D;
    size_t o = ((size_t)b * a->N + n) * a->H * a->D + h * a->D;
    double scores, dps, deltas, s = a->scale * dot(c->type, a->q, q, a->k, key, a->D, &scores),
                                lse = f32(k->run, X_LSE, ((size_t)b * a->H + h) * a->N + n);
    double dp = dot(c->type, x[X_DOUT].data, o, a->v, key, a->D, &dps),
           delta = dot(c->type, x[X_DOUT].data, o, x[X_O].data, o, a->D, &deltas);
    double p = exp(s - lse),
           off = sum_off((double)a->D) * a->scale * scores + 4 * u * (fabs(s) + fabs(lse)) + a->exp_off;
    double ds = p * (dp - delta), rounded = c->type == PA_TYPE_BF16 ? 0x1p-8 : 0;
    return (pair){p, ds, p * (off + rounded),
                  fabs(ds) * (off + rounded + 2 * u) +
                      p * (sum_off((double)a->D) * (dps + deltas) + u * (fabs(dp) + fabs(delta)))};
}
static void check_dq(checker *k, const attention *a, int b, size_t h, size_t n) {
    const case_row *c = k->row;
    size_t seen = (size_t)c->kept + n + 1, D = a->D;
    double *sum = calloc(3 * D, sizeof *sum);
    for (size_t m = 0; sum && m < seen; m++) {
        pair t = pair_of(k, a, b, h, n, m);
        for (size_t d = 0; d < D; d++) {
            double key = a->scale * get(c->type, a->k, key_row(c, b, (int)m) * a->ldkv + h * D + d);
            sum[d] += t.ds * key, sum[D + d] += fabs(t.ds * key), sum[2 * D + d] += t.ds_off * fabs(key);
        }
    }
    for (size_t d = 0; sum && d < D; d++)
        compare(k, act(k->run, X_DQ, ((size_t)b * a->N + n) * a->ldq + h * D + d), sum[d],
                sum[2 * D + d] + (sum_off((double)seen) + 2 * u) * sum[D + d] + stored(c->type) * fabs(sum[d]));
    free(sum);
}
static void check_dkv(checker *k, const attention *a, int b, size_t h, size_t m) {
    const case_row *c = k->row;
    const case_operand *x = k->run->x;
    size_t first = m < (size_t)c->kept ? 0 : m - (size_t)c->kept, D = a->D, I = a->H * D;
    double *dk = calloc(6 * D, sizeof *dk), *dv = dk + 3 * D;
    for (size_t n = first; dk && n < a->N; n++) {
        pair t = pair_of(k, a, b, h, n, m);
        for (size_t d = 0; d < D; d++) {
            double q = a->scale * get(c->type, a->q, ((size_t)b * a->N + n) * a->ldq + h * D + d);
            double dout = get(c->type, x[X_DOUT].data, ((size_t)b * a->N + n) * I + h * D + d);
            dk[d] += t.ds * q, dk[D + d] += fabs(t.ds * q), dk[2 * D + d] += t.ds_off * fabs(q);
            dv[d] += t.p * dout, dv[D + d] += fabs(t.p * dout), dv[2 * D + d] += t.p_off * fabs(dout);
        }
    }
    const void *to = c->cross ? x[X_DKV].data : (const char *)x[X_DQ].data + I * pa_size(c->type);
    size_t at = key_row(c, b, (int)m) * a->ldkv + h * D;
    double off = sum_off((double)(a->N - first)) + 2 * u;
    output(k, "dk");
    for (size_t d = 0; dk && d < D; d++)
        compare(k, get(c->type, to, at + d), dk[d], dk[2 * D + d] + off * dk[D + d] + stored(c->type) * fabs(dk[d]));
    output(k, "dv");
    for (size_t d = 0; dk && d < D; d++)
        compare(k, get(c->type, to, at + I + d), dv[d],
                dv[2 * D + d] + off * dv[D + d] + stored(c->type) * fabs(dv[d]));
    free(dk);
}
void case_check_attention_bwd(checker *k) {
    attention a = attention_of(k->run);
    size_t keys = a.N + (size_t)k->row->kept, queries = (size_t)k->row->batch * a.H * a.N,
           all = (size_t)k->row->batch * a.H * keys;
    output(k, "dq");
    for (size_t i = 0; i < queries; i = next(k, i, queries))
        check_dq(k, &a, (int)(i / a.N / a.H), i / a.N % a.H, i % a.N);
    for (size_t i = 0; i < all; i = next(k, i, all)) check_dkv(k, &a, (int)(i / keys / a.H), i / keys % a.H, i % keys);
}

void case_check_decode(checker *k) {
    const case_row *c = k->row;
    const case_run *r = k->run;
    size_t D = (size_t)c->dim_head, length = (size_t)c->latents, heads = (size_t)(c->batch * c->heads),
           half = heads * length * D;
    double *p = malloc(length * sizeof *p), scale = (double)(1 / sqrtf((float)c->dim_head));
    output(k, "o");
    for (size_t h = 0; p && h < heads; h = next(k, h, heads)) {
        double top = -INFINITY, sum = 0, scores = 0;
        for (size_t m = 0; m < length; m++) {
            double s = 0, most = 0;
            for (size_t d = 0; d < D; d++) {
                double t = f32(r, X_Q, h * D + d) * act(r, X_KV, (h * length + m) * D + d);
                s += t, most += fabs(t);
            }
            p[m] = scale * s, top = fmax(top, p[m]), scores = fmax(scores, scale * most);
        }
        for (size_t m = 0; m < length; m++) sum += p[m] = exp(p[m] - top);
        double off = sum_off((double)D) * scores + 4 * u * fabs(top) + 4 * u;
        for (size_t d = 0; d < D; d++) {
            double o = 0, most = 0;
            for (size_t m = 0; m < length; m++) {
                double t = p[m] / sum * act(r, X_KV, half + (h * length + m) * D + d);
                o += t, most += fabs(t);
            }
            compare(k, f32(r, X_O, h * D + d), o, most * (2 * off + 2 * sum_off((double)length)));
        }
    }
    free(p);
}
