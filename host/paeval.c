// paeval.c: measures a checkpoint on a token file, writes its logits for given windows, or exports it. Scoring is in
// score.c.
#include <cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/cli.h"
#include "host/files/safetensors_write.h"
#include "host/play/inference.h"
#include "host/play/score.h"

#define NOT_GIVEN INT64_MIN

static const char *config, *logits_path, *export_path, *device = "auto", *precision = "auto";
static int64_t stride = NOT_GIVEN, batch = NOT_GIVEN, pieces = NOT_GIVEN;
static bool json, int8, half;

static const pa_option option[] = {
    {"stride", PA_OPT_INT, &stride, "S", "tokens from one window to the next (default: half of the latents)", "Measuring"},
    {"pieces", PA_OPT_INT, &pieces, "N", "number of pieces to measure, from the first (default: all)", NULL},
    {"json", PA_OPT_FLAG, &json, NULL, "print a JSON object instead of a table", NULL},
    {"logits", PA_OPT_STRING, &logits_path, "OUT", "output file for the logits of given windows: tensor x (B, M), I64 or U16, or tokens",
     "Logits"},
    {"export", PA_OPT_STRING, &export_path, "OUT", "output file for a copy of the checkpoint", "Export"},
    {"half", PA_OPT_FLAG, &half, NULL, "16-bit weights (F16) in the copy, half the size", NULL},
    {"config", PA_OPT_STRING, &config, "C.ini", "model settings, for a file of perceiver_ar_pytorch", "Checkpoint and device"},
    {"device", PA_OPT_CHOICE, &device, "auto|cpu|cuda", "compute device", NULL},
    {"precision", PA_OPT_CHOICE, &precision, "auto|fp32|bf16|fp16", "precision of matrix products and attention", NULL},
    {"int8", PA_OPT_FLAG, &int8, NULL, "round the weights of matrix products to 8 bits", NULL},
    {"batch", PA_OPT_INT, &batch, "B", "windows per batch (default: about 8192 latents)", NULL},
};
static const pa_program program = {
    .name = "paeval",
    .summary = "Measures how well a model predicts pieces: scores every token once, with the most context its windows allow.",
    .usage = "CHECKPOINT TOKENS.safetensors [options]\n"
             "CHECKPOINT WINDOWS.safetensors --logits OUT.safetensors [options]\n"
             "CHECKPOINT --export OUT.safetensors [--half]",
    .example = "paeval runs/v1 data/maestro/test.safetensors",
    .option = option,
    .options = sizeof option / sizeof *option};

// One measurement.
typedef struct {
    const pa_inference *model;
    const pa_token_set *tokens;
    const char *tokens_path;
    int64_t pieces;
    int stride;
    pa_score whole, crops;
    double took;
} result;

static double per(double sum, double count) {
    return count > 0 ? sum / count : (double)NAN;
}

static int64_t correct_of(const pa_score *s) {
    int64_t n = 0;
    for (int c = 0; c < PA_CLASSES; c++) n += s->correct[c];
    return n;
}

