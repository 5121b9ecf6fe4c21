// cases_check.c: what the operations of the case table should have given, in float64, and how far rounding may take
// them from it. Plain loops over the definitions of host/model/ops.h; knows nothing of how an operation is done.
#include <math.h>

#include "bench/cases_attention.h"
#include "bench/cases_checker.h"

static case_error worst(const checker *k) {
    case_error e = {.output = k->output[0].name};
    for (int i = 0; i < k->outputs; i++) {
        double error = k->output[i].largest > 0 ? k->output[i].error / k->output[i].largest : k->output[i].error;
        if (error > e.error) e.error = error;
        if (!(k->output[i].allowed <= e.allowed)) e.allowed = k->output[i].allowed, e.output = k->output[i].name;
    }
    return e;
}
static void check_layernorm_fwd(checker *k) {
    const case_run *r = k->run;
    size_t C = (size_t)k->row->in, rows = (size_t)k->row->rows;
    for (size_t row = 0; row < rows; row = next(k, row, rows)) {
        double mean = 0, size = 0, squares = 0;
        for (size_t i = row * C; i < (row + 1) * C; i++) {
            double z = f32(r, X_X, i) + f32(r, X_R, i);
            mean += z / (double)C, size += fabs(z) / (double)C;
        }
        for (size_t i = row * C; i < (row + 1) * C; i++) squares += pow(f32(r, X_X, i) + f32(r, X_R, i) - mean, 2);
        double rstd = 1 / sqrt(squares / (double)C + 1e-5), mean_off = (sum_off((double)C) + u) * size;
        double rstd_off = sum_off((double)C) + 4 * u + 2 * (mean_off + u * size) * rstd; // relative
        output(k, "mean"), compare(k, f32(r, X_MEAN, row), mean, mean_off);
        output(k, "rstd"), compare(k, f32(r, X_RSTD, row), rstd, rstd_off * rstd);
        for (size_t i = 0; i < C; i++) {
            double z = f32(r, X_X, row * C + i) + f32(r, X_R, row * C + i), w = f32(r, X_W, i),
                   y = (z - mean) * rstd * w;
            output(k, "z"), compare(k, f32(r, X_Z, row * C + i), z, u * fabs(z));
            output(k, "y");
            compare(k, act(r, X_Y, row * C + i), y + f32(r, X_B, i),
                    fabs(w) * rstd * (mean_off + 2 * u * fabs(z)) + fabs(y) * (rstd_off + 4 * u) +
                        (u + stored(k->row->type)) * fabs(y + f32(r, X_B, i)));
        }
    }
}

static void check_layernorm_bwd(checker *k) {
    const case_run *r = k->run;
    size_t C = (size_t)k->row->in, rows = (size_t)k->row->rows;
    for (size_t row = 0; row < rows; row = next(k, row, rows)) {
        double mean = f32(r, X_IN_MEAN, row), rstd = f32(r, X_IN_RSTD, row), a = 0, b = 0, size_a = 0, size_b = 0;
        for (size_t i = 0; i < C; i++) {
            double g = act(r, X_DY, row * C + i) * f32(r, X_WEIGHT, i) / (double)C,
                   hat = (f32(r, X_IN, row * C + i) - mean) * rstd;
            a += g, b += g * hat, size_a += fabs(g), size_b += fabs(g * hat);
        }
        for (size_t i = 0; i < C; i++) {
            double g = act(r, X_DY, row * C + i) * f32(r, X_WEIGHT, i), hat = (f32(r, X_IN, row * C + i) - mean) * rstd;
            double dx = before(r, X_DX, row * C + i) + rstd * (g - a - hat * b), off = sum_off((double)C) + 4 * u;
            double bound = rstd * (off * (size_a + fabs(hat) * size_b) + 6 * u * (fabs(g) + fabs(a) + fabs(hat * b))) +
                           u * fabs(dx);
            output(k, "dx"), compare(k, f32(r, X_DX, row * C + i), dx, bound);
            output(k, "copy"), compare(k, act(r, X_COPY, row * C + i), dx, bound + stored(k->row->type) * fabs(dx));
        }
    }
    for (size_t i = 0; i < C; i = next(k, i, C)) {
        double dw = before(r, X_DW, i), db = before(r, X_DB, i), size_w = fabs(dw), size_b = fabs(db);
        for (size_t row = 0; row < rows; row++) {
            double d = act(r, X_DY, row * C + i),
                   hat = (f32(r, X_IN, row * C + i) - f32(r, X_IN_MEAN, row)) * f32(r, X_IN_RSTD, row);
            dw += d * hat, db += d, size_w += fabs(d * hat), size_b += fabs(d);
        }
        output(k, "dw"), compare(k, f32(r, X_DW, i), dw, (sum_off((double)rows) + 3 * u) * size_w);
        output(k, "db"), compare(k, f32(r, X_DB, i), db, sum_off((double)rows) * size_b);
    }
}

