// summary.c: see summary.h.
#include "host/play/summary.h"

#include <cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_SIZE = 4096 };

// The take's file, without its folder.
static pa_status name_take(const pa_output *o, size_t k, char *name, pa_err *err) {
    char path[NAME_SIZE];
    pa_status s = pa_output_name(o, k, path, sizeof path, err);
    const char *slash = strrchr(path, '/');
    snprintf(name, NAME_SIZE, "%s", slash ? slash + 1 : path);
    if (pa_output_is_tokens(o)) snprintf(name, NAME_SIZE, "continuation %zu", k + 1);
    return s;
}

// ---- the table

// The features that a table has room for.
static const struct {
    pa_feature feature;
    const char *title;
    int decimals;
    double scale;
} column[] = {{PA_NOTES_PER_SECOND, "notes/s", 1, 1},
              {PA_POLYPHONY, "at once", 1, 1},
              {PA_NOTE_SECONDS, "median s", 2, 1},
              {PA_LONGEST_NOTE, "longest s", 1, 1},
              {PA_VELOCITY_MEAN, "velocity", 1, 1},
              {PA_RETURNS, "returns %", 1, 100},
              {PA_LOOP, "loop", 0, 1}};
enum { COLUMNS = sizeof column / sizeof *column, WIDTH = 11 };

static void print_numbers(const double *value) { // (COLUMNS)
    for (int c = 0; c < COLUMNS; c++) {
        if (isnan(value[c]))
            printf("%*s", WIDTH, "-");
        else
            printf("%*.*f", WIDTH, column[c].decimals, column[c].scale * value[c]);
    }
    putchar('\n');
}

static void print_row(const char *name, int width, const pa_appraisal *a) {
    double value[COLUMNS];
    for (int c = 0; c < COLUMNS; c++) value[c] = a->features.value[column[c].feature];
    printf("%-*s%7zu%9.1f", width, name, a->notes, a->seconds);
    print_numbers(value);
}

static void print_pianists(const char *name, int width, bool high) {
    double value[COLUMNS];
    for (int c = 0; c < COLUMNS; c++) {
        const pa_feature_range *r = pa_pianists_range(column[c].feature);
        value[c] = high ? r->high : r->low;
    }
    printf("%-*s%7s%9s", width, name, "", "");
    print_numbers(value);
}

static void print_speed(const pa_summary *x) {
    const patrain_options *o = x->options;
    char precision[64];
    pa_precision_text(o, precision, sizeof precision);
    printf("%zu tokens in %.1f s, %.0f tokens/s", x->tokens, x->took, x->took > 0 ? (double)x->tokens / x->took : 0);
    if (x->kept < x->tokens) printf(", %zu of them kept", x->kept);
    printf("; %s on %s; %s, step %lld\n", precision, o->device, x->model->path, (long long)x->model->step);
}

static pa_status print_remarks(const pa_summary *x, pa_err *err) {
    char name[NAME_SIZE];
    pa_status s = PA_OK;
    for (size_t k = 0; k < x->appraisals->count && !s; k++) {
        const char *remark = x->appraisals->take[k].remark;
        s = name_take(x->output, k, name, err);
        if (!s && *remark) fprintf(stderr, "pagen: %s: %s\n", name, remark);
    }
    return s;
}

pa_status pa_summary_print(const pa_summary *x, pa_err *err) {
    const pa_appraisals *a = x->appraisals;
    char name[NAME_SIZE];
    int width = 20;
    pa_status s = a->count ? name_take(x->output, a->count - 1, name, err) : PA_OK; // the longest
    if (s) return s;
    if (a->count && (int)strlen(name) + 2 > width) width = (int)strlen(name) + 2;
    print_speed(x);
    printf("\n%-*s%7s%9s", width, "", "notes", "seconds");
    for (int c = 0; c < COLUMNS; c++) printf("%*s", WIDTH, column[c].title);
    putchar('\n');
    if (a->has_primer) print_row("primer", width, &a->primer);
    for (size_t k = 0; k < a->count && !s; k++) {
        s = name_take(x->output, k, name, err);
        if (!s) print_row(name, width, &a->take[k]);
    }
    print_pianists("pianists, 5 %", width, false);
    print_pianists("pianists, 95 %", width, true);
    return s ? s : print_remarks(x, err);
}

