// pagen.c: continues a piece: primer in, music out. Sampling is in generate.c, reading and writing of music in music.c.
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/cli.h"
#include "host/base/progress.h"
#include "host/play/generate.h"
#include "host/play/inference.h"
#include "host/play/music.h"

#define NOT_GIVEN INT64_MIN
enum {
    MOST_STREAMS = 8,      // continuations made at a time
    TOKENS_A_SECOND = 250, // more are no music: where only seconds are asked for, the model is stuck in one moment
    DEFAULT_SECONDS = 60,
};

static const char *config, *primer_path, *output, *device = "auto", *precision = "auto";
static double prime_seconds = (double)NAN, length_seconds = (double)NAN; // NaN: not given
static int64_t prime_tokens = NOT_GIVEN, length_tokens = NOT_GIVEN, number = 1, seed = 1, top_k, refill;
static bool with_primer, without_primer, int8;
static pa_sampling_options sampling; // its defaults are set in main

static const pa_option option[] = {
    {"primer", PA_OPT_STRING, &primer_path, "IN",
     "what to continue: a MIDI file, or TOKENS.safetensors[:PIECE]; without, it starts from nothing", "Music"},
    {"output", PA_OPT_STRING, &output, "OUT", "OUT.mid (with --number: OUT-1.mid, OUT-2.mid, ...), or OUT.safetensors for tokens", NULL},
    {"prime-seconds", PA_OPT_FLOAT, &prime_seconds, "S", "continue from the first S seconds of the primer (default: from its end)", NULL},
    {"prime-tokens", PA_OPT_INT, &prime_tokens, "N", "continue from its first N tokens", NULL},
    {"length-seconds", PA_OPT_FLOAT, &length_seconds, "S", "seconds of music to make (default: 60)", NULL},
    {"length-tokens", PA_OPT_INT, &length_tokens, "N", "tokens to make; with both, what is reached first", NULL},
    {"number", PA_OPT_INT, &number, "K", "continuations to make", NULL},
    {"with-primer", PA_OPT_FLAG, &with_primer, NULL, "OUT begins with the primer (default)", NULL},
    {"without-primer", PA_OPT_FLAG, &without_primer, NULL, "OUT holds the continuation only", NULL},
    {"stop-at-end", PA_OPT_FLAG, &sampling.stop_at_end, NULL, "end where the model ends the piece", NULL},
    {"seed", PA_OPT_INT, &seed, "N", "of the draws: another seed, another continuation", "Sampling"},
    {"temperature", PA_OPT_FLOAT, &sampling.temperature, "T", "below 1 more careful, above 1 bolder; 0 is greedy", NULL},
    {"top-k", PA_OPT_INT, &top_k, "K", "only the K most probable tokens; 0: all", NULL},
    {"top-p", PA_OPT_FLOAT, &sampling.top_p, "P", "only the fewest most probable ones that have share P together", NULL},
    {"min-p", PA_OPT_FLOAT, &sampling.min_p, "P", "only those at least P times as probable as the most probable", NULL},
    {"repetition-penalty", PA_OPT_FLOAT, &sampling.repetition_penalty, "R", "above 1: tokens of the window become less probable", NULL},
    {"greedy", PA_OPT_FLAG, &sampling.greedy, NULL, "always the most probable token", NULL},
    {"refill", PA_OPT_INT, &refill, "R", "latents that a new window begins with; 0: half of them", NULL},
    {"config", PA_OPT_STRING, &config, "C.ini", "the model's settings, for a file of perceiver_ar_pytorch", "Checkpoint and device"},
    {"device", PA_OPT_CHOICE, &device, "auto|cpu|cuda", "where to compute", NULL},
    {"precision", PA_OPT_CHOICE, &precision, "auto|fp32|bf16|fp16", "of products and attention", NULL},
    {"int8", PA_OPT_FLAG, &int8, NULL, "round the weights of products to 8 bits", NULL},
};
static const pa_program program = {.name = "pagen",
                                   .summary = "Continues a piece of piano music with a trained model.",
                                   .usage = "CHECKPOINT --primer IN.mid --output OUT.mid [options]\nCHECKPOINT --output OUT.mid [options]",
                                   .example = "pagen runs/v1 --primer opening.mid --output continuation.mid --length-seconds 60 --seed 1",
                                   .option = option,
                                   .options = sizeof option / sizeof *option};

static volatile sig_atomic_t interrupted;
static void on_signal(int signal_number) {
    (void)signal_number;
    interrupted = 1;
}

// The first request to stop writes what there is; a second one ends the program at once. A terminal that goes away asks too, often more
// than once, unless nohup has it ignored.
static void catch_signals(void) {
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND}, before;
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    a.sa_flags = 0;
    if (!sigaction(SIGHUP, NULL, &before) && before.sa_handler != SIG_IGN) sigaction(SIGHUP, &a, NULL);
}

