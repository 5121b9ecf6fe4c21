// continue.c: see continue.h.
#include "host/play/continue.h"

#include <math.h>
#include <stdlib.h>

#include "host/base/progress.h"
#include "host/play/summary.h"

enum {
    MOST_STREAMS = 8,      // takes generated at a time
    TOKENS_A_SECOND = 250, // real music has fewer; a model that needs more is stuck in one moment
};

// Watches streams while they grow.
typedef struct {
    const pa_continuation *job;
    int streams, open; // streams that have not reached their end
    int64_t limit;     // in steps of 10 ms; 0: none
    int64_t steps[MOST_STREAMS];
    int64_t stroke[MOST_STREAMS]; // of the latest NOTE_ON
    bool closed[MOST_STREAMS];
    pa_progress bar;
} watch;

// Whether pa_take_end has what it needs.
static bool is_long_enough(const watch *w, int s) {
    if (!w->limit || w->steps[s] < w->limit) return false;
    return w->steps[s] - w->stroke[s] >= PA_PAUSE || w->steps[s] > w->limit + PA_ENDING;
}

// Whether to continue after `tokens` of them; token[] is the latest of each stream.
static bool watch_tokens(watch *w, const uint16_t *token, size_t tokens) {
    int64_t least = INT64_MAX;
    for (int s = 0; s < w->streams; s++) {
        w->steps[s] += pa_shift_steps(token[s]);
        if (pa_is_note_on(token[s])) w->stroke[s] = w->steps[s];
        if (!w->closed[s] && (token[s] == PA_END || is_long_enough(w, s))) {
            w->closed[s] = true;
            w->open--;
        }
        if (!w->closed[s] && w->steps[s] < least) least = w->steps[s];
    }
    if (least > w->limit) least = w->limit;
    pa_progress_update(&w->bar, w->limit ? (double)least / PA_STEPS_A_SECOND : (double)tokens);
    return w->open && !*w->job->stop;
}

typedef struct {
    const pa_continuation *job;
    patrain_model *model;
    const patrain_model_info *info;
    const char *device; // chosen
    patrain_stream *stream;
    pa_primer primer;
    pa_takes takes;
    size_t length; // most tokens of a take
    int64_t limit; // steps of 10 ms; 0: none
    int streams;   // at a time
    double took;
    size_t tokens; // generated, those cut off again included
} session;

// The streams' tokens, as they come.
static pa_status generate(session *x, watch *w, const patrain_sampling *how, uint16_t *out, size_t *count,
                          pa_err *err) {
    uint16_t token[MOST_STREAMS];
    patrain_error why;
    patrain_status s = patrain_stream_start(x->stream, x->primer.token, x->primer.count, &why);
    for (size_t done = 0; done < x->length && !s; done++) {
        s = patrain_stream_next(x->stream, how, token, &why);
        for (int k = 0; k < x->streams && !s; k++)
            if (token[k] != PATRAIN_END) out[(size_t)k * x->length + count[k]++] = token[k];
        if (!s && !watch_tokens(w, token, done + 1)) break;
    }
    return s == PATRAIN_ENDED ? PA_OK : pa_from_library(s, &why, err);
}

// Generates the takes first, first + 1, … and keeps `wanted` of them.
static pa_status generate_some(session *x, int first, int wanted, uint16_t *out, pa_err *err) {
    const pa_continuation *job = x->job;
    size_t count[MOST_STREAMS] = {0};
    watch w = {.job = job, .streams = x->streams, .open = x->streams, .limit = x->limit};
    patrain_sampling how = job->sampling;
    how.sequence = (uint64_t)first;
    how.loose_keys = x->primer.encoding != PA_PERFORMANCE; // midi-neural strikes keys again while they sound
    if (job->greedy) how.temperature = 0;
    pa_progress_start(&w.bar, "playing", x->limit ? "s of music" : "tokens",
                      x->limit ? (double)x->limit / PA_STEPS_A_SECOND : (double)x->length);
    double began = pa_clock();
    pa_status s = generate(x, &w, &how, out, count, err);
    x->took += pa_clock() - began;
    pa_progress_end(&w.bar);
    for (int k = 0; k < wanted && !s; k++) {
        const uint16_t *token = out + (size_t)k * x->length;
        x->tokens += count[k];
        int64_t end = x->limit ? pa_take_end(token, count[k], x->limit) : 0;
        s = pa_takes_add(&x->takes, token, count[k], end, err);
        if (!s && x->limit && !*job->stop && !job->tokens && count[k] == x->length)
            fprintf(stderr,
                    "pagen: continuation %d: stopped after %zu tokens, only %.1f s of music; try another --seed or "
                    "--temperature\n",
                    first + k + 1, count[k], pa_token_seconds(token, count[k]));
    }
    return s;
}

static pa_status generate_all(session *x, pa_err *err) {
    int number = x->job->output.number, rounds = (number + MOST_STREAMS - 1) / MOST_STREAMS;
    size_t bytes;
    x->streams = (number + rounds - 1) / rounds;
    const patrain_options options = {.size = sizeof options,
                                     .device = x->device,
                                     .precision = x->job->precision,
                                     .int8 = x->job->int8,
                                     .sequences = x->streams};
    patrain_error why;
    pa_status s = pa_from_library(patrain_stream_open(&x->stream, x->model, &options, &why), &why, err);
    if (s) return s;
    uint16_t *out = pa_mul_size(x->length, (size_t)x->streams * sizeof *out, &bytes) ? malloc(bytes) : NULL;
    if (!out) return pa_error(err, PA_FAIL, "no memory for %d continuations of %zu tokens", x->streams, x->length);
    for (int first = 0; first < number && !s && !*x->job->stop; first += x->streams) {
        int wanted = number - first < x->streams ? number - first : x->streams;
        s = generate_some(x, first, wanted, out, err);
    }
    free(out);
    return s;
}

