// plain_attention.h: attention's inputs and, in float64 and in the type under test, its plain computation, for
// test_attention.c. That file says what MARGIN and half are.
#ifndef PA_TEST_PLAIN_ATTENTION_H
#define PA_TEST_PLAIN_ATTENTION_H

typedef struct {
    int batch, latents, kept, heads, dim_head;
    float spread; // of q: scores reach about 4 spread
    float drop;
    int threads;
} shape;

// A tensor of `rows` rows of I numbers at `ld`, in the type under test and in double.
typedef struct {
    int rows, cols;
    ptrdiff_t ld;
    void *data;     // with `ld`, filled with a pattern beyond cols
    double *number; // (rows, cols)
} tensor;

typedef struct {
    shape s;
    pa_type type;
    pa_attn a;
    uint64_t window[4];
    tensor q, kp, vp, kn, vn, dout;
    double *exact[RESULTS], *plain[RESULTS];
    double score;   // largest sum of magnitudes in a score
    double terms;   // the same in a summand of dq or dk
    double summand; // the largest such summand
} problem;

static uint64_t draws;
static double uniform(void) {
    return 2 * pa_uniform(pa_random(7, PA_RANDOM_INIT, 0, draws++)) - 1;
}
static double get(pa_type type, const void *p, ptrdiff_t i) {
    if (type == PA_TYPE_F32) return (double)((const float *)p)[i];
    const uint16_t bits = ((const uint16_t *)p)[i];
    return (double)(half ? cuda_half_to_float(bits) : bf16_to_float(bits));
}
static void put(pa_type type, void *p, ptrdiff_t i, double x) {
    if (type == PA_TYPE_F32)
        ((float *)p)[i] = (float)x;
    else
        ((uint16_t *)p)[i] = half ? cuda_half_from_float((float)x) : bf16_from_float((float)x);
}
static double low(pa_type type, double x) {
    float place[1];
    put(type, place, 0, x);
    return get(type, place, 0);
}

static tensor tensor_make(pa_type type, int rows, int cols, ptrdiff_t ld, double spread) {
    tensor t = {rows, cols, ld, malloc((size_t)(rows * ld + 1) * 4), calloc((size_t)(rows * cols + 1), sizeof(double))};
    memset(t.data, 0x55, (size_t)(rows * ld + 1) * 4);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++) {
            double x = t.number[r * cols + c] = low(type, spread * uniform());
            put(type, t.data, r * ld + c, x);
        }
    return t;
}
static void tensor_free(tensor *t) {
    free(t->data);
    free(t->number);
}
// That nothing beyond the columns was written.
static void check_margins(pa_type type, const tensor *t) {
    for (int r = 0; r < t->rows; r++)
        for (size_t i = (size_t)(r * t->ld + t->cols) * pa_size(type); i < (size_t)((r + 1) * t->ld) * pa_size(type);
             i++)
            assert_int_equal(((unsigned char *)t->data)[i], 0x55);
}

// The weight of query n for key m survives dropout.
static bool survives(const pa_dropout *d, int b, int h, int n, int m) {
    uint64_t index = 1ull << 63 | (uint64_t)d->layer << 52 | (uint64_t)h << 40 | (uint64_t)n << 20 | (uint64_t)m / 4;
    return pa_random(d->seed, PA_RANDOM_DROPOUT, d->window[b], index).v[m % 4] >= (double)d->p * 4294967296.0;
}

static double *row_of(double *kept, double *own, const shape *s, int b, int m) {
    size_t I = (size_t)s->heads * (size_t)s->dim_head;
    return m < s->kept ? kept + ((size_t)b * (size_t)s->kept + (size_t)m) * I
                       : own + ((size_t)b * (size_t)s->latents + (size_t)(m - s->kept)) * I;
}

// How numbers are rounded: in sums, and of what is stored.
typedef enum { EXACT, PLAIN_F32, PLAIN_BF16 } rounding;
static double sum_round(rounding r, double x) {
    return r == EXACT ? x : (double)(float)x;
}
static double store_round(rounding r, double x) {
    return r == EXACT ? x : low(r == PLAIN_F32 ? PA_TYPE_F32 : PA_TYPE_BF16, x);
}
static double magnitude(const double *x, const double *y, int D) {
    double sum = 0;
    for (int d = 0; d < D; d++) sum += fabs(x[d] * y[d]);
    return sum;
}
static double dot(rounding r, const double *x, const double *y, int D) {
    double sum = 0;
    for (int d = 0; d < D; d++) sum = sum_round(r, sum + x[d] * y[d]);
    return sum;
}