// Watches streams while they grow.
typedef struct {
    const uint16_t *out;
    size_t length;
    int streams, open; // streams that have not reached their end
    int64_t limit;     // in steps of 10 ms; 0: none
    int64_t steps[MOST_STREAMS];
    bool closed[MOST_STREAMS];
    pa_progress bar;
} watch;

static bool watch_token(void *arg, size_t done) {
    watch *w = arg;
    int64_t least = INT64_MAX;
    for (int s = 0; s < w->streams; s++) {
        uint16_t token = w->out[(size_t)s * w->length + done - 1];
        w->steps[s] += pa_shift_steps(token);
        if (!w->closed[s] && (token == PA_PAD || (w->limit && w->steps[s] >= w->limit))) {
            w->closed[s] = true;
            w->open--;
        }
        if (!w->closed[s] && w->steps[s] < least) least = w->steps[s];
    }
    pa_progress_update(&w->bar, w->limit && least < INT64_MAX ? (double)least / 100 : (double)done);
    return w->open && !interrupted;
}

typedef struct {
    pa_inference model;
    pa_music music; // primer, and what has been made
    size_t length;  // most tokens of a continuation
    int64_t limit;  // steps of 10 ms
    int streams;    // at a time
    double took;
    size_t tokens; // made, those cut off again included
} job;

// Makes the continuations first, first + 1, … and adds them to the music.
static pa_status make_some(job *j, int first, int wanted, uint16_t *out, size_t *made, pa_err *err) {
    watch w = {.out = out, .length = j->length, .streams = j->streams, .open = j->streams, .limit = j->limit};
    pa_sampling_options o = sampling;
    o.stream = (uint64_t)first;
    pa_progress_start(&w.bar, "playing", j->limit ? "s of music" : "tokens", j->limit ? (double)j->limit / 100 : (double)j->length);
    double began = pa_clock();
    const pa_generation g = {.backend = j->model.backend,
                             .ctx = j->model.ctx,
                             .model = &j->model.params.model,
                             .options = &o,
                             .primer = j->music.primer,
                             .primer_count = j->music.primer_count,
                             .streams = j->streams,
                             .length = j->length,
                             .out = out,
                             .count = made,
                             .more = watch_token,
                             .arg = &w};
    pa_status s = pa_generate(&g, err);
    j->took += pa_clock() - began;
    pa_progress_end(&w.bar);
    for (int k = 0; k < wanted && !s; k++) {
        const uint16_t *token = out + (size_t)k * j->length;
        j->tokens += made[k];
        s = pa_music_add(&j->music, token, made[k], j->limit, err);
        if (!s && j->limit && !interrupted && length_tokens == NOT_GIVEN && made[k] == j->length)
            fprintf(
                stderr,
                "pagen: continuation %d: stopped after %zu tokens, which hold only %.1f s of music; try another --seed or --temperature\n",
                first + k + 1, made[k], pa_token_seconds(token, made[k]));
    }
    return s;
}

static pa_status make_all(job *j, pa_err *err) {
    int rounds = ((int)number + MOST_STREAMS - 1) / MOST_STREAMS;
    size_t bytes;
    j->streams = ((int)number + rounds - 1) / rounds;
    pa_status s = pa_inference_start(&j->model, precision, int8, 0, j->streams, err);
    if (s) return s;
    uint16_t *out = pa_mul_size(j->length, (size_t)j->streams * sizeof *out, &bytes) ? malloc(bytes) : NULL;
    size_t made[MOST_STREAMS];
    if (!out) return pa_error(err, PA_FAIL, "no memory for %d continuations of %zu tokens", j->streams, j->length);
    for (int first = 0; first < number && !s && !interrupted; first += j->streams) {
        int wanted = (int)number - first < j->streams ? (int)number - first : j->streams;
        s = make_some(j, first, wanted, out, made, err);
    }
    free(out);
    return s;
}

