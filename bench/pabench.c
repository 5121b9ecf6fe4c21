// pabench.c: measures every operation at the shapes of v1 to v5 and whole models, by part on the CPU, against roofs
// found in the same run, float64, and oneDNN or cuDNN. Prints tables, and writes JSON that bench/roofline.py draws.
#include <cJSON.h>
#include <math.h>
#include <omp.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/bench.h"
#include "host/base/cli.h"
#include "host/base/file.h"
#include "host/base/threads.h"

enum { SAMPLES = 12, MOST_CASES = 2 * 5 * CASE_ROWS, MOST_MODELS = 5 * 2 * BENCH_MODELS + 2 };

typedef struct {
    const char *device, *filter, *json, *precision;
    bool quick, bf16, gpu, half; // half: what rows call bf16 is fp16
    bool left_out;               // a model was
    char where[96];              // the GPU's name, or the instruction set
    const pa_backend *be;
    const pa_ops *ops;
    regex_t wanted;
    bench_effort effort;
    bench_roof roof;
    bench_case *cases;
    bench_model models[MOST_MODELS];
    int case_count, model_count, threads;
} options;

static bool wanted(const options *o, const char *name) {
    return !o->filter || regexec(&o->wanted, name, 0, NULL, 0) == 0;
}

static void prepare(void *what) {
    case_run *r = what;
    case_reset(r);
    if (r->row.cold) bench_flush();
}
static pa_status execute(void *what, pa_err *err) {
    return case_execute(what, err);
}

static pa_status measure_case(const options *o, const case_row *row, bench_case *to, pa_err *err) {
    case_run r;
    *to = (bench_case){.row = *row, .peer_note = ""};
#ifdef PA_WITH_CUDA
    if (o->gpu) return bench_cuda(row, o->ops, o->half, SAMPLES, o->effort, to, err);
#endif
    pa_status s = case_open(&r, row, o->ops, err);
    if (s) return s;
    if (!(s = case_execute(&r, err))) to->error = case_check(&r, SAMPLES);
    if (!s) s = bench_measure(&(bench_job){.before = prepare, .work = execute, .what = &r}, o->effort, &to->time, err);
    case_close(&r);
    return s ? s : bench_onednn(row, o->effort, &to->has_peer, &to->peer, &to->peer_note, err);
}

static pa_status measure_cases(options *o, int models, pa_err *err) {
    for (int m = 0; m < models; m++)
        for (int type = PA_TYPE_F32; type <= PA_TYPE_BF16; type++) {
            case_row row[CASE_ROWS];
            int rows = case_table(&case_models[m], (pa_type)type, row);
            bool asked = strcmp(o->precision, type == PA_TYPE_F32 ? "bf16" : "fp32") &&
                         (o->bf16 || type == PA_TYPE_F32 || !strcmp(o->precision, "bf16"));
            for (int i = 0; asked && i < rows; i++) {
                char *name = strstr(row[i].name, "bf16");
                if (name && o->half) memcpy(name, "fp16", 4);
                if (!wanted(o, row[i].name)) continue;
                fprintf(stderr, "%s\n", row[i].name);
                pa_status s = measure_case(o, &row[i], &o->cases[o->case_count], err);
                if (s) return s;
                o->case_count++;
            }
        }
    return PA_OK;
}

// A model that does not fit is reported and skipped, and the others are measured.
static void measure_model(options *o, const case_model *v, int i, int threads) {
    static const pa_precision precision[] = {PA_PRECISION_FP32, PA_PRECISION_BF16, PA_PRECISION_FP16};
    static const char *const type[] = {"fp32", "bf16", "fp16"}, *const what[] = {"train", "prefill", "decode"};
    bool asked[3];
    bench_model row[BENCH_MODELS];
    int rows;
    pa_err err;
    i = i && o->half ? 2 : i;
    for (int j = 0; j < 3; j++) {
        char name[64];
        snprintf(name, sizeof name, "%s %s%s %s", v->name, what[j], threads < o->threads ? ", one core" : "", type[i]);
        asked[j] = wanted(o, name) && (j == 0 || threads == o->threads);
    }
    if (!asked[0] && !asked[1] && !asked[2]) return;
    fprintf(stderr, "%s %s, %d threads\n", v->name, type[i], threads);
    const bench_model_run run = {.backend = o->be,
                                 .model = v,
                                 .precision = precision[i],
                                 .threads = threads,
                                 .effort = o->effort,
                                 .train = asked[0],
                                 .generate = asked[1] || asked[2]};
    if (bench_models(&run, row, &rows, &err)) {
        fprintf(stderr, "%s left out: %s\n", v->name, err.text);
        o->left_out = true;
    }
    for (int j = 0; j < rows; j++)
        if (wanted(o, row[j].name)) o->models[o->model_count++] = row[j];
}