// ---- JSON

static void add_features(cJSON *o, const char *name, const double *value) {
    cJSON *list = cJSON_AddObjectToObject(o, name);
    for (int f = 0; f < PA_FEATURES; f++) cJSON_AddNumberToObject(list, pa_feature_name((pa_feature)f), value[f]);
}

static void add_appraisal(cJSON *o, const pa_appraisal *a) {
    cJSON_AddNumberToObject(o, "notes", (double)a->notes);
    cJSON_AddNumberToObject(o, "seconds", a->seconds);
    add_features(o, "features", a->features.value); // cJSON prints NaN as null
    cJSON_AddItemToObject(o, "rhythm", cJSON_CreateDoubleArray(a->features.rhythm, PA_RHYTHM_BINS));
}

static pa_status add_takes(cJSON *o, const pa_summary *x, pa_err *err) {
    cJSON *list = cJSON_AddArrayToObject(o, "takes");
    char name[NAME_SIZE];
    pa_status s = PA_OK;
    for (size_t k = 0; k < x->appraisals->count && !s; k++) {
        const pa_appraisal *a = &x->appraisals->take[k];
        cJSON *one = cJSON_CreateObject();
        s = name_take(x->output, k, name, err);
        cJSON_AddStringToObject(one, "name", name);
        cJSON_AddNumberToObject(one, "rank", a->rank);
        cJSON_AddStringToObject(one, "remark", a->remark);
        cJSON_AddNumberToObject(one, "distance", a->distance);
        add_features(one, "distances", a->part);
        add_appraisal(one, a);
        cJSON_AddItemToArray(list, one);
    }
    return s;
}

static void add_pianists(cJSON *o) {
    cJSON *list = cJSON_AddObjectToObject(o, "pianists");
    for (int f = 0; f < PA_FEATURES; f++) {
        const pa_feature_range *r = pa_pianists_range((pa_feature)f);
        const double range[] = {r->low, r->middle, r->high};
        cJSON_AddItemToObject(list, pa_feature_name((pa_feature)f), cJSON_CreateDoubleArray(range, 3));
    }
}

static void add_sampling(cJSON *o, const patrain_sampling *p) {
    cJSON *list = cJSON_AddObjectToObject(o, "sampling");
    cJSON_AddNumberToObject(list, "seed", (double)p->seed);
    cJSON_AddNumberToObject(list, "temperature", p->temperature);
    cJSON_AddNumberToObject(list, "top_k", p->top_k);
    cJSON_AddNumberToObject(list, "top_p", p->top_p);
    cJSON_AddNumberToObject(list, "min_p", p->min_p);
    cJSON_AddNumberToObject(list, "repetition_penalty", p->repetition_penalty);
    cJSON_AddBoolToObject(list, "long_notes", p->long_notes);
    cJSON_AddBoolToObject(list, "free_density", p->free_density);
}

pa_status pa_summary_print_json(const pa_summary *x, pa_err *err) {
    char precision[64];
    cJSON *o = cJSON_CreateObject();
    pa_precision_text(x->options, precision, sizeof precision);
    cJSON_AddStringToObject(o, "version", PA_VERSION);
    cJSON_AddStringToObject(o, "model", x->model->path);
    cJSON_AddNumberToObject(o, "step", (double)x->model->step);
    cJSON_AddStringToObject(o, "device", x->options->device);
    cJSON_AddStringToObject(o, "precision", precision);
    cJSON_AddNumberToObject(o, "tokens", (double)x->tokens);
    cJSON_AddNumberToObject(o, "tokens_kept", (double)x->kept);
    cJSON_AddNumberToObject(o, "seconds", x->took);
    add_sampling(o, x->sampling);
    add_pianists(o);
    if (x->appraisals->has_primer) add_appraisal(cJSON_AddObjectToObject(o, "primer"), &x->appraisals->primer);
    pa_status s = add_takes(o, x, err);
    char *text = s ? NULL : cJSON_Print(o);
    if (text) puts(text);
    if (!s && !text) s = pa_error(err, PA_FAIL, "no memory to print the result");
    cJSON_Delete(o);
    cJSON_free(text);
    return s ? s : print_remarks(x, err);
}