static void check_head_norm_fwd(checker *k) {
    const case_run *r = k->run;
    size_t D = (size_t)k->row->dim_head, rows = (size_t)k->row->rows * (size_t)k->row->heads;
    for (size_t row = 0; row < rows; row = next(k, row, rows)) {
        double squares = 0;
        for (size_t i = 0; i < D; i++) squares += pow(get(k->row->type, r->x[X_X].initial, row * D + i), 2);
        double rstd = 1 / sqrt(squares / (double)D + 1e-6), off = sum_off((double)D) + 4 * u;
        output(k, "rstd"), compare(k, f32(r, X_RSTD, row), rstd, off * rstd);
        output(k, "y");
        for (size_t i = 0; i < D; i++) {
            double y = get(k->row->type, r->x[X_X].initial, row * D + i) * rstd * f32(r, X_W, i);
            compare(k, act(r, X_X, row * D + i), y, (off + 2 * u + stored(k->row->type)) * fabs(y));
        }
    }
}

static void check_head_norm_bwd(checker *k) {
    const case_run *r = k->run;
    size_t D = (size_t)k->row->dim_head, rows = (size_t)k->row->rows * (size_t)k->row->heads;
    output(k, "dx");
    for (size_t row = 0; row < rows; row = next(k, row, rows)) {
        double b = 0, size = 0, rstd = f32(r, X_IN_RSTD, row);
        for (size_t i = 0; i < D; i++) {
            double t = get(k->row->type, r->x[X_DX].initial, row * D + i) * act(r, X_IN, row * D + i) /
                       (double)D; // (g w) (y / w)
            b += t, size += fabs(t);
        }
        for (size_t i = 0; i < D; i++) {
            double w = f32(r, X_WEIGHT, i), g = get(k->row->type, r->x[X_DX].initial, row * D + i) * w,
                   hat = act(r, X_IN, row * D + i) / w;
            double dx = rstd * (g - hat * b);
            compare(k, act(r, X_DX, row * D + i), dx,
                    rstd * ((sum_off((double)D) + 4 * u) * fabs(hat) * size + 4 * u * (fabs(g) + fabs(hat * b))) +
                        stored(k->row->type) * fabs(dx));
        }
    }
    output(k, "dw");
    for (size_t i = 0; i < D; i = next(k, i, D)) {
        double dw = before(r, X_DW, i), size = fabs(dw);
        for (size_t row = 0; row < rows; row++) {
            double t =
                get(k->row->type, r->x[X_DX].initial, row * D + i) * act(r, X_IN, row * D + i) / f32(r, X_WEIGHT, i);
            dw += t, size += fabs(t);
        }
        compare(k, f32(r, X_DW, i), dw, (sum_off((double)rows) + 2 * u) * size);
    }
}

