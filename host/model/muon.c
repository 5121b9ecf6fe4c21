// muon.c: see muon.h. The formula is that of torch.optim.Muon with its defaults.
#include "host/model/muon.h"

enum { STEPS = 5 };
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
        while (t < p->count && (r + 1 == ranks || done + work_of(&p->row[t]) / 2 <= all * (r + 1) / ranks)) done += work_of(&p->row[t++]);
        of[r].to = (t < p->count ? p->row[t].offset : p->floats) * sizeof(float);
    }
}

// Newton and Schulz's iteration: brings all singular values of x (m, n), m <= n, near 1. Returns where the result is, in *x.
static pa_status orthogonalise(pa_context *c, int m, int n, void **x, pa_err *err) {
    const pa_type type = c->info.muon;
    const pa_product gram = {.m = m, .n = m, .k = n, .a = type, .b = type, .c = type, .b_t = true};
    const pa_product square = {.m = m, .n = m, .k = m, .a = type, .b = type, .c = type, .b_t = true}; // of a symmetric matrix
    const pa_product turn = {.m = m, .n = n, .k = m, .a = type, .b = type, .c = type};
    void *from = c->muon_x, *to = c->muon_y;
    pa_status s = PA_OK;
    for (int i = 0; i < STEPS && !s; i++) {
        if ((s = c->ops->product(c->device, &gram, from, from, c->muon_a, err))) break;
        if ((s = c->ops->product(c->device, &square, c->muon_a, c->muon_a, c->muon_b, err))) break;
        c->ops->polynomial(
            c->device,
            &(pa_polynomial){
                .type = type, .b = c->muon_b, .a = c->muon_a, .n = m, .p0 = COEFFICIENT[0], .p1 = COEFFICIENT[1], .p2 = COEFFICIENT[2]});
        s = c->ops->product(c->device, &turn, c->muon_b, from, to, err);
        void *other = from;
        from = to;
        to = other;
    }
    *x = from;
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
    c->ops->normalise(
        c->device,
        &(pa_normalise){
            .type = c->info.muon, .x = c->muon_x, .u = c->grad + at, .rows = rows, .columns = columns, .turn = turn, .squares = squares});
    pa_status s = orthogonalise(c, short_side(row), long_side(row), &x, err);
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