static pa_status open_session(session *x, pa_err *err) {
    const pa_continuation *job = x->job;
    patrain_error why;
    x->device = pa_choose_device(job->device);
    pa_status s = pa_from_library(patrain_model_open(&x->model, job->checkpoint, job->config, &why), &why, err);
    if (s) return s;
    x->info = patrain_model_describe(x->model);
    s = pa_output_check_spares(&job->output, "the model", x->info->path, err);
    if (!s && patrain_sampling_check(&job->sampling, x->model, &why)) // whose names for settings are the options'
        s = pa_error(err, PA_USAGE, "--%s", why.text);
    pa_primer_options primer = job->primer;
    primer.pedal = job->show.roll || job->show.page;
    if (!s) s = pa_primer_read(&x->primer, x->model, &primer, err);
    if (s) return s;
    int prefix = x->info->prefix;
    if (x->primer.count && x->primer.count < (size_t)prefix)
        fprintf(stderr,
                "pagen: short primer: %.1f s, %zu tokens; the model was trained to look back over at least %d "
                "(model.prefix). "
                "A longer one gives better music.\n",
                pa_primer_seconds(&x->primer), x->primer.count, prefix);
    x->limit = llround(job->seconds * PA_STEPS_A_SECOND);
    x->length = job->tokens ? job->tokens : 1000 + (size_t)(x->limit + PA_ENDING) / PA_STEPS_A_SECOND * TOKENS_A_SECOND;
    return PA_OK;
}

static pa_status summarise(const session *x, const pa_appraisals *a, pa_err *err) {
    pa_summary summary = {.output = &x->job->output,
                          .appraisals = a,
                          .model = x->info,
                          .options = patrain_stream_options(x->stream),
                          .sampling = &x->job->sampling,
                          .tokens = x->tokens,
                          .took = x->took};
    for (size_t k = 0; k < x->takes.count; k++) summary.kept += x->takes.take[k].count;
    return x->job->json ? pa_summary_print_json(&summary, err) : pa_summary_print(&summary, err);
}

// The settings, without those that do nothing.
static void describe(const session *x, char *facts, size_t size) {
    const patrain_sampling *o = &x->job->sampling;
    const struct {
        const char *name;
        double value, off;
    } setting[] = {{"top-k", o->top_k, 0},
                   {"top-p", o->top_p, 1},
                   {"min-p", o->min_p, 0},
                   {"repetition penalty", o->repetition_penalty, 1}};
    int n = snprintf(facts, size, "Model %s, step %lld. Seed %llu, temperature %g", x->job->checkpoint,
                     (long long)x->info->step, (unsigned long long)o->seed, o->temperature);
    for (size_t i = 0; i < sizeof setting / sizeof *setting && n < (int)size; i++)
        if (setting[i].value != setting[i].off)
            n += snprintf(facts + n, size - (size_t)n, ", %s %g", setting[i].name, setting[i].value);
    if (n < (int)size)
        snprintf(facts + n, size - (size_t)n, "%s%s%s.", x->job->greedy ? ", greedy" : "",
                 o->long_notes ? ", long notes" : "", o->free_density ? ", free density" : "");
}

// Writes pictures, sound and page, or plays.
static pa_status show(const session *x, const pa_appraisals *a, bool plays, pa_err *err) {
    const pa_continuation *job = x->job;
    char facts[4096 + 256];
    describe(x, facts, sizeof facts);
    const pa_shown shown = {&job->output, &x->primer, &x->takes, a, facts};
    return plays ? pa_show_play(&job->show, &shown, job->stop, err) : pa_show_write(&job->show, &shown, err);
}

pa_status pa_continue(const pa_continuation *job, pa_err *err) {
    session x = {.job = job};
    pa_appraisals appraisals = {0};
    bool stopped = false;
    pa_status s = open_session(&x, err);
    if (s) goto done;
    job->ready();
    if ((s = generate_all(&x, err))) goto done;
    stopped = *job->stop; // a later request changes nothing
    if (stopped && x.takes.count) fprintf(stderr, "pagen: stopped on request; what there is so far is written\n");
    if ((s = pa_output_write(&job->output, &x.primer, &x.takes, err))) goto done;
    if ((s = pa_appraise(&appraisals, &x.primer, &x.takes, err))) goto done;
    if ((s = show(&x, &appraisals, false, err))) {
        pa_error(err, s, "%s; the continuations are written", err->text);
        goto done;
    }
    s = summarise(&x, &appraisals, err);
    if (!s && !stopped && job->show.play) s = show(&x, &appraisals, true, err);
    if (!s && stopped) s = PA_STOPPED;
done:
    pa_appraisals_clear(&appraisals);
    pa_takes_clear(&x.takes);
    pa_primer_clear(&x.primer);
    patrain_stream_close(x.stream);
    patrain_model_close(x.model);
    return s;
}
