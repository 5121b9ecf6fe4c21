// evaluation.c: see evaluation.h.
#include "host/play/evaluation.h"

#include <cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double per(double sum, double count) {
    return count > 0 ? sum / count : (double)NAN;
}

static int64_t correct_of(const pa_score *s) {
    int64_t n = 0;
    for (int c = 0; c < PA_CLASSES; c++) n += s->correct[c];
    return n;
}

static double accuracy_of(const pa_score *s) {
    return (double)correct_of(s) / (double)pa_score_tokens(s);
}

// ---- the table

static void print_windows(const pa_result *x) {
    printf("windows     %d tokens, %d of them prefix, stride %d; %s on %s, %.0f tokens/s\n", x->model->context,
           x->model->prefix, x->stride, x->precision, x->device, per((double)pa_score_tokens(&x->sums.whole), x->took));
}

static void print_nats(const pa_result *x) {
    const pa_score *s = &x->sums.whole;
    double nats = pa_score_nats(s);
    printf("nats        %.4f a token, %.4f a note, %.4f a second of music\n", x->mean.mean, per(nats, (double)s->notes),
           per(nats, s->seconds));
    if (isfinite(x->mean.error))
        printf("interval    %.4f to %.4f a token (95 %%, over pieces)\n", x->mean.low, x->mean.high);
}

static void print_difference(const pa_evaluation *r) {
    const pa_result *b = r->base;
    const pa_estimate *d = &r->difference;
    printf("\nbaseline    %s, step %lld\n", b->model->path, (long long)b->model->step);
    print_windows(b);
    print_nats(b);
    printf("accuracy    %.2f %%\n", 100 * accuracy_of(&b->sums.whole));
    printf("difference  %+.4f a token", d->mean);
    if (isfinite(d->error)) printf(", %+.4f to %+.4f (95 %%, over pieces)", d->low, d->high);
    printf("; below 0: better than the baseline\n");
}

static void print_classes(const pa_evaluation *r) {
    const pa_score *s = &r->result->sums.whole, *b = r->base ? &r->base->sums.whole : NULL;
    double tokens = (double)pa_score_tokens(s);
    printf("%-12s%12s%10s%10s%12s%s\n", "", "tokens", "share", "nats", "accuracy", b ? "  baseline  difference" : "");
    for (int c = 0; c < PA_CLASSES; c++) {
        if (!s->tokens[c]) continue;
        double n = (double)s->tokens[c], loss = s->nats[c] / n;
        printf("%-12s%12lld%8.2f %%%10.4f%10.2f %%", pa_class_name(c), (long long)s->tokens[c], 100 * n / tokens, loss,
               100 * (double)s->correct[c] / n);
        if (b) printf("%10.4f%12.4f", b->nats[c] / n, loss - b->nats[c] / n);
        putchar('\n');
    }
}

// base: NULL, or the other model's rows. If two models differ in context, so do the tokens of a row.
static void print_rows(const char *name, const pa_measure_row *row, const pa_measure_row *base, int rows,
                       double tokens) {
    printf("\n%-12s%12s%10s%10s%s\n", name, "tokens", "share", "nats",
           base ? "              baseline  difference" : "");
    for (int i = 0; i < rows; i++) {
        char range[64];
        if (!row[i].tokens) continue;
        snprintf(range, sizeof range, row[i].to < INT64_MAX ? "%lld-%lld" : "%lld-", (long long)row[i].from,
                 (long long)row[i].to);
        double n = (double)row[i].tokens, loss = row[i].nats / n;
        printf("%-12s%12lld%8.2f %%%10.4f", range, (long long)row[i].tokens, 100 * n / tokens, loss);
        if (base) printf("%22.4f%12.4f", base[i].nats / n, loss - base[i].nats / n);
        putchar('\n');
    }
}

void pa_evaluation_print(const pa_evaluation *r) {
    const pa_result *x = r->result;
    const pa_score *s = &x->sums.whole;
    const patrain_model_info *m = x->model;
    double tokens = (double)pa_score_tokens(s);
    printf("model       %s, step %lld, %s\n", m->path, (long long)m->step,
           m->foreign ? "foreign" : pa_encoding_name((pa_encoding)m->encoding));
    printf("tokens      %s: %zu piece%s, %.2f hours, %lld notes, %.0f tokens scored\n", r->tokens_path, x->sums.pieces,
           x->sums.pieces == 1 ? "" : "s", s->seconds / 3600, (long long)s->notes, tokens);
    print_windows(x);
    putchar('\n');
    print_nats(x);
    printf("accuracy    %.2f %%\n", 100 * accuracy_of(s));
    printf("loss_seed   %.4f (one random crop of each piece; PAD is scored, token 0 is not)\n", r->loss_seed);
    if (r->base) print_difference(r);
    putchar('\n');
    print_classes(r);
    print_rows("position", x->sums.position, r->base ? r->base->sums.position : NULL, PA_POSITIONS, tokens);
    print_rows("context", x->sums.context, NULL, PA_CONTEXTS, tokens);
    printf("\nposition: tokens before it in its piece; context: tokens that it was predicted from.\n");
}

