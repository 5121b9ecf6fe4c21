// paeval.c: measures a checkpoint on a token file, writes its logits for given windows, exports it, or looks for copies
// of a corpus.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/cli.h"
#include "host/base/progress.h"
#include "host/files/mapping.h"
#include "host/files/model_path.h"
#include "host/files/safetensors_write.h"
#include "host/files/weights.h"
#include "host/play/copies_report.h"
#include "host/play/evaluation.h"

#define NOT_GIVEN INT64_MIN

static const char *config, *baseline, *copies, *logits_path, *export_path, *device = "auto", *precision = "auto";
static int64_t stride = NOT_GIVEN, batch = NOT_GIVEN, pieces = NOT_GIVEN;
static bool json, int8, half;
static const char *chosen; // the device

static const pa_option option[] = {
    {"stride", PA_OPT_INT, &stride, "S", "tokens from one window to the next (default: half of the latents)",
     "Measuring"},
    {"pieces", PA_OPT_INT, &pieces, "N", "number of pieces to measure, from the first (default: all)", NULL},
    {"baseline", PA_OPT_STRING, &baseline, "CHECKPOINT", "another model to compare with on the same tokens", NULL},
    {"json", PA_OPT_FLAG, &json, NULL, "print a JSON object instead of tables", NULL},
    {"logits", PA_OPT_STRING, &logits_path, "OUT",
     "output file for logits; WINDOWS has the windows as tensor x (B, M), I64 or U16, or as tokens", "Logits"},
    {"export", PA_OPT_STRING, &export_path, "OUT", "output file for a copy of the checkpoint", "Export"},
    {"half", PA_OPT_FLAG, &half, NULL, "16-bit weights (F16) in the copy, half the size", NULL},
    {"copies", PA_OPT_STRING, &copies, "TRAIN",
     "longest stretches that pieces of TOKENS, for example takes, have in common with TRAIN", "Copies"},
    {"config", PA_OPT_STRING, &config, "C.ini", "model settings, for a file of perceiver_ar_pytorch",
     "Checkpoint and device"},
    {"device", PA_OPT_CHOICE, &device, "auto|cpu|cuda", "compute device", NULL},
    {"precision", PA_OPT_CHOICE, &precision, "auto|fp32|bf16|fp16", "precision of matrix products and attention", NULL},
    {"int8", PA_OPT_FLAG, &int8, NULL, "round the weights of matrix products to 8 bits", NULL},
    {"batch", PA_OPT_INT, &batch, "B", "windows per batch (default: about 8192 latents)", NULL},
};
static const pa_program program = {
    .name = "paeval",
    .summary =
        "Measures how well a model predicts pieces: scores every token once, with the most context its windows allow.",
    .usage = "CHECKPOINT TOKENS.safetensors [options]\n"
             "CHECKPOINT TOKENS.safetensors --baseline CHECKPOINT [options]\n"
             "CHECKPOINT WINDOWS.safetensors --logits OUT.safetensors [options]\n"
             "CHECKPOINT --export OUT.safetensors [--half]\n"
             "TOKENS.safetensors --copies TRAIN.safetensors [--json]",
    .note = PA_CHECKPOINT_NOTE,
    .example = "paeval runs/v1 data/maestro/test.safetensors",
    .option = option,
    .options = sizeof option / sizeof *option};

// ---- measuring

static int latents_of(const patrain_model_info *m) {
    return m->context - m->prefix;
}

static pa_status open_scorer(patrain_scorer **scorer, const patrain_model *model, int most, pa_err *err) {
    const patrain_options o = {.size = sizeof o, .device = chosen, .precision = precision, .int8 = int8, .batch = most};
    patrain_error why;
    return pa_from_library(patrain_scorer_open(scorer, model, &o, &why), &why, err);
}

static pa_status predict(void *scorer, const patrain_windows *w, pa_err *err) {
    patrain_error why;
    return pa_from_library(patrain_scorer_predict(scorer, w, &why), &why, err);
}

typedef struct {
    const patrain_piece *piece;
    pa_measure *sums;
    pa_progress bar;
} scoring;