static void print_table(const result *r) {
    const pa_score *s = &r->whole;
    const pa_weights *w = &r->model->weights;
    double tokens = (double)pa_score_tokens(s), nats = pa_score_nats(s);
    printf("model       %s, step %lld, %s\n", w->path, (long long)w->step, w->foreign ? "foreign" : pa_encoding_name(w->encoding));
    printf("tokens      %s: %lld pieces, %.2f hours, %lld notes, %.0f tokens scored\n", r->tokens_path, (long long)r->pieces,
           s->seconds / 3600, (long long)s->notes, tokens);
    printf("windows     %d tokens, %d of them prefix, stride %d; %s on %s, %.0f tokens/s\n\n", w->model.context, w->model.prefix, r->stride,
           pa_inference_precision(r->model), r->model->backend->name, per(tokens, r->took));
    printf("nats        %.4f a token, %.4f a note, %.4f a second of music\n", nats / tokens, per(nats, (double)s->notes),
           per(nats, s->seconds));
    printf("accuracy    %.2f %%\n", 100 * (double)correct_of(s) / tokens);
    printf("loss_seed   %.4f (one random crop of each piece; PAD is scored, token 0 is not)\n\n", pa_score_loss_seed(&r->crops));
    printf("%-12s%12s%10s%10s%12s\n", "", "tokens", "share", "nats", "accuracy");
    for (int c = 0; c < PA_CLASSES; c++)
        if (s->tokens[c])
            printf("%-12s%12lld%8.2f %%%10.4f%10.2f %%\n", pa_class_name(c), (long long)s->tokens[c], 100 * (double)s->tokens[c] / tokens,
                   s->nats[c] / (double)s->tokens[c], 100 * (double)s->correct[c] / (double)s->tokens[c]);
}

static pa_status print_json(const result *r, pa_err *err) {
    const pa_score *s = &r->whole;
    const pa_weights *w = &r->model->weights;
    double tokens = (double)pa_score_tokens(s), nats = pa_score_nats(s);
    const struct {
        const char *name;
        double value;
    } number[] = {{"step", (double)w->step},
                  {"loss", nats / tokens},
                  {"nats_per_note", per(nats, (double)s->notes)},
                  {"nats_per_second", per(nats, s->seconds)},
                  {"accuracy", (double)correct_of(s) / tokens},
                  {"loss_seed", pa_score_loss_seed(&r->crops)},
                  {"pieces", (double)r->pieces},
                  {"tokens", tokens},
                  {"notes", (double)s->notes},
                  {"seconds", s->seconds},
                  {"context", w->model.context},
                  {"prefix", w->model.prefix},
                  {"stride", r->stride},
                  {"tokens_per_s", per(tokens, r->took)}};
    cJSON *o = cJSON_CreateObject(), *classes;
    cJSON_AddStringToObject(o, "model", w->path);
    cJSON_AddStringToObject(o, "tokens_file", r->tokens_path);
    cJSON_AddStringToObject(o, "encoding", pa_encoding_name(r->tokens->encoding));
    cJSON_AddStringToObject(o, "device", r->model->backend->name);
    cJSON_AddStringToObject(o, "precision", pa_inference_precision(r->model));
    for (size_t i = 0; i < sizeof number / sizeof *number; i++) cJSON_AddNumberToObject(o, number[i].name, number[i].value);
    classes = cJSON_AddObjectToObject(o, "classes");
    for (int c = 0; c < PA_CLASSES; c++) {
        if (!s->tokens[c]) continue;
        cJSON *one = cJSON_AddObjectToObject(classes, pa_class_name(c));
        cJSON_AddNumberToObject(one, "tokens", (double)s->tokens[c]);
        cJSON_AddNumberToObject(one, "loss", s->nats[c] / (double)s->tokens[c]);
        cJSON_AddNumberToObject(one, "accuracy", (double)s->correct[c] / (double)s->tokens[c]);
    }
    char *text = cJSON_Print(o);
    if (text) puts(text);
    cJSON_Delete(o);
    cJSON_free(text);
    return text ? PA_OK : pa_error(err, PA_FAIL, "no memory to print the result");
}