// Phi from erfc, and the density. exp's argument -x^2/2 is rounded, so its error grows with x^2.
static void check_activation(checker *k, bool back) {
    const case_run *r = k->run;
    size_t rows = (size_t)k->row->rows, F = (size_t)k->row->in;
    output(k, back ? "dh" : "g");
    for (size_t row = 0; row < rows; row = next(k, row, rows))
        for (size_t i = row * F; i < (row + 1) * F; i++) {
            double x = act(r, X_H, i), phi = erfc(-x / sqrt(2)) / 2, density = exp(-x * x / 2) / sqrt(2 * acos(-1)),
                   off = (12 + 2 * x * x) * u;
            double up = back ? get(k->row->type, r->x[X_G].initial, i) : 1;
            bool gelu = k->row->activation == PA_GELU;
            double y = gelu ? (back ? phi + x * density : x * phi) : x < 0 ? 0 : back ? 2 * x : x * x;
            double size = gelu ? (back ? phi + fabs(x * density) : fabs(x * phi)) : fabs(y);
            compare(k, act(r, X_G, i), up * y,
                    fabs(up) * ((gelu ? off : 2 * u) * size + stored(k->row->type) * fabs(y)));
        }
}

static void check_rotary(checker *k) {
    const case_row *c = k->row;
    const case_run *r = k->run;
    size_t half = (size_t)c->in / 2, D = (size_t)c->dim_head, H = (size_t)c->heads, rows = (size_t)c->rows;
    const int32_t *at = r->x[X_AT].data;
    output(k, "x");
    for (size_t row = 0; row < rows; row = next(k, row, rows))
        for (size_t i = 0; i < H * D; i++) {
            size_t d = i % D, j = d % half, head = row * H * D + i - d;
            double x = get(c->type, r->x[X_TURNED].initial, head + d);
            if (d >= 2 * half) {
                compare(k, act(r, X_TURNED, head + d), x, 0);
                continue;
            }
            double cosine = f32(r, X_TABLE, 2 * ((size_t)at[row] * half + j)),
                   sine = f32(r, X_TABLE, 2 * ((size_t)at[row] * half + j) + 1);
            double other = get(c->type, r->x[X_TURNED].initial, d < half ? head + d + half : head + d - half) *
                           (d < half ? -sine : sine);
            compare(k, act(r, X_TURNED, head + d), x * cosine + other,
                    2 * u * (fabs(x * cosine) + fabs(other)) + stored(c->type) * fabs(x * cosine + other));
        }
}

static void check_loss(checker *k) {
    const case_run *r = k->run;
    size_t V = (size_t)k->row->vocab, rows = (size_t)k->row->rows;
    for (size_t row = 0; row < rows; row = next(k, row, rows)) {
        int target = ((const uint16_t *)r->x[X_TARGET].data)[row];
        double top = -INFINITY, sum = 0;
        size_t best = 0;
        for (size_t i = 0; i < V; i++) {
            double x = f32(r, X_LOGITS, row * V + i);
            if (x > top) top = x, best = i;
        }
        for (size_t i = 0; i < V; i++) sum += exp(f32(r, X_LOGITS, row * V + i) - top);
        bool scored = target < (int)V - 1;
        double log_z = top + log(sum), off = sum_off((double)V) + 8 * u,
               x_t = f32(r, X_LOGITS, row * V + (size_t)target);
        double scale = scored ? (double)case_scalars.loss_scale : 0,
               factor = scale * (1 + 2 * (double)case_z_loss * log_z);
        output(k, "nats");
        compare(k, f32(r, X_NATS, row), scored ? log_z - x_t : 0, off + 2 * u * (fabs(log_z) + fabs(x_t) + fabs(top)));
        output(k, "best"), compare(k, ((const uint16_t *)r->x[X_BEST].data)[row], (double)best, 0);
        output(k, "dlogits");
        for (size_t i = 0; i < V; i++) {
            double x = f32(r, X_LOGITS, row * V + i), p = factor * exp(x - log_z),
                   d = p - ((int)i == target ? scale : 0);
            compare(k, act(r, X_DLOGITS, row * V + i), d,
                    p * (2 * off + 2 * u * fabs(x - top)) + (u + stored(k->row->type)) * fabs(d));
        }
    }
}

