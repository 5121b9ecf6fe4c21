// appraisal.c: see appraisal.h.
#include "host/play/appraisal.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum {
    SHORTEST = 15, // seconds of a take that is compared with pianists' minutes
    NAMED = 3,     // features in a list
};

// ---- text

// Appends to a text that is cut where there is no more room.
static void append(char *text, size_t size, const char *format, ...) {
    size_t length = strlen(text);
    va_list list;
    va_start(list, format);
    vsnprintf(text + length, size - length, format, list);
    va_end(list);
}

// The NAMED features with the largest amounts, the largest first. Returns how many amounts are above 0.
static int greatest(const double *amount, int *feature) {
    bool taken[PA_FEATURES] = {false};
    int count = 0;
    for (int f = 0; f < PA_FEATURES; f++) count += amount[f] > 0;
    for (int k = 0; k < NAMED && k < count; k++) {
        int best = -1;
        for (int f = 0; f < PA_FEATURES; f++)
            if (!taken[f] && amount[f] > 0 && (best < 0 || amount[f] > amount[best])) best = f;
        taken[best] = true;
        feature[k] = best;
    }
    return count;
}

static void append_outside(pa_appraisal *a) {
    double excess[PA_FEATURES];
    int feature[NAMED];
    for (int f = 0; f < PA_FEATURES; f++) excess[f] = pa_pianists_excess((pa_feature)f, a->features.value[f]);
    int count = greatest(excess, feature);
    append(a->remark, sizeof a->remark, count ? "outside pianists' range: " : "within pianists' range");
    for (int k = 0; k < count && k < NAMED; k++) {
        const pa_feature_range *r = pa_pianists_range((pa_feature)feature[k]);
        append(a->remark, sizeof a->remark, "%s%s %.*f (%.*f to %.*f)", k ? ", " : "", r->label, r->decimals,
               a->features.value[feature[k]], r->decimals, r->low, r->decimals, r->high);
    }
    if (count > NAMED) append(a->remark, sizeof a->remark, ", and %d more", count - NAMED);
}

static void append_rank(pa_appraisal *a, size_t takes, const pa_features *primer) {
    int feature[NAMED], count = greatest(a->part, feature);
    append(a->remark, sizeof a->remark, "rank %d of %zu, distance %.3f", a->rank, takes, a->distance);
    for (int k = 0; k < count && k < NAMED; k++) {
        const pa_feature_range *r = pa_pianists_range((pa_feature)feature[k]);
        append(a->remark, sizeof a->remark, "%s%s %.*f (expected %.*f)", k ? ", " : ": ", r->label, r->decimals,
               a->features.value[feature[k]], r->decimals, pa_pianists_expected((pa_feature)feature[k], primer));
    }
}

// ---- features

static pa_status measure_take(pa_appraisals *a, size_t k, const pa_primer *p, const pa_take *take, pa_err *err) {
    pa_appraisal *x = &a->take[k];
    double begins = pa_primer_seconds(p);
    pa_take_notes n;
    pa_status s = pa_take_decode(p, take, p->count, &n, err);
    if (s) return s;
    x->seconds = pa_token_seconds(take->token, take->count);
    x->notes = n.count - n.primer;
    const pa_passage all = {n.note, n.count, begins, begins + x->seconds};
    s = pa_features_measure_take(&all, k ? NULL : &a->primer.features, &x->features, err);
    a->primer.notes = n.primer;
    a->primer.seconds = begins;
    free(n.note);
    return s;
}

static void rank_takes(pa_appraisals *a) {
    for (size_t k = 0; k < a->count; k++) {
        double distance = a->take[k].distance;
        a->take[k].rank = 1;
        for (size_t i = 0; i < a->count; i++)
            a->take[k].rank += a->take[i].distance < distance || (i < k && a->take[i].distance == distance);
    }
}

pa_status pa_appraise(pa_appraisals *a, const pa_primer *p, const pa_takes *t, pa_err *err) {
    *a = (pa_appraisals){
        .count = t->count, .has_primer = pa_primer_seconds(p) > 0, .take = calloc(t->count + 1, sizeof *a->take)};
    pa_status s = a->take ? PA_OK : pa_error(err, PA_FAIL, "no memory for the features of %zu takes", t->count);
    for (size_t k = 0; k < t->count && !s; k++) s = measure_take(a, k, p, &t->take[k], err);
    if (s) return s;
    const pa_features *primer = a->has_primer ? &a->primer.features : NULL;
    for (size_t k = 0; k < a->count; k++) {
        pa_appraisal *x = &a->take[k];
        x->distance = pa_pianists_distance(&x->features, primer, x->part);
    }
    rank_takes(a);
    for (size_t k = 0; k < a->count; k++) {
        pa_appraisal *x = &a->take[k];
        if (a->count > 1) append_rank(x, a->count, primer);
        if (a->count > 1 && x->seconds >= SHORTEST) append(x->remark, sizeof x->remark, "; ");
        if (x->seconds >= SHORTEST) append_outside(x);
    }
    return PA_OK;
}

void pa_appraisals_clear(pa_appraisals *a) {
    free(a->take);
    *a = (pa_appraisals){0};
}