// ---- JSON

typedef struct {
    const char *name;
    double value;
} number;

static void add_numbers(cJSON *o, const number *n, size_t count) {
    for (size_t i = 0; i < count; i++) cJSON_AddNumberToObject(o, n[i].name, n[i].value);
}
#define ADD_NUMBERS(o, table) add_numbers(o, table, sizeof table / sizeof *table)

static void add_rows(cJSON *o, const char *name, const pa_measure_row *row, int rows) {
    cJSON *list = cJSON_AddArrayToObject(o, name);
    for (int i = 0; i < rows; i++) {
        if (!row[i].tokens) continue;
        const number value[] = {
            {"from", (double)row[i].from},
            {"to", row[i].to < INT64_MAX ? (double)row[i].to : (double)NAN}, // which cJSON prints as null
            {"tokens", (double)row[i].tokens},
            {"loss", row[i].nats / (double)row[i].tokens}};
        cJSON *one = cJSON_CreateObject();
        ADD_NUMBERS(one, value);
        cJSON_AddItemToArray(list, one);
    }
}

static void add_classes(cJSON *o, const pa_score *s) {
    cJSON *classes = cJSON_AddObjectToObject(o, "classes");
    for (int c = 0; c < PA_CLASSES; c++) {
        if (!s->tokens[c]) continue;
        double n = (double)s->tokens[c];
        const number value[] = {{"tokens", n}, {"loss", s->nats[c] / n}, {"accuracy", (double)s->correct[c] / n}};
        cJSON *one = cJSON_AddObjectToObject(classes, pa_class_name(c));
        ADD_NUMBERS(one, value);
    }
}

static void add_result(cJSON *o, const pa_result *x) {
    const pa_score *s = &x->sums.whole;
    const patrain_model_info *m = x->model;
    double tokens = (double)pa_score_tokens(s), nats = pa_score_nats(s);
    const number value[] = {{"step", (double)m->step},
                            {"parameters", (double)m->parameters},
                            {"loss", x->mean.mean},
                            {"loss_error", x->mean.error},
                            {"loss_low", x->mean.low},
                            {"loss_high", x->mean.high},
                            {"nats_per_note", per(nats, (double)s->notes)},
                            {"nats_per_second", per(nats, s->seconds)},
                            {"accuracy", accuracy_of(s)},
                            {"context", m->context},
                            {"prefix", m->prefix},
                            {"stride", x->stride},
                            {"tokens_per_s", per(tokens, x->took)}};
    cJSON_AddStringToObject(o, "model", m->path);
    cJSON_AddStringToObject(o, "device", x->device);
    cJSON_AddStringToObject(o, "precision", x->precision);
    ADD_NUMBERS(o, value);
    add_classes(o, s);
    add_rows(o, "positions", x->sums.position, PA_POSITIONS);
    add_rows(o, "contexts", x->sums.context, PA_CONTEXTS);
}

static void add_difference(cJSON *o, const pa_estimate *d) {
    const number value[] = {{"loss", d->mean}, {"loss_error", d->error}, {"loss_low", d->low}, {"loss_high", d->high}};
    cJSON *one = cJSON_AddObjectToObject(o, "difference");
    ADD_NUMBERS(one, value);
}

pa_status pa_evaluation_print_json(const pa_evaluation *r, pa_err *err) {
    const pa_score *s = &r->result->sums.whole;
    const number value[] = {{"loss_seed", r->loss_seed},
                            {"pieces", (double)r->result->sums.pieces},
                            {"tokens", (double)pa_score_tokens(s)},
                            {"notes", (double)s->notes},
                            {"seconds", s->seconds}};
    char crc[16];
    snprintf(crc, sizeof crc, "%08x", r->tokens->crc);
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "version", PA_VERSION);
    cJSON_AddStringToObject(o, "tokens_file", r->tokens_path);
    cJSON_AddStringToObject(o, "tokens_crc32c", crc);
    cJSON_AddStringToObject(o, "encoding", pa_encoding_name(r->tokens->encoding));
    ADD_NUMBERS(o, value);
    add_result(o, r->result);
    if (r->base) {
        add_result(cJSON_AddObjectToObject(o, "baseline"), r->base);
        add_difference(o, &r->difference);
    }
    char *text = cJSON_Print(o);
    if (text) puts(text);
    cJSON_Delete(o);
    cJSON_free(text);
    return text ? PA_OK : pa_error(err, PA_FAIL, "no memory to print the result");
}
