// primer.c: see primer.h.
#include "host/play/primer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "host/base/file.h"
#include "tokenizer/workers.h"

static const double HALF_STEP = 0.5 / PA_STEPS_A_SECOND; // what a time is off by, at most, once it is rounded to steps

bool pa_ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcasecmp(text + n - m, end);
}

bool pa_split_piece(const char *path, char *file, size_t size, int64_t *piece) {
    const char *colon = strrchr(path, ':');
    size_t digits = colon ? strspn(colon + 1, "0123456789") : 0;
    *piece = 0;
    if (digits && digits < 18 && !colon[1 + digits]) {
        snprintf(file, size, "%.*s", (int)(colon - path), path);
        *piece = atoll(colon + 1);
        if (pa_ends_with(file, ".safetensors")) return true;
        *piece = 0;
    }
    snprintf(file, size, "%s", path);
    return pa_ends_with(file, ".safetensors");
}

void pa_primer_clear(pa_primer *p) {
    free(p->token);
    free(p->bytes);
    free(p->pedal);
    *p = (pa_primer){0};
}

double pa_primer_seconds(const pa_primer *p) {
    return pa_token_seconds(p->token, p->count);
}

// ---- reading

// Copies up to END.
static pa_status set_tokens(pa_primer *p, const char *path, const uint16_t *token, size_t count, pa_err *err) {
    const char *slash = strrchr(path, '/');
    size_t n = 0;
    while (n < count && token[n] != PA_END) n++;
    if (!n) return pa_error(err, PA_DATA, "%s: expected music to continue, found no notes", path);
    p->token = malloc(n * sizeof *p->token);
    if (!p->token) return pa_error(err, PA_FAIL, "%s: no memory for %zu tokens", path, n);
    memcpy(p->token, token, n * sizeof *token);
    p->count = n;
    snprintf(p->name, sizeof p->name, "%s", slash ? slash + 1 : path);
    return PA_OK;
}

static pa_status read_token_file(pa_primer *p, const patrain_model *model, const char *path, int64_t piece,
                                 pa_err *err) {
    pa_token_set t;
    pa_status s = pa_open_tokens(&t, model, path, err);
    if (s) return s;
    p->encoding = t.encoding; // a foreign checkpoint doesn't know its own
    if (!t.pieces) {
        s = pa_error(err, PA_DATA, "%s: expected a piece, found none", path);
    } else if (piece < t.pieces) {
        const pa_token_piece found = pa_token_set_piece(&t, piece);
        s = set_tokens(p, path, found.token, (size_t)found.count, err);
    } else {
        s = pa_error(err, PA_USAGE, "%s: expected a piece below %lld, found %lld", path, (long long)t.pieces,
                     (long long)piece);
    }
    pa_token_set_close(&t);
    return s;
}

static void report(const char *path, const patrain_midi_report *r, const pa_primer_options *o, bool neural) {
    int begins = (int)r->silence;
    if (begins) fprintf(stderr, "%s: music begins at %d:%02d\n", path, begins / 60, begins % 60);
    if (r->mended == 1) fprintf(stderr, "%s: damaged: %s (--strict refuses it)\n", path, r->first_mended);
    if (r->mended > 1)
        fprintf(stderr, "%s: damaged in %zu places; the first: %s (--strict refuses it)\n", path, r->mended,
                r->first_mended);
    if (r->unread)
        fprintf(stderr, "%s: %zu byte%s behind End of Track left out\n", path, r->unread, r->unread == 1 ? "" : "s");
    if (r->sostenuto && !o->sostenuto) fprintf(stderr, "%s: sostenuto pedal ignored (--sostenuto applies it)\n", path);
    if (r->unclosed)
        fprintf(stderr, "%s: %zu note%s never released, %s\n", path, r->unclosed, r->unclosed == 1 ? "" : "s",
                neural ? "left out" : "sounding to the end of the file");
    if (r->dropped)
        fprintf(stderr, "%s: %zu of %zu notes left out: drums, other programs, or no length\n", path, r->dropped,
                r->dropped + r->notes);
}

// midi-neural's clock is not the file's.
static pa_status read_pedal(pa_primer *p, const pa_primer_options *o, pa_err *err) {
    const pa_encode_options how = {.lenient = !o->strict, .programs = o->programs};
    if (p->encoding == PA_MIDI_NEURAL) return PA_OK;
    pa_status s = pa_pedal_isolated(p->bytes, p->size, &how, &p->pedal, &p->pedals, err);
    for (size_t i = 0; i < p->pedals; i++) {
        p->pedal[i].down -= p->cut;
        p->pedal[i].up -= p->cut;
    }
    return s;
}