static pa_status measure(pa_inference *x, const char *path, pa_err *err) {
    pa_token_set t;
    pa_status s = pa_inference_tokens(x, &t, path, err);
    if (s) return s;
    const pa_model *m = &x->params.model;
    int B = batch > 0 ? (int)batch : pa_score_batch(m);
    result r = {.model = x, .tokens = &t, .tokens_path = path, .stride = stride > 0 ? (int)stride : pa_score_stride(m)};
    r.pieces = pieces > 0 && pieces < t.pieces ? pieces : t.pieces;
    if ((s = pa_inference_start(x, precision, int8, B, 0, err))) goto done;
    double began = pa_clock();
    pa_scoring scoring = {.backend = x->backend, .ctx = x->ctx, .model = m, .tokens = &t, .pieces = r.pieces, .batch = B};
    if ((s = pa_score_pieces(&scoring, r.stride, &r.whole, err))) goto done;
    r.took = pa_clock() - began;
    if (!pa_score_tokens(&r.whole)) {
        s = pa_error(err, PA_DATA, "%s: expected a piece of at least two tokens, found none in %lld pieces", path, (long long)r.pieces);
        goto done;
    }
    if (!isfinite(pa_score_nats(&r.whole))) {
        s = pa_error(err, PA_FAIL, "%s: expected a finite loss, found %g", x->weights.path, pa_score_nats(&r.whole));
        goto done;
    }
    if ((s = pa_score_crops(&scoring, &(pa_crops){.seed = 1, .seed_too = true}, &r.crops, err))) goto done;
    if (json)
        s = print_json(&r, err);
    else
        print_table(&r);
done:
    pa_token_set_close(&t);
    return s;
}

// ---- logits of given windows

// The windows as ids, malloc'ed; *B of *M tokens each.
static pa_status read_windows(const pa_st *st, const pa_model *m, uint16_t **ids, int64_t *B, int64_t *M, pa_err *err) {
    const char *path = pa_st_path(st);
    const pa_tensor *t = pa_st_find(st, "x");
    if (!t) t = pa_st_find(st, "tokens");
    if (!t) return pa_error(err, PA_DATA, "%s: expected a tensor x (B, M) or tokens, found neither", path);
    if (t->dtype != PA_I64 && t->dtype != PA_U16)
        return pa_error(err, PA_DATA, "%s: %s: expected I64 or U16, found %s", path, t->name, pa_dtype_name(t->dtype));
    if (t->rank != 1 && t->rank != 2)
        return pa_error(err, PA_DATA, "%s: %s: expected shape (B, M) or (M), found %d dimensions", path, t->name, t->rank);
    *B = t->rank == 2 ? t->shape[0] : 1, *M = t->shape[t->rank - 1];
    if (*B < 1 || *M <= m->prefix || *M > m->context)
        return pa_error(err, PA_DATA, "%s: %s: expected windows of %d to %d tokens, found %lld of %lld", path, t->name, m->prefix + 1,
                        m->context, (long long)*B, (long long)*M);
    size_t count = t->bytes / pa_dtype_size(t->dtype);
    *ids = malloc(count * sizeof **ids);
    if (!*ids) return pa_error(err, PA_FAIL, "no memory for %zu tokens", count);
    for (size_t i = 0; i < count; i++) {
        int64_t id = t->dtype == PA_I64 ? ((const int64_t *)t->data)[i] : ((const uint16_t *)t->data)[i];
        if (id < 0 || id >= m->vocab)
            return pa_error(err, PA_DATA, "%s: %s[%zu]: expected an id below %d, found %lld", path, t->name, i, m->vocab, (long long)id);
        (*ids)[i] = (uint16_t)id;
    }
    return PA_OK;
}