static void add_tokens(void *arg, const patrain_scored *run) {
    scoring *x = arg;
    pa_measure_add(x->sums, x->piece[run->piece].tokens, run);
    pa_progress_update(&x->bar, (double)pa_score_tokens(&x->sums->whole));
}

static pa_status score_pieces(patrain_scorer *scorer, const pa_token_set *t, pa_result *r, pa_err *err) {
    scoring x = {.sums = &r->sums};
    size_t count = r->sums.pieces;
    patrain_error why;
    double total = 0;
    patrain_piece *piece = malloc((count + 1) * sizeof *piece);
    if (!piece) return pa_error(err, PA_FAIL, "no memory for %zu pieces", count);
    for (size_t i = 0; i < count; i++) {
        const pa_token_piece p = pa_token_set_piece(t, (int64_t)i);
        piece[i] = (patrain_piece){p.token, (size_t)p.count};
        r->sums.whole.notes += p.notes;
        r->sums.whole.seconds += p.seconds;
        total += p.count ? (double)p.count - 1 : 0;
    }
    x.piece = piece;
    double began = pa_clock();
    pa_progress_start(&x.bar, "scoring", "tokens", total);
    patrain_status s = patrain_scorer_pieces(scorer, piece, count, r->stride, add_tokens, &x, &why);
    pa_progress_end(&x.bar);
    r->took = pa_clock() - began;
    free(piece);
    return pa_from_library(s, &why, err);
}

static pa_status score_crops(patrain_scorer *scorer, const pa_token_set *t, const pa_result *r, double *loss_seed,
                             pa_err *err) {
    pa_score crops;
    const pa_scoring how = {.predict = predict,
                            .arg = scorer,
                            .context = r->model->context,
                            .prefix = r->model->prefix,
                            .vocab = PATRAIN_VOCABULARY,
                            .tokens = t,
                            .pieces = (int64_t)r->sums.pieces,
                            .batch = patrain_scorer_options(scorer)->batch};
    pa_status s = pa_score_crops(&how, &(pa_crops){.seed = 1, .seed_too = true}, &crops, err);
    *loss_seed = s ? 0 : pa_score_loss_seed(&crops);
    return s;
}

// Clear r->sums, after a failure too. loss_seed: NULL where it is not wanted.
static pa_status measure(const patrain_model *model, const pa_token_set *t, pa_result *r, double *loss_seed,
                         pa_err *err) {
    patrain_scorer *scorer = NULL;
    *r = (pa_result){.model = patrain_model_describe(model)};
    r->stride = stride > 0 ? (int)stride : latents_of(r->model) > 1 ? latents_of(r->model) / 2 : 1;
    pa_status s = pa_measure_init(&r->sums, (size_t)(pieces > 0 && pieces < t->pieces ? pieces : t->pieces), err);
    if (!s) s = open_scorer(&scorer, model, batch > 0 ? (int)batch : 0, err);
    if (s) return s;
    snprintf(r->device, sizeof r->device, "%s", patrain_scorer_options(scorer)->device);
    pa_precision_text(patrain_scorer_options(scorer), r->precision, sizeof r->precision);
    if ((s = score_pieces(scorer, t, r, err))) goto done;
    r->mean = pa_measure_mean(&r->sums);
    if (!pa_score_tokens(&r->sums.whole))
        s = pa_error(err, PA_DATA, "expected a piece of at least two tokens, found none in %zu pieces", r->sums.pieces);
    else if (!isfinite(pa_score_nats(&r->sums.whole)))
        s = pa_error(err, PA_FAIL, "%s: expected a finite loss, found %g", r->model->path,
                     pa_score_nats(&r->sums.whole));
    else if (loss_seed)
        s = score_crops(scorer, t, r, loss_seed, err);
done:
    patrain_scorer_close(scorer);
    return s;
}