static void check_embed(checker *k, bool back) {
    const case_run *r = k->run;
    size_t C = (size_t)k->row->in, rows = (size_t)k->row->rows,
           table[2] = {(size_t)k->row->vocab, (size_t)k->row->positions};
    const int32_t *index[2] = {r->x[X_TOKEN].data, r->x[X_POSITION].data};
    if (!back) {
        output(k, "x");
        for (size_t row = 0; row < rows; row = next(k, row, rows))
            for (size_t i = 0; i < C; i++) {
                double x = f32(r, X_TOKEN_EMB, (size_t)index[0][row] * C + i) +
                           f32(r, X_POSITION_EMB, (size_t)index[1][row] * C + i);
                compare(k, f32(r, X_ROWS, row * C + i), x, u * fabs(x));
            }
        return;
    }
    for (int t = 0; t < 2; t++) {
        output(k, t ? "dpos_emb" : "dtoken_emb");
        for (size_t entry = 0; entry < table[t]; entry = next(k, entry, table[t]))
            for (size_t i = 0; i < C; i++) {
                double sum = before(r, X_TOKEN_EMB + t, entry * C + i), size = fabs(sum), count = 0;
                for (size_t row = 0; row < rows; row++)
                    if ((size_t)index[t][row] == entry)
                        sum += f32(r, X_ROWS, row * C + i), size += fabs(f32(r, X_ROWS, row * C + i)), count++;
                compare(k, f32(r, X_TOKEN_EMB + t, entry * C + i), sum, sum_off(count) * size);
            }
    }
}

static void check_adam(checker *k) {
    const case_run *r = k->run;
    const pa_scalars *s = &case_scalars;
    size_t blocks = k->row->count / 64 + 1;
    for (size_t block = 0; block < blocks; block = next(k, block, blocks))
        for (size_t i = block * 64; i < k->row->count && i < block * 64 + 64; i++) {
            double p = before(r, X_P, i), g = before(r, X_GRAD, i) * (double)s->grad_scale, a = (1 - s->beta1) * g,
                   m = before(r, X_M, i) * s->beta1;
            double v = before(r, X_V, i) * s->beta2 + (1 - s->beta2) * g * g, m_off = 3 * u * (fabs(a) + fabs(m)),
                   root = sqrt(v / s->c2) + s->eps;
            double update = s->lr[PA_GROUP_MATRIX] / s->c1 * (m + a) / root,
                   kept = p * (1 - s->lr[PA_GROUP_MATRIX] * s->decay);
            output(k, "m"), compare(k, f32(r, X_M, i), m + a, m_off);
            output(k, "v"), compare(k, f32(r, X_V, i), v, 5 * u * v);
            output(k, "p");
            double bound = s->lr[PA_GROUP_MATRIX] / s->c1 * m_off / root + 10 * u * fabs(update) + 2 * u * fabs(kept) +
                           u * fabs(kept - update);
            compare(k, f32(r, X_P, i), kept - update, bound);
            output(k, "g"), compare(k, f32(r, X_GRAD, i), 0, 0);
            if (k->row->type != PA_TYPE_BF16) continue;
            output(k, "copy"), compare(k, act(r, X_NARROW, i), f32(r, X_P, i), 0x1p-8 * fabs(f32(r, X_P, i)));
        }
}

static void check_column_sum(checker *k) {
    const case_run *r = k->run;
    size_t rows = (size_t)k->row->rows, C = (size_t)k->row->in;
    output(k, "sum");
    for (size_t i = 0; i < C; i = next(k, i, C)) {
        double sum = before(r, X_TO, i), size = fabs(sum);
        for (size_t row = 0; row < rows; row++)
            sum += f32(r, X_FROM, row * C + i), size += fabs(f32(r, X_FROM, row * C + i));
        compare(k, f32(r, X_TO, i), sum, sum_off((double)rows) * size);
    }
}

static void check_gemv(checker *k) {
    const case_run *r = k->run;
    size_t in = (size_t)k->row->in, out = (size_t)k->row->out, S = (size_t)k->row->rows;
    output(k, "y");
    for (size_t s = 0; s < S; s++)
        for (size_t o = 0; o < out; o = next(k, o, out)) {
            double sum = f32(r, X_BIAS, o), size = fabs(sum);
            for (size_t i = 0; i < in; i++) {
                double t = f32(r, X_LEFT, s * in + i) * act(r, X_RIGHT, o * in + i);
                sum += t, size += fabs(t);
            }
            compare(k, f32(r, X_OUT, s * out + o), sum, sum_off((double)in) * size);
        }
}

