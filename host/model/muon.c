// muon.c: see muon.h. The formula is that of torch.optim.Muon with its defaults.
#include "host/model/muon.h"

enum { STEPS = 5 };
// Newton and Schulz's iteration: brings all singular values near 1.
static const float COEFFICIENT[] = {3.4445f, -4.7750f, 2.0315f};

// Matrices as they are orthogonalised, no taller than wide.
static int short_side(const pa_param *row) {
    int rows = row->shape[0] / row->parts;
    return rows < row->shape[1] ? rows : row->shape[1];
}

static int long_side(const pa_param *row) {
    int rows = row->shape[0] / row->parts;
    return rows < row->shape[1] ? row->shape[1] : rows;
}

void pa_muon_sizes(const pa_params *p, size_t *matrix, size_t *square) {
    *matrix = *square = 0;
    for (int t = 0; t < p->count; t++) {
        const pa_param *row = &p->row[t];
        size_t m = (size_t)short_side(row), n = (size_t)long_side(row);
        if (row->group != PA_GROUP_MATRIX) continue;
        if (m * n > *matrix) *matrix = m * n;
        if (m * m > *square) *square = m * m;
    }
}

// Work to orthogonalise tensor t, up to a factor.
static double work_of(const pa_param *row) {
    double m = short_side(row), n = long_side(row);
    return row->group == PA_GROUP_MATRIX ? row->parts * m * m * (2 * n + m) : 0;
}

void pa_muon_divide(const pa_params *p, int ranks, pa_span *of) {
    double all = 0, done = 0;
    for (int t = 0; t < p->count; t++) all += work_of(&p->row[t]);
    int t = 0;
    for (int r = 0; r < ranks; r++) {
        of[r].from = r ? of[r - 1].to : 0;
        while (t < p->count && (r + 1 == ranks || done + work_of(&p->row[t]) / 2 <= all * (r + 1) / ranks))
            done += work_of(&p->row[t++]);
        of[r].to = (t < p->count ? p->row[t].offset : p->floats) * sizeof(float);
    }
}

// b = p(a) = c0 I + c1 a + c2 a a, of a symmetric matrix (m, m): what a step multiplies by.
static pa_status factor(pa_context *c, int m, void *b, const void *a, pa_err *err) {
    const pa_type type = c->info.muon;
    const pa_product square = {.m = m, .n = m, .k = m, .a = type, .b = type, .c = type, .b_t = true};
    pa_status s = c->ops->product(c->device, &square, a, a, b, err);
    if (s) return s;
    c->ops->polynomial(
        c->device,
        &(pa_polynomial){
            .type = type, .b = b, .a = a, .n = m, .p0 = COEFFICIENT[0], .p1 = COEFFICIENT[1], .p2 = COEFFICIENT[2]});
    return PA_OK;
}

// x (m, n), in muon_x: each step x = p(x xT) x. Leaves the result in *x.
static pa_status iterate(pa_context *c, int m, int n, void **x, pa_err *err) {
    const pa_type type = c->info.muon;
    const pa_product gram = {.m = m, .n = m, .k = n, .a = type, .b = type, .c = type, .b_t = true};
    const pa_product apply = {.m = m, .n = n, .k = m, .a = type, .b = type, .c = type};
    void *from = c->muon_x, *to = c->muon_y;
    pa_status s = PA_OK;
    for (int i = 0; i < STEPS && !s; i++) {
        s = c->ops->product(c->device, &gram, from, from, c->muon_square[0], err);
        if (!s) s = factor(c, m, c->muon_square[1], c->muon_square[0], err);
        if (!s) s = c->ops->product(c->device, &apply, c->muon_square[1], from, to, err);
        void *other = from;
        from = to;
        to = other;
    }
    *x = from;
    return s;
}