// base: NULL, or the model to compare with.
static pa_status report(const patrain_model *model, const patrain_model *base, const char *path, pa_err *err) {
    pa_token_set t;
    pa_result result = {0}, other = {0};
    pa_evaluation r = {.tokens_path = path, .tokens = &t, .result = &result, .base = base ? &other : NULL};
    pa_status s = pa_open_tokens(&t, model, path, err);
    if (s) return s;
    if (base && (s = pa_check_encoding(&t, base, path, err))) goto done;
    if ((s = measure(model, &t, &result, &r.loss_seed, err))) goto done;
    if (base && (s = measure(base, &t, &other, NULL, err))) goto done;
    if (base && (s = pa_measure_difference(&result.sums, &other.sums, &r.difference, err))) goto done;
    if ((s = pa_token_set_check(&t, true, err))) goto done;
    if (json)
        s = pa_evaluation_print_json(&r, err);
    else
        pa_evaluation_print(&r);
done:
    pa_measure_clear(&result.sums);
    pa_measure_clear(&other.sums);
    pa_token_set_close(&t);
    return s;
}

// ---- logits of given windows

// The windows as ids, malloc'ed; *B of *M tokens each.
static pa_status read_windows(const pa_st *st, const patrain_model_info *m, uint16_t **ids, int64_t *B, int64_t *M,
                              pa_err *err) {
    const char *path = pa_st_path(st);
    const pa_tensor *t = pa_st_find(st, "x");
    if (!t) t = pa_st_find(st, "tokens");
    if (!t) return pa_error(err, PA_DATA, "%s: expected a tensor x (B, M) or tokens, found neither", path);
    if (t->dtype != PA_I64 && t->dtype != PA_U16)
        return pa_error(err, PA_DATA, "%s: %s: expected I64 or U16, found %s", path, t->name, pa_dtype_name(t->dtype));
    if (t->rank != 1 && t->rank != 2)
        return pa_error(err, PA_DATA, "%s: %s: expected shape (B, M) or (M), found %d dimensions", path, t->name,
                        t->rank);
    *B = t->rank == 2 ? t->shape[0] : 1;
    *M = t->shape[t->rank - 1];
    if (*B < 1 || *M <= m->prefix || *M > m->context)
        return pa_error(err, PA_DATA, "%s: %s: expected windows of %d to %d tokens, found %lld of %lld", path, t->name,
                        m->prefix + 1, m->context, (long long)*B, (long long)*M);
    size_t count = t->bytes / pa_dtype_size(t->dtype);
    *ids = malloc(count * sizeof **ids);
    if (!*ids) return pa_error(err, PA_FAIL, "no memory for %zu tokens", count);
    for (size_t i = 0; i < count; i++) {
        int64_t id = t->dtype == PA_I64 ? ((const int64_t *)t->data)[i] : ((const uint16_t *)t->data)[i];
        if (id < 0 || id >= PATRAIN_VOCABULARY)
            return pa_error(err, PA_DATA, "%s: %s[%zu]: expected an id below %d, found %lld", path, t->name, i,
                            PATRAIN_VOCABULARY, (long long)id);
        (*ids)[i] = (uint16_t)id;
    }
    return PA_OK;
}

static pa_status write_logits(const patrain_model *model, const char *path, pa_err *err) {
    const patrain_model_info *m = patrain_model_describe(model);
    patrain_scorer *scorer = NULL;
    pa_st *st = NULL;
    uint16_t *ids = NULL;
    float *out = NULL;
    int64_t B = 0, M = 0;
    size_t size;
    pa_status s = pa_st_open(&st, path, err);
    if (s || (s = read_windows(st, m, &ids, &B, &M, err))) goto done;
    int most = batch > 0 ? (int)batch : m->batch, N = (int)M - m->prefix;
    size_t row = (size_t)N * PATRAIN_VOCABULARY;
    if (!pa_mul_size(row * sizeof *out, (size_t)B, &size) || !(out = malloc(size))) {
        s = pa_error(err, PA_FAIL, "no memory for logits (%lld, %d, %d)", (long long)B, N, PATRAIN_VOCABULARY);
        goto done;
    }
    s = open_scorer(&scorer, model, most < B ? most : (int)B, err);
    for (int64_t b = 0; b < B && !s; b += most) {
        const patrain_windows w = {.size = sizeof w,
                                   .batch = B - b < most ? (int)(B - b) : most,
                                   .length = (int)M,
                                   .latents = N,
                                   .input = ids + b * M,
                                   .logits = out + (size_t)b * row};
        s = predict(scorer, &w, err);
    }
    if (s) goto done;
    const pa_tensor logits = {
        .name = "logits", .dtype = PA_F32, .rank = 3, .shape = {B, N, PATRAIN_VOCABULARY}, .data = out, .bytes = size};
    s = pa_st_write(logits_path, &logits, 1, NULL, 0, err);
    if (!s) printf("%s: logits (%lld, %d, %d)\n", logits_path, (long long)B, N, PATRAIN_VOCABULARY);
done:
    patrain_scorer_close(scorer);
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
    if (!s) s = pa_check_spares_runs("export", export_path, err);
    if (!s) s = pa_weights_export(&w, export_path, half, err);
    if (!s) printf("%s: %s weights of %s, step %lld\n", export_path, half ? "F16" : "F32", w.path, (long long)w.step);
    pa_weights_close(&w);
    return s;
}