static pa_status check_options(pa_err *err) {
    const struct {
        const char *name;
        int64_t value, least, most;
    } range[] = {{"prime-tokens", prime_tokens, 1, INT64_MAX},
                 {"length-tokens", length_tokens, 1, 1 << 30},
                 {"number", number, 1, 10000},
                 {"seed", seed, 0, INT64_MAX},
                 {"top-k", top_k, 0, PA_VOCAB},
                 {"refill", refill, 0, INT32_MAX}};
    for (size_t i = 0; i < sizeof range / sizeof *range; i++)
        if (range[i].value != NOT_GIVEN && (range[i].value < range[i].least || range[i].value > range[i].most))
            return pa_error(err, PA_USAGE, "--%s: expected %lld to %lld, found %lld", range[i].name, (long long)range[i].least,
                            (long long)range[i].most, (long long)range[i].value);
    for (int i = 0; i < 2; i++) {
        double seconds = i ? length_seconds : prime_seconds;
        if (!isnan(seconds) && !(seconds >= 0.01 && seconds <= 1e6))
            return pa_error(err, PA_USAGE, "--%s: expected 0.01 to 1000000 s, found %g", i ? "length-seconds" : "prime-seconds", seconds);
    }
    if (!isnan(prime_seconds) && prime_tokens != NOT_GIVEN)
        return pa_error(err, PA_USAGE, "expected --prime-seconds or --prime-tokens, found both");
    if (with_primer && without_primer) return pa_error(err, PA_USAGE, "expected --with-primer or --without-primer, found both");
    if (!primer_path && (!isnan(prime_seconds) || prime_tokens != NOT_GIVEN || with_primer || without_primer))
        return pa_error(err, PA_USAGE, "expected --primer IN.mid beside an option about the primer, found none");
    if (!output) return pa_error(err, PA_USAGE, "expected --output OUT.mid or OUT.safetensors, found none");
    sampling.top_k = (int)top_k, sampling.refill = (int)refill, sampling.seed = (uint64_t)seed;
    pa_status s = pa_music_check_output(output, primer_path, (int)number, err);
    return s ? s : pa_music_check_spares(output, (int)number, "--config", config, err);
}

static pa_status generate(job *j, const char *checkpoint, pa_err *err) {
    pa_status s = pa_inference_open(&j->model, checkpoint, config, device, err);
    if (!s) s = pa_music_check_spares(output, (int)number, "the model", j->model.weights.path, err);
    if (!s) s = pa_sampling_check(&sampling, &j->model.params.model, err);
    if (s) return s;
    j->music.encoding = j->model.weights.encoding;
    if (primer_path && (s = pa_music_read_primer(&j->music, &j->model, primer_path, err))) return s;
    sampling.keys = j->music.encoding == PA_PERFORMANCE; // in the other, keys are struck again while they sound
    int64_t steps = isnan(prime_seconds) ? INT64_MAX : llround(prime_seconds * 100);
    if ((s = pa_music_cut_primer(&j->music, steps, prime_tokens == NOT_GIVEN ? SIZE_MAX : (size_t)prime_tokens, err))) return s;
    if (isnan(length_seconds) && length_tokens == NOT_GIVEN) length_seconds = DEFAULT_SECONDS;
    j->limit = isnan(length_seconds) ? 0 : llround(length_seconds * 100);
    j->length = length_tokens != NOT_GIVEN ? (size_t)length_tokens : 1000 + (size_t)(length_seconds * TOKENS_A_SECOND);
    catch_signals();
    if ((s = make_all(j, err))) return s;
    bool stopped = interrupted; // a request from here on changes nothing
    if (stopped && j->music.takes) fprintf(stderr, "pagen: stopped on request; what there is so far is written\n");
    if ((s = pa_music_write(&j->music, output, (int)number, without_primer, err))) return s;
    size_t kept = 0;
    for (size_t k = 0; k < j->music.takes; k++) kept += j->music.take[k].count;
    printf("%zu tokens in %.1f s, %.0f tokens/s", j->tokens, j->took, j->took > 0 ? (double)j->tokens / j->took : 0);
    if (kept < j->tokens) printf(", %zu of them kept", kept);
    printf("; %s on %s; %s, step %lld\n", pa_inference_precision(&j->model), j->model.backend->name, j->model.weights.path,
           (long long)j->model.weights.step);
    s = pa_music_report(&j->music, output, (int)number, err);
    return s ? s : stopped ? PA_STOPPED : PA_OK;
}

static pa_status run(int argc, char **argv, pa_err *err) {
    bool done;
    int given;
    job j = {0};
    sampling = pa_sampling_default();
    pa_status s = pa_cli_parse(&program, argc, argv, &given, &done, err);
    if (s || done) return s;
    signal(SIGPIPE, SIG_IGN); // whoever reads what is printed may go away: the music is still wanted
    if (given != 1)
        return pa_error(err, PA_USAGE, "expected CHECKPOINT alone beside the options, found %d arguments (pagen --help)", given);
    s = check_options(err);
    if (!s) s = generate(&j, argv[1], err);
    pa_music_clear(&j.music);
    pa_inference_close(&j.model);
    return s;
}

int main(int argc, char **argv) {
    pa_err err = {""};
    pa_cli_spin_briefly(argv);
    return pa_cli_end(&program, run(argc, argv, &err), &err);
}