// One query forward and backward; gradients of keys and values are added unrounded.
static void plain_query(problem *t, rounding r, double **to, int b, int h, int n) {
    const shape *s = &t->s;
    const int D = s->dim_head, seen = s->kept + n + 1;
    const size_t at = ((size_t)b * (size_t)s->latents + (size_t)n) * (size_t)(s->heads * D) + (size_t)(h * D);
    const double *q = t->q.number + at, *dout = t->dout.number + at, c = (double)t->a.scale,
                 survivor = 1 / (1 - (double)s->drop);
    double *p = malloc(sizeof(double) * (size_t)seen), *z = malloc(sizeof(double) * (size_t)seen), top = -INFINITY,
           sum = 0, delta = 0;
    for (int m = 0; m < seen; m++) {
        p[m] = sum_round(r, c * dot(r, q, row_of(t->kp.number, t->kn.number, s, b, m) + h * D, D));
        z[m] = s->drop > 0 ? (survives(&t->a.dropout, b, h, n, m) ? survivor : 0) : 1;
        top = fmax(top, p[m]);
    }
    for (int m = 0; m < seen; m++) sum = sum_round(r, sum + (p[m] = sum_round(r, exp(sum_round(r, p[m] - top)))));
    to[LSE][((size_t)b * (size_t)s->heads + (size_t)h) * (size_t)s->latents + (size_t)n] =
        sum_round(r, top + sum_round(r, log(sum)));
    for (int m = 0; m < seen; m++) {
        p[m] = sum_round(r, p[m] / sum);
        const double *v = row_of(t->vp.number, t->vn.number, s, b, m) + h * D;
        for (int d = 0; d < D; d++)
            to[O][at + (size_t)d] = sum_round(r, to[O][at + (size_t)d] + store_round(r, p[m] * z[m]) * v[d]);
    }
    for (int d = 0; d < D; d++) to[O][at + (size_t)d] = store_round(r, to[O][at + (size_t)d]);
    delta = dot(r, dout, to[O] + at, D);
    for (int m = 0; m < seen; m++) {
        const double *k = row_of(t->kp.number, t->kn.number, s, b, m) + h * D,
                     *v = row_of(t->vp.number, t->vn.number, s, b, m) + h * D;
        double *dk = row_of(to[DKP], to[DKN], s, b, m) + h * D, *dv = row_of(to[DVP], to[DVN], s, b, m) + h * D;
        t->score = fmax(t->score, c * magnitude(q, k, D));
        double dp = dot(r, dout, v, D), w = store_round(r, p[m] * z[m]),
               ds = store_round(r, p[m] * sum_round(r, dp * z[m] - delta));
        double terms = c * p[m] * (magnitude(dout, v, D) * z[m] + magnitude(dout, to[O] + at, D)),
               summand = c * p[m] * (fabs(dp * z[m]) + fabs(delta));
        for (int d = 0; d < D; d++) {
            to[DQ][at + (size_t)d] = sum_round(r, to[DQ][at + (size_t)d] + c * ds * k[d]);
            dk[d] = sum_round(r, dk[d] + c * ds * q[d]);
            dv[d] = sum_round(r, dv[d] + w * dout[d]);
            t->terms = fmax(t->terms, terms * fmax(fabs(k[d]), fabs(q[d])));
            t->summand = fmax(t->summand, summand * fmax(fabs(k[d]), fabs(q[d])));
        }
    }
    free(p);
    free(z);
}

static size_t result_size(const shape *s, int which) {
    size_t rows = (size_t)s->batch * (size_t)(which == DKP || which == DVP ? s->kept : s->latents);
    return which == LSE ? rows * (size_t)s->heads : rows * (size_t)(s->heads * s->dim_head);
}

static void plain(problem *t, rounding r, double **to) {
    for (int i = 0; i < RESULTS; i++) to[i] = calloc(result_size(&t->s, i) + 1, sizeof(double));
    for (int b = 0; b < t->s.batch; b++)
        for (int h = 0; h < t->s.heads; h++)
            for (int n = 0; n < t->s.latents; n++) plain_query(t, r, to, b, h, n);
    for (int i = DQ; i < RESULTS; i++)
        for (size_t j = 0; j < result_size(&t->s, i); j++) to[i][j] = store_round(r, to[i][j]);
}

static void problem_make(problem *t, shape s, pa_type type) {
    const int I = s.heads * s.dim_head, B = s.batch;
    const int margin = s.dim_head == 40 ? 1 : MARGIN;
    const ptrdiff_t ldq = I + 5 * margin, ldkv = 2 * I + margin, ldo = I + 3 * margin;
    *t = (problem){.s = s, .type = type, .window = {5, 1ull << 40, 77, 1}};
    t->q = tensor_make(type, B * s.latents, I, ldq, (double)s.spread);
    t->kp = tensor_make(type, B * s.kept, I, ldkv, 2);
    t->vp = tensor_make(type, B * s.kept, I, ldkv, 1);
    t->kn = tensor_make(type, B * s.latents, I, ldkv, 2);
    t->vn = tensor_make(type, B * s.latents, I, ldkv, 1);
    t->dout = tensor_make(type, B * s.latents, I, ldo, 1);
    t->a = (pa_attn){.type = type,
                     .batch = B,
                     .latents = s.latents,
                     .kept = s.kept,
                     .heads = s.heads,
                     .dim_head = s.dim_head,
                     .scale = (float)(1 / sqrt(s.dim_head)),
                     .ldq = ldq,
                     .ldkv = ldkv,
                     .ldo = ldo,
                     .q = t->q.data,
                     .kp = t->kp.data,
                     .vp = t->vp.data,
                     .kn = t->kn.data,
                     .vn = t->vn.data,
                     .dropout = {.p = s.drop, .seed = 3, .window = t->window, .layer = 2}};
    plain(t, EXACT, t->exact);
    plain(t, type == PA_TYPE_F32 ? PLAIN_F32 : PLAIN_BF16, t->plain);
}
static void problem_free(problem *t) {
    tensor *all[] = {&t->q, &t->kp, &t->vp, &t->kn, &t->vn, &t->dout};
    for (int i = 0; i < 6; i++) tensor_free(all[i]);
    for (int i = 0; i < RESULTS; i++) {
        free(t->exact[i]);
        free(t->plain[i]);
    }
}

#endif