static pa_status write_logits(pa_inference *x, const char *path, pa_err *err) {
    const pa_model *m = &x->params.model;
    pa_st *st = NULL;
    uint16_t *ids = NULL;
    float *out = NULL;
    int64_t B = 0, M = 0;
    size_t size;
    pa_status s = pa_st_open(&st, path, err);
    if (s || (s = read_windows(st, m, &ids, &B, &M, err))) goto done;
    int most = batch > 0 ? (int)batch : pa_score_batch(m), N = (int)M - m->prefix;
    size_t row = (size_t)N * (size_t)m->vocab;
    if (!pa_mul_size(row * sizeof *out, (size_t)B, &size) || !(out = malloc(size))) {
        s = pa_error(err, PA_FAIL, "no memory for logits (%lld, %d, %d)", (long long)B, N, m->vocab);
        goto done;
    }
    if ((s = pa_inference_start(x, precision, int8, most < B ? most : (int)B, 0, err))) goto done;
    for (int64_t b = 0; b < B && !s; b += most) {
        double sum;
        pa_batch at = {
            .batch = B - b < most ? (int)(B - b) : most, .length = (int)M, .latents = N, .input = ids + b * M, .kept = m->prefix};
        s = x->backend->loss(x->ctx, &at, &sum, &(pa_scores){.logits = out + (size_t)b * row}, err);
    }
    if (s) goto done;
    s = pa_st_write(logits_path,
                    &(pa_tensor){.name = "logits", .dtype = PA_F32, .rank = 3, .shape = {B, N, m->vocab}, .data = out, .bytes = size}, 1,
                    NULL, 0, err);
    if (!s) printf("%s: logits (%lld, %d, %d)\n", logits_path, (long long)B, N, m->vocab);
done:
    free(out);
    free(ids);
    pa_st_close(st);
    return s;
}

// ---- export

static pa_status export(const char *checkpoint, pa_err *err) {
    pa_weights w;
    pa_status s = pa_weights_open(&w, checkpoint, config, NULL, err);
    if (s) return s;
    s = pa_check_spares("export", export_path, "the model", w.path, err);
    if (!s) s = pa_weights_export(&w, export_path, half, err);
    if (!s) printf("%s: %s weights of %s, step %lld\n", export_path, half ? "F16" : "F32", w.path, (long long)w.step);
    pa_weights_close(&w);
    return s;
}

static pa_status check_options(int given, pa_err *err) {
    if (export_path ? given != 1 : given != 2)
        return pa_error(err, PA_USAGE, "expected CHECKPOINT%s, found %d arguments (paeval --help)",
                        export_path ? " and nothing else with --export" : " and TOKENS.safetensors", given);
    const struct {
        const char *name;
        int64_t value, most;
    } range[] = {{"stride", stride, INT32_MAX}, {"pieces", pieces, INT64_MAX}, {"batch", batch, 4096}};
    for (size_t i = 0; i < sizeof range / sizeof *range; i++)
        if (range[i].value != NOT_GIVEN && (range[i].value < 1 || range[i].value > range[i].most))
            return pa_error(err, PA_USAGE, "--%s: expected 1 to %lld, found %lld", range[i].name, (long long)range[i].most,
                            (long long)range[i].value);
    if (!!logits_path + json + !!export_path > 1)
        return pa_error(err, PA_USAGE, "expected one of --json, --logits and --export, found %s",
                        json && logits_path && export_path ? "all" : "two");
    if (half && !export_path) return pa_error(err, PA_USAGE, "expected --half with --export OUT.safetensors, found it without");
    return PA_OK;
}

static pa_status run(int argc, char **argv, pa_err *err) {
    bool done;
    int given;
    pa_inference x;
    pa_status s = pa_cli_parse(&program, argc, argv, &given, &done, err);
    if (s || done) return s;
    if ((s = check_options(given, err))) return s;
    if (export_path) return export(argv[1], err);
    if (logits_path && ((s = pa_check_spares("logits", logits_path, "the windows", argv[2], err)) ||
                        (s = pa_check_spares("logits", logits_path, "--config", config, err))))
        return s;
    s = pa_inference_open(&x, argv[1], config, device, err);
    if (!s && logits_path) s = pa_check_spares("logits", logits_path, "the model", x.weights.path, err);
    if (!s) s = logits_path ? write_logits(&x, argv[2], err) : measure(&x, argv[2], err);
    pa_inference_close(&x);
    return s;
}

int main(int argc, char **argv) {
    pa_err err = {""};
    pa_cli_spin_briefly(argv);
    return pa_cli_end(&program, run(argc, argv, &err), &err);
}