static void check_matmul(checker *k) {
    const pa_product *p = &k->row->product;
    const case_operand *x = k->run->x;
    size_t all = (size_t)p->m * (size_t)p->n, step = all / ((size_t)k->samples * 64) + 1;
    output(k, "c");
    for (size_t e = 0; e < all; e += step) {
        size_t i = e / (size_t)p->n, j = e % (size_t)p->n, at = e;
        double sum = p->add ? get(p->c, x[X_OUT].initial, at) : 0, size = fabs(sum);
        for (size_t l = 0; l < (size_t)p->k; l++) {
            double t = get(p->a, x[X_LEFT].data, p->a_t ? l * (size_t)p->m + i : i * (size_t)p->k + l) *
                       get(p->b, x[X_RIGHT].data, p->b_t ? j * (size_t)p->k + l : l * (size_t)p->n + j);
            sum += t, size += fabs(t);
        }
        compare(k, get(p->c, x[X_OUT].data, at), sum, sum_off((double)p->k) * size + stored(p->c) * fabs(sum));
    }
}

static void check_casts(checker *k) {
    const case_run *r = k->run;
    bool narrow = k->row->kind == CASE_CAST;
    size_t blocks = k->row->count / 64 + 1;
    output(k, "y");
    for (size_t block = 0; block < blocks; block = next(k, block, blocks))
        for (size_t i = block * 64; i < k->row->count && i < block * 64 + 64; i++) {
            double x = narrow ? f32(r, X_FROM, i) : act(r, X_FROM, i), y = narrow ? act(r, X_TO, i) : f32(r, X_TO, i);
            compare(k, y, x, narrow && k->row->type == PA_TYPE_BF16 ? 0x1p-8 * fabs(x) : 0);
        }
}

static void check_sum_squares(checker *k) {
    double sum = 0, lost = 0, n = (double)k->row->count; // Kahan's sum, so that it can judge one in double
    for (size_t i = 0; i < k->row->count; i++) {
        double t = pow(f32(k->run, X_FROM, i), 2) - lost, s = sum + t;
        lost = (s - sum) - t, sum = s;
    }
    // Each of n additions rounds by half a unit at most. Squares of 24-bit numbers don't round up and down alike: no
    // random walk.
    output(k, "sum"), compare(k, *(const double *)k->run->x[X_TO].data, sum, n * 0x1p-53 * sum);
}

case_error case_check(const case_run *r, int samples) {
    checker k = {.run = r, .row = &r->row, .samples = samples};
    switch (r->row.kind) {
    case CASE_ATTENTION_FWD:
        case_check_attention_fwd(&k);
        break;
    case CASE_ATTENTION_BWD:
        case_check_attention_bwd(&k);
        break;
    case CASE_ATTENTION_DECODE:
        case_check_decode(&k);
        break;
    case CASE_LAYERNORM_FWD:
        check_layernorm_fwd(&k);
        break;
    case CASE_LAYERNORM_BWD:
        check_layernorm_bwd(&k);
        break;
    case CASE_HEAD_NORM_FWD:
        check_head_norm_fwd(&k);
        break;
    case CASE_HEAD_NORM_BWD:
        check_head_norm_bwd(&k);
        break;
    case CASE_ACTIVATION_FWD:
        check_activation(&k, false);
        break;
    case CASE_ACTIVATION_BWD:
        check_activation(&k, true);
        break;
    case CASE_ROTARY_FWD:
        check_rotary(&k);
        break;
    case CASE_CROSS_ENTROPY:
        check_loss(&k);
        break;
    case CASE_EMBED_FWD:
        check_embed(&k, false);
        break;
    case CASE_EMBED_BWD:
        check_embed(&k, true);
        break;
    case CASE_SUM_SQUARES:
        check_sum_squares(&k);
        break;
    case CASE_ADAM:
        check_adam(&k);
        break;
    case CASE_CAST:
    case CASE_WIDEN:
        check_casts(&k);
        break;
    case CASE_COLUMN_SUM:
        check_column_sum(&k);
        break;
    case CASE_GEMV:
        check_gemv(&k);
        break;
    case CASE_MATMUL:
        check_matmul(&k);
        break;
    }
    return worst(&k);
}
