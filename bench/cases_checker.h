// cases_checker.h: what the checks against float64 share: numbers of operands, and a result that is compared with what
// rounding allows.
//
// Bounds. u = 2^-24. A sum of n float32 terms, in whatever order, is off by (sqrt(n) + 4) u times the sum of their
// magnitudes: roundings go up as often as down. Other steps add u of what they round, a number stored in bf16 2^-8 of
// itself.
#ifndef PA_BENCH_CASES_CHECKER_H
#define PA_BENCH_CASES_CHECKER_H

#include <math.h>

#include "bench/cases.h"
#include "cpu/simd.h"

static const double u = 0x1p-24; // half a unit in float32's last place

enum { OUTPUTS = 8 };
typedef struct {
    const case_run *run;
    const case_row *row;
    int samples;
    struct {
        const char *name;
        double error, largest, allowed;
    } output[OUTPUTS];
    int outputs, at; // at: being compared
} checker;

static inline double f32(const case_run *r, int i, size_t at) {
    return (double)((const float *)r->x[i].data)[at];
}
static inline double before(const case_run *r, int i, size_t at) {
    return (double)((const float *)r->x[i].initial)[at];
}
static inline double get(pa_type t, const void *p, size_t at) {
    return t == PA_TYPE_F32 ? (double)((const float *)p)[at] : (double)bf16_to_float(((const uint16_t *)p)[at]);
}
static inline double act(const case_run *r, int i, size_t at) {
    return get(r->row.type, r->x[i].data, at);
}
static inline double sum_off(double terms) {
    return (sqrt(terms) + 4) * u;
}
static inline double stored(pa_type t) {
    return t == PA_TYPE_F32 ? u : 0x1p-8;
}

static inline void output(checker *k, const char *name) {
    for (k->at = 0; k->at < k->outputs && k->output[k->at].name != name;) k->at++;
    if (k->at == k->outputs) k->output[k->outputs++].name = name;
}
static inline void compare(checker *k, double got, double exact, double bound) {
    double off = fabs(got - exact), allowed = off == 0 ? 0 : off / bound;
    if (off != off || isinf(off)) allowed = off = INFINITY;
    if (off > k->output[k->at].error) k->output[k->at].error = off;
    if (fabs(exact) > k->output[k->at].largest) k->output[k->at].largest = fabs(exact);
    if (!(allowed <= k->output[k->at].allowed)) k->output[k->at].allowed = allowed;
}
// Steps through n so that about `samples` are met, the first and last among them.
static inline size_t next(const checker *k, size_t i, size_t n) {
    size_t step = n / (size_t)k->samples;
    if (step < 1) step = 1;
    return i + 1 < n && i + step >= n ? n - 1 : i + step;
}

#endif