// The same steps on a = x xT, where all matrices are symmetric and commute: q = p(a), a = q a q, and the product of all
// q is applied to x at the end. Less work where x is wider than 3/2 of its height; in float32, for what rounding leaves
// of a's small eigenvalues, squares of x's singular values, grows some hundred times.
static pa_status iterate_square(pa_context *c, int m, int n, void **x, pa_err *err) {
    const pa_type type = c->info.muon;
    const pa_product gram = {.m = m, .n = m, .k = n, .a = type, .b = type, .c = type, .b_t = true};
    const pa_product square = {.m = m, .n = m, .k = m, .a = type, .b = type, .c = type, .b_t = true};
    const pa_product apply = {.m = m, .n = n, .k = m, .a = type, .b = type, .c = type};
    void *a = c->muon_square[0], *q = c->muon_square[1], *t = c->muon_square[2], *all = c->muon_square[3];
    pa_status s = c->ops->product(c->device, &gram, c->muon_x, c->muon_x, a, err);
    for (int i = 0; i < STEPS && !s; i++) {
        void *now = i ? q : all;
        if ((s = factor(c, m, now, a, err))) break;
        if (i + 1 < STEPS) {
            s = c->ops->product(c->device, &square, now, a, t, err);
            if (!s) s = c->ops->product(c->device, &square, t, now, a, err);
        }
        if (i && !s) {
            s = c->ops->product(c->device, &square, all, q, t, err);
            void *other = all;
            all = t;
            t = other;
        }
    }
    if (!s) s = c->ops->product(c->device, &apply, all, c->muon_x, c->muon_y, err);
    *x = c->muon_y;
    return s;
}

// Part `part` of tensor t.
static pa_status update_matrix(pa_context *c, int t, int part, pa_err *err) {
    const pa_param *row = &c->params->row[t];
    int rows = row->shape[0] / row->parts, columns = row->shape[1];
    size_t size = (size_t)rows * (size_t)columns, at = row->offset + (size_t)part * size;
    bool turn = rows > columns;
    double *squares = &c->sums[PA_SUM_MATRIX];
    void *x = NULL;
    c->ops->sum_squares(c->device, squares, c->grad + at, size, c->work.at);
    c->ops->normalise(c->device, &(pa_normalise){.type = c->info.muon,
                                                 .x = c->muon_x,
                                                 .u = c->grad + at,
                                                 .rows = rows,
                                                 .columns = columns,
                                                 .turn = turn,
                                                 .squares = squares});
    int m = short_side(row), n = long_side(row);
    bool wide = 2 * n > 3 * m && c->info.muon == PA_TYPE_F32;
    pa_status s = wide ? iterate_square(c, m, n, &x, err) : iterate(c, m, n, &x, err);
    if (s) return s;
    c->ops->muon(c->device, &(pa_muon){.type = c->info.muon,
                                       .p = c->param + at,
                                       .copy = c->weight ? (uint16_t *)c->weight + at : NULL,
                                       .copy_type = c->type,
                                       .x = x,
                                       .rows = rows,
                                       .columns = columns,
                                       .turn = turn,
                                       .decays = row->decays,
                                       .squares = &c->sums[PA_SUM_SQUARES],
                                       .scalars = c->scalars});
    return PA_OK;
}

pa_status pa_muon_matrices(pa_context *c, pa_err *err) {
    const pa_span mine = c->info.ranks ? c->muon_of[c->open.comm->rank] : (pa_span){0, c->floats * sizeof(float)};
    pa_status s = PA_OK;
    for (int t = 0; t < c->params->count; t++) {
        const pa_param *row = &c->params->row[t];
        size_t at = row->offset * sizeof(float);
        if (row->group != PA_GROUP_MATRIX || at < mine.from || at >= mine.to) continue;
        for (int part = 0; part < row->parts && !s; part++) s = update_matrix(c, t, part, err);
        if (s) return s;
    }
    return c->info.ranks ? c->ops->gather_spans(c->device, c->param, c->muon_of, err) : PA_OK;
}