static pa_status read_midi(pa_primer *p, const pa_primer_options *o, pa_err *err) {
    uint8_t programs[128];
    patrain_midi_options how = {.size = sizeof how, .strict = o->strict, .sostenuto = o->sostenuto, .isolated = true};
    patrain_midi_report found = {.size = sizeof found};
    patrain_error why;
    uint16_t *token;
    size_t count;
    char *bytes;
    for (int i = 0; i < 128; i++) programs[i] = pa_programs_has(&o->programs, i);
    if (!pa_programs_empty(&o->programs)) how.programs = programs;
    pa_status s = pa_from_library(
        patrain_encode_midi(o->path, (patrain_encoding)p->encoding, &how, &token, &count, &found, &why), &why, err);
    if (!s) s = set_tokens(p, o->path, token, count, err);
    if (!s) s = pa_read_text(o->path, &bytes, &p->size, err);
    if (!s) {
        p->bytes = (uint8_t *)bytes;
        p->lenient = !o->strict;
        p->cut = found.silence; // where the tokens begin
        p->keep = p->encoding == PA_MIDI_NEURAL ? p->cut + found.seconds : 0;
        report(o->path, &found, o, p->encoding == PA_MIDI_NEURAL);
        if (o->pedal) s = read_pedal(p, o, err);
    }
    patrain_free(token);
    return s;
}

// ---- the cut

static int64_t steps_of(const uint16_t *token, size_t count) {
    int64_t steps = 0;
    for (size_t i = 0; i < count; i++) steps += pa_shift_steps(token[i]);
    return steps;
}

static pa_status cut_at_step(pa_primer *p, int64_t end, double offset, pa_err *err) {
    size_t first = 0;
    if (!patrain_cut(p->token, &p->count, (double)end / PA_STEPS_A_SECOND, NULL)) return PA_OK;
    while (first < p->count && !pa_is_note_on(p->token[first])) first++;
    return pa_error(err, PA_USAGE, "--prime-seconds: expected more than %.2f, where the music of %s begins, found %.2f",
                    offset + pa_token_seconds(p->token, first), p->name, offset + (double)end / PA_STEPS_A_SECOND);
}

// p->cut is where the tokens begin, in seconds of the file, and becomes the cut. p->keep is the end of the music in
// midi-neural, whose clock drifts from the file's.
static pa_status cut(pa_primer *p, const pa_primer_options *o, pa_err *err) {
    int64_t all = steps_of(p->token, p->count), skipped = llround(p->cut * PA_STEPS_A_SECOND);
    bool whole = o->tokens >= p->count;
    if (o->steps < INT64_MAX && o->steps - skipped < all) {
        pa_status s = cut_at_step(p, o->steps - skipped, (double)skipped / PA_STEPS_A_SECOND, err);
        if (s) return s;
        whole = false;
    }
    if (o->tokens < p->count) p->count = o->tokens;
    int64_t end = steps_of(p->token, p->count), clock = 0;
    for (p->before = 0; p->before < p->count; p->before++) {
        clock += pa_shift_steps(p->token[p->before]);
        if (clock == end && pa_is_note_on(p->token[p->before])) break;
    }
    p->cut += (double)end / PA_STEPS_A_SECOND;
    while (p->pedals && p->pedal[p->pedals - 1].down >= pa_primer_seconds(p)) p->pedals--;
    if (p->pedals) p->pedal[p->pedals - 1].up = fmin(p->pedal[p->pedals - 1].up, pa_primer_seconds(p));
    p->whole = whole;
    if (whole) p->cut = fmax(p->cut, p->keep);
    p->keep = whole ? p->cut + HALF_STEP : p->cut - HALF_STEP;
    return PA_OK;
}

// No option is ignored.
static pa_status check_options(const pa_primer *p, const pa_primer_options *o, bool tokens, pa_err *err) {
    const char *option = !pa_programs_empty(&o->programs) ? "programs" : o->sostenuto ? "sostenuto" : NULL;
    if (tokens && (option || o->strict))
        return pa_error(err, PA_USAGE, "--%s needs a MIDI file as the primer, found a token file",
                        option ? option : "strict");
    if (option && p->encoding == PA_MIDI_NEURAL)
        return pa_error(err, PA_USAGE, "--%s needs a model of the performance encoding, found midi-neural", option);
    return PA_OK;
}

pa_status pa_primer_read(pa_primer *p, const patrain_model *model, const pa_primer_options *o, pa_err *err) {
    char file[4096];
    int64_t piece;
    *p = (pa_primer){.encoding = (pa_encoding)patrain_model_describe(model)->encoding};
    if (!o->path) return PA_OK;
    bool tokens = pa_split_piece(o->path, file, sizeof file, &piece);
    pa_status s = check_options(p, o, tokens, err);
    if (!s) s = tokens ? read_token_file(p, model, file, piece, err) : read_midi(p, o, err);
    if (!s) s = cut(p, o, err);
    return s;
}