static pa_status check_options(int given, pa_err *err) {
    const struct {
        const char *name;
        bool given;
    } other[] = {{"--export", export_path}, {"--logits", logits_path},         {"--baseline", baseline},
                 {"--config", config},      {"--stride", stride != NOT_GIVEN}, {"--pieces", pieces != NOT_GIVEN}};
    for (size_t i = 0; i < sizeof other / sizeof *other && copies; i++)
        if (other[i].given) return pa_error(err, PA_USAGE, "expected --copies or %s, found both", other[i].name);
    if (copies && given != 1)
        return pa_error(err, PA_USAGE, "expected TOKENS.safetensors and nothing else with --copies, found %d arguments",
                        given);
    if (!copies && (export_path ? given != 1 : given != 2))
        return pa_error(err, PA_USAGE, "expected CHECKPOINT%s, found %d arguments (paeval --help)",
                        export_path ? " and nothing else with --export" : " and TOKENS.safetensors", given);
    const struct {
        const char *name;
        int64_t value, most;
    } range[] = {{"stride", stride, INT32_MAX}, {"pieces", pieces, INT64_MAX}, {"batch", batch, 4096}};
    for (size_t i = 0; i < sizeof range / sizeof *range; i++)
        if (range[i].value != NOT_GIVEN && (range[i].value < 1 || range[i].value > range[i].most))
            return pa_error(err, PA_USAGE, "--%s: expected 1 to %lld, found %lld", range[i].name,
                            (long long)range[i].most, (long long)range[i].value);
    if (!!logits_path + json + !!export_path > 1)
        return pa_error(err, PA_USAGE, "expected one of --json, --logits and --export, found %s",
                        json && logits_path && export_path ? "all" : "two");
    if (baseline && (logits_path || export_path))
        return pa_error(err, PA_USAGE, "expected --baseline or %s, found both", logits_path ? "--logits" : "--export");
    if (half && !export_path) return pa_error(err, PA_USAGE, "--half needs --export OUT.safetensors");
    return PA_OK;
}

static pa_status run(int argc, char **argv, pa_err *err) {
    bool done;
    int given;
    patrain_model *model = NULL, *base = NULL;
    patrain_error why;
    pa_status s = pa_cli_parse(&program, argc, argv, &given, &done, err);
    if (s || done) return s;
    if ((s = check_options(given, err))) return s;
    if (export_path) return export(argv[1], err);
    if (copies) return pa_copies_report(argv[1], copies, json, err);
    if (logits_path && ((s = pa_check_spares_runs("logits", logits_path, err)) ||
                        (s = pa_check_spares("logits", logits_path, "the windows", argv[2], err)) ||
                        (s = pa_check_spares("logits", logits_path, "--config", config, err))))
        return s;
    chosen = pa_choose_device(device);
    s = pa_from_library(patrain_model_open(&model, argv[1], config, &why), &why, err);
    if (!s && logits_path)
        s = pa_check_spares("logits", logits_path, "the model", patrain_model_describe(model)->path, err);
    if (!s && baseline) s = pa_from_library(patrain_model_open(&base, baseline, config, &why), &why, err);
    if (!s) s = logits_path ? write_logits(model, argv[2], err) : report(model, base, argv[2], err);
    patrain_model_close(base);
    patrain_model_close(model);
    return s;
}

int main(int argc, char **argv) {
    pa_err err = {""};
    pa_cli_spin_briefly(argv);
    pa_mapping_guard();
    return pa_cli_end(&program, run(argc, argv, &err), &err);
}