static void measure_models(options *o, int models) {
    for (int m = 0; m < models; m++)
        for (int i = 0; i < 2; i++) {
            bool has = strcmp(o->precision, i ? "fp32" : "bf16") && (!i || o->bf16 || !strcmp(o->precision, "bf16"));
            if (has) measure_model(o, &case_models[m], i, o->threads);
            if (has && m == 0 && o->threads > 1 && !o->gpu) measure_model(o, &case_models[m], i, 1);
        }
}

static double spread(const bench_time *t) {
    return 50 * (t->high - t->low) / t->median;
}
// Seconds that the roofs allow this work to take at least, and whether memory is what holds it.
static double roof_seconds(const options *o, pa_type type, double flop, double bytes, bool reads, bool *memory) {
    double peak = o->roof.flops[type] > 0 ? o->roof.flops[type] : o->roof.flops[PA_TYPE_F32];
    double compute = flop / peak, move = bytes / (reads ? o->roof.read : o->roof.copy);
    *memory = move > compute;
    return *memory ? move : compute;
}

static void print_cases(const options *o) {
    printf("\n%-32s %10s %5s %9s %9s %8s %7s %6s %9s %10s\n", "operation", "ms", "+-%", "Gflop", "MB", "GF/s", "GB/s",
           "roof%", "error", o->gpu ? "cuDNN ms" : "oneDNN ms");
    for (int i = 0; i < o->case_count; i++) {
        const bench_case *c = &o->cases[i];
        bool memory;
        double t = c->time.median,
               roof = roof_seconds(o, c->row.type, c->row.flop, c->row.bytes, c->row.reads, &memory);
        printf("%-32s %10.3f %5.1f %9.3f %9.2f %8.1f %7.1f %5.0f%c %9.1e", c->row.name, t * 1e3, spread(&c->time),
               c->row.flop / 1e9, c->row.bytes / 1e6, c->row.flop / t / 1e9, c->row.bytes / t / 1e9, 100 * roof / t,
               memory ? 'm' : 'c', c->error.error);
        if (c->has_peer)
            printf(" %10.3f%s%s", c->peer.median * 1e3, *c->peer_note ? "  " : "", c->peer_note);
        else
            printf(" %10s", "-");
        printf("%s\n", c->error.allowed > 1 ? "  WRONG: further from float64 than rounding allows" : "");
    }
}

static double model_share(const options *o, const bench_model *m) {
    pa_type type = strstr(m->name, "fp32") ? PA_TYPE_F32 : PA_TYPE_BF16;
    double peak = o->roof.flops[type] > 0 ? o->roof.flops[type] : o->roof.flops[PA_TYPE_F32];
    return (m->read_bound ? m->bytes / o->roof.read : m->flop / peak) / m->time.median;
}

static void print_models(const options *o) {
    printf("\n%-24s %10s %5s %10s %9s %8s %7s %6s %8s   %s\n", "whole model", "ms", "+-%", "tokens/s", "Gflop", "GF/s",
           "GB/s", "roof%", "memory", "parts, ms (share)");
    for (int i = 0; i < o->model_count; i++) {
        const bench_model *m = &o->models[i];
        double t = m->time.median;
        printf("%-24s %10.2f %5.1f %10.1f %9.2f %8.1f %7.1f %5.0f%c %5.2f GB  ", m->name, t * 1e3, spread(&m->time),
               m->tokens / t, m->flop / 1e9, m->flop / t / 1e9, m->bytes / t / 1e9, 100 * model_share(o, m),
               m->read_bound ? 'm' : 'c', m->memory / 1e9);
        if (strstr(m->name, ", one core")) printf(" (roof%% of %d threads)", o->threads);
        for (int p = 0; p < PARTS; p++)
            if (m->part[p] > 0.0005 * t)
                printf(" %s %.2f (%.1f%%)", bench_part_name[p], m->part[p] * 1e3, 100 * m->part[p] / t);
        printf("\n");
    }
}

static void json_time(cJSON *to, const char *name, const bench_time *t) {
    cJSON *j = cJSON_AddObjectToObject(to, name);
    cJSON_AddNumberToObject(j, "median", t->median), cJSON_AddNumberToObject(j, "low", t->low);
    cJSON_AddNumberToObject(j, "high", t->high), cJSON_AddNumberToObject(j, "runs", t->runs);
}

