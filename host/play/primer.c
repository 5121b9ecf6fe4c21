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

static pa_status read_token_file(pa_primer *p, const pa_inference *model, const char *path, int64_t piece, pa_err *err) {
    pa_token_set t;
    pa_status s = pa_inference_tokens(model, &t, path, err);
    if (s) return s;
    p->encoding = t.encoding; // a foreign checkpoint doesn't know its own
    if (!t.pieces) {
        s = pa_error(err, PA_DATA, "%s: expected a piece, found none", path);
    } else if (piece < t.pieces) {
        const pa_token_piece found = pa_token_set_piece(&t, piece);
        s = set_tokens(p, path, found.token, (size_t)found.count, err);
    } else {
        s = pa_error(err, PA_USAGE, "%s: expected a piece below %lld, found %lld", path, (long long)t.pieces, (long long)piece);
    }
    pa_token_set_close(&t);
    return s;
}

static void report(const char *path, const pa_piece *piece, const pa_primer_options *o) {
    const pa_report *r = &piece->report;
    int begins = (int)r->trimmed;
    if (begins) fprintf(stderr, "%s: music begins at %d:%02d\n", path, begins / 60, begins % 60);
    if (r->mended.count == 1) fprintf(stderr, "%s: damaged: %s (--strict refuses it)\n", path, r->mended.first);
    if (r->mended.count > 1)
        fprintf(stderr, "%s: damaged in %zu places; the first: %s (--strict refuses it)\n", path, r->mended.count, r->mended.first);
    if (r->sostenuto && !o->sostenuto) fprintf(stderr, "%s: sostenuto pedal ignored (--sostenuto applies it)\n", path);
    if (piece->dropped)
        fprintf(stderr, "%s: %zu of %zu notes left out: drums, other programs, or no length\n", path, piece->dropped,
                piece->dropped + piece->notes);
}

static pa_status read_midi(pa_primer *p, const pa_primer_options *o, pa_err *err) {
    const pa_encode_options e = {
        .encoding = p->encoding, .lenient = !o->strict, .trim_silence = true, .sostenuto = o->sostenuto, .programs = o->programs};
    pa_piece piece = {0};
    char *bytes;
    pa_status s = pa_encode_isolated(o->path, &e, &piece, err);
    if (!s) s = set_tokens(p, o->path, piece.token, piece.count, err);
    if (!s) s = pa_read_text(o->path, &bytes, &p->size, err);
    if (!s) {
        p->bytes = (uint8_t *)bytes;
        p->lenient = e.lenient;
        p->cut = piece.report.trimmed; // where the tokens begin
        p->keep = p->encoding == PA_MIDI_NEURAL ? p->cut + piece.seconds : 0;
        report(o->path, &piece, o);
    }
    pa_piece_clear(&piece);
    return s;
}

// ---- the cut

static int64_t steps_of(const uint16_t *token, size_t count) {
    int64_t steps = 0;
    for (size_t i = 0; i < count; i++) steps += pa_shift_steps(token[i]);
    return steps;
}

// Keeps what comes before step `end`, notes that end there, and of the pause the part up to there.
static pa_status cut_at_step(pa_primer *p, int64_t end, double offset, pa_err *err) {
    int64_t clock = 0;
    size_t kept = 0, strikes = 0;
    bool dropped[128] = {false};
    for (size_t i = 0; i < p->count && clock <= end; i++) {
        uint16_t t = p->token[i];
        if (pa_is_time_shift(t)) {
            int64_t left = end - clock;
            clock += pa_shift_steps(t);
            if (!left) break;
            if (clock > end) t = pa_shift_of((int)left);
        } else if (clock == end && !pa_is_note_off(t)) {
            if (pa_is_note_on(t)) dropped[pa_pitch_of(t)] = true;
            continue;
        } else if (clock == end && dropped[pa_pitch_of(t)]) {
            continue; // ends a note that begins there
        }
        strikes += pa_is_note_on(t);
        p->token[kept++] = t;
    }
    if (!strikes) {
        size_t first = 0;
        while (first < p->count && !pa_is_note_on(p->token[first])) first++;
        return pa_error(err, PA_USAGE, "--prime-seconds: expected more than %.2f, where the music of %s begins, found %.2f",
                        offset + (double)steps_of(p->token, first) / PA_STEPS_A_SECOND, p->name, offset + (double)end / PA_STEPS_A_SECOND);
    }
    p->count = kept;
    return PA_OK;
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
    if (whole) p->cut = fmax(p->cut, p->keep);
    p->keep = whole ? p->cut + HALF_STEP : p->cut - HALF_STEP;
    return PA_OK;
}

// No option is ignored.
static pa_status check_options(const pa_primer *p, const pa_primer_options *o, bool tokens, pa_err *err) {
    const char *option = !pa_programs_empty(&o->programs) ? "programs" : o->sostenuto ? "sostenuto" : NULL;
    if (tokens && (option || o->strict))
        return pa_error(err, PA_USAGE, "--%s: expected with a MIDI file as the primer, found with a token file",
                        option ? option : "strict");
    if (option && p->encoding == PA_MIDI_NEURAL)
        return pa_error(err, PA_USAGE, "--%s: expected with a model of the performance encoding, found midi-neural", option);
    return PA_OK;
}

pa_status pa_primer_read(pa_primer *p, const pa_inference *model, const pa_primer_options *o, pa_err *err) {
    char file[4096];
    int64_t piece;
    *p = (pa_primer){.encoding = model->weights.encoding};
    if (!o->path) return PA_OK;
    bool tokens = pa_split_piece(o->path, file, sizeof file, &piece);
    pa_status s = check_options(p, o, tokens, err);
    if (!s) s = tokens ? read_token_file(p, model, file, piece, err) : read_midi(p, o, err);
    if (!s) s = cut(p, o, err);
    return s;
}