static void json_cases(const options *o, cJSON *all) {
    for (int i = 0; i < o->case_count; i++) {
        const bench_case *c = &o->cases[i];
        bool memory;
        cJSON *j = cJSON_CreateObject();
        cJSON_AddItemToArray(all, j);
        cJSON_AddStringToObject(j, "name", c->row.name), cJSON_AddStringToObject(j, "type",
                                                                                 c->row.type == PA_TYPE_F32 ? "fp32"
                                                                                 : o->half                  ? "fp16"
                                                                                                            : "bf16");
        cJSON_AddNumberToObject(j, "flop", c->row.flop), cJSON_AddNumberToObject(j, "bytes", c->row.bytes);
        cJSON_AddBoolToObject(j, "cold", c->row.cold), cJSON_AddNumberToObject(j, "error", c->error.error);
        cJSON_AddNumberToObject(j, "error_over_allowed", c->error.allowed);
        double roof = roof_seconds(o, c->row.type, c->row.flop, c->row.bytes, c->row.reads, &memory);
        cJSON_AddNumberToObject(j, "roof_share", roof / c->time.median),
            cJSON_AddStringToObject(j, "roof", memory ? "memory" : "compute");
        json_time(j, "seconds", &c->time);
        if (!c->has_peer) continue;
        json_time(j, o->gpu ? "cudnn_seconds" : "onednn_seconds", &c->peer);
        cJSON_AddStringToObject(j, o->gpu ? "cudnn_note" : "onednn_note", c->peer_note);
    }
}

static void json_models(const options *o, cJSON *all) {
    for (int i = 0; i < o->model_count; i++) {
        const bench_model *m = &o->models[i];
        cJSON *j = cJSON_CreateObject();
        cJSON_AddItemToArray(all, j);
        cJSON_AddStringToObject(j, "name", m->name);
        json_time(j, "seconds", &m->time);
        cJSON_AddNumberToObject(j, "tokens_per_s", m->tokens / m->time.median),
            cJSON_AddNumberToObject(j, "flop", m->flop);
        cJSON_AddNumberToObject(j, "bytes", m->bytes), cJSON_AddNumberToObject(j, "memory", m->memory);
        cJSON_AddNumberToObject(j, "roof_share", model_share(o, m)),
            cJSON_AddStringToObject(j, "roof", m->read_bound ? "memory" : "compute");
        cJSON *parts = cJSON_AddObjectToObject(j, "parts");
        for (int p = 0; p < PARTS; p++) cJSON_AddNumberToObject(parts, bench_part_name[p], m->part[p]);
    }
}

static pa_status write_json(const options *o, pa_err *err) {
    cJSON *all = cJSON_CreateObject();
    char date[32];
    time_t now = time(NULL);
    strftime(date, sizeof date, "%Y-%m-%d", localtime(&now));
    cJSON_AddStringToObject(all, "version", PA_VERSION), cJSON_AddStringToObject(all, "date", date);
    cJSON_AddStringToObject(all, "device", o->be->name), cJSON_AddStringToObject(all, "isa", o->where);
    cJSON_AddNumberToObject(all, "threads", o->threads);
    cJSON *roof = cJSON_AddObjectToObject(all, "roof");
    cJSON_AddNumberToObject(roof, "fp32_flops", o->roof.flops[PA_TYPE_F32]),
        cJSON_AddNumberToObject(roof, "bf16_flops", o->roof.flops[PA_TYPE_BF16]);
    cJSON_AddNumberToObject(roof, "read", o->roof.read), cJSON_AddNumberToObject(roof, "copy", o->roof.copy);
    json_cases(o, cJSON_AddArrayToObject(all, "cases"));
    json_models(o, cJSON_AddArrayToObject(all, "models"));
    char *text = cJSON_Print(all);
    pa_file f;
    pa_status s = text ? pa_file_create(&f, o->json, err) : pa_error(err, PA_FAIL, "no memory");
    if (!s) fprintf(f.stream, "%s\n", text), s = pa_file_commit(&f, err);
    cJSON_Delete(all);
    free(text);
    return s;
}

static pa_status roofs(options *o, pa_err *err) {
    fprintf(stderr, "roofs\n");
#ifdef PA_WITH_CUDA
    if (o->gpu) return bench_cuda_roofs(o->ops, o->half, &o->roof, err);
#endif
    return bench_roofs(o->ops, o->bf16, &o->roof, err);
}

static pa_status choose(options *o, pa_err *err) {
    pa_status s = pa_backend_choose(o->device, &o->be, err);
    if (s) return s;
    if (!(o->ops = cpu_ops_select(getenv("PATRAIN_ISA"))))
        return pa_error(err, PA_USAGE, "PATRAIN_ISA: not an instruction set of this processor");
    o->gpu = o->be != pa_backend_cpu();
    o->bf16 = o->gpu || !strcmp(o->ops->name, "avx512_bf16");
    snprintf(o->where, sizeof o->where, "%s", o->ops->name);
#ifdef PA_WITH_CUDA
    if (o->gpu) s = bench_cuda_device(o->where, sizeof o->where, &o->half, err);
#endif
    return s;
}

static pa_status bench_all(options *o, pa_err *err) {
    int models = o->quick && !o->filter ? 1 : 5;
    pa_threads_enter(omp_get_max_threads());
    o->threads = omp_get_max_threads();
    pa_status s = choose(o, err);
    pa_file f;
    if (!s && o->json && !(s = pa_file_create(&f, o->json, err)))
        pa_file_abandon(&f); // that it can be written is known before
    if (s) return s;
    o->effort = o->quick ? (bench_effort){.seconds = 0.1, .least = 3}
                         : (bench_effort){.seconds = o->gpu ? 0.05 : 0.5, .least = 7};
    if (!(o->cases = calloc(MOST_CASES, sizeof *o->cases))) return pa_error(err, PA_FAIL, "no memory");
    if ((s = roofs(o, err)) || (s = measure_cases(o, models, err))) return s;
    measure_models(o, models);
    if (!o->case_count && !o->model_count && o->left_out) return pa_error(err, PA_FAIL, "nothing could be measured");
    if (!o->case_count && !o->model_count)
        return pa_error(err, PA_USAGE, "--filter: nothing is called like \"%s\"", o->filter ? o->filter : "");
    if ((s = roofs(o, err))) return s;
    printf("%s, %s, %d threads. Roofs, the best found before and after: matrix product fp32 %.1f GF/s", o->be->name,
           o->where, o->threads, o->roof.flops[PA_TYPE_F32] / 1e9);
    if (o->bf16) printf(", %s %.1f GF/s", o->half ? "fp16" : "bf16", o->roof.flops[PA_TYPE_BF16] / 1e9);
    printf("; read %.1f GB/s, copy %.1f GB/s.\nroof%%: c of the matrix product's rate, m of the memory's, whichever "
           "allows less;"
           " above 100m the work was in cache.\n",
           o->roof.read / 1e9, o->roof.copy / 1e9);
    if (o->case_count) print_cases(o);
    if (o->model_count) print_models(o);
    if (o->json && (s = write_json(o, err))) return s;
    for (int i = 0; i < o->case_count; i++)
        if (o->cases[i].error.allowed > 1)
            return pa_error(err, PA_FAIL, "%s: further from float64 than rounding allows", o->cases[i].row.name);
    return PA_OK;
}

int main(int argc, char **argv) {
    static options o = {.device = "cpu", .precision = "auto"};
    const pa_option option[] = {
        {"device", PA_OPT_CHOICE, &o.device, "auto|cpu|cuda", "where operations and whole models run", "Measurement"},
        {"precision", PA_OPT_CHOICE, &o.precision, "auto|fp32|bf16",
         "auto: both, bf16 where the processor has it; a GPU without it takes fp16 instead", NULL},
        {"filter", PA_OPT_STRING, &o.filter, "REGEX", "rows to measure, by name, such as \"v1 (train|matmul)\"", NULL},
        {"quick", PA_OPT_FLAG, &o.quick, NULL, "few repetitions, and only v1 unless --filter names others", NULL},
        {"json", PA_OPT_STRING, &o.json, "OUT", "output file for all results, as bench/roofline.py reads them",
         "Output"},
    };
    const pa_program program = {.name = "pabench",
                                .summary =
                                    "Measures the operations and whole models, against roofs measured in the same run.",
                                .usage = "[--device D] [--precision P] [--filter REGEX] [--json OUT] [--quick]",
                                .example = "pabench --quick\npabench --filter attention --json attention.json",
                                .option = option,
                                .options = sizeof option / sizeof *option};
    int positionals;
    bool done;
    pa_err err;
    pa_cli_spin_briefly(argv);
    pa_status s = pa_cli_parse(&program, argc, argv, &positionals, &done, &err);
    if (!s && !done && positionals) s = pa_error(&err, PA_USAGE, "expected no argument, found \"%s\"", argv[1]);
    if (!s && !done && o.filter && regcomp(&o.wanted, o.filter, REG_EXTENDED | REG_NOSUB))
        s = pa_error(&err, PA_USAGE, "--filter: expected a regular expression, found \"%s\"", o.filter);
    if (!s && !done) s = bench_all(&o, &err);
    free(o.cases);
    return pa_cli_end(&program, s, &err);
}
