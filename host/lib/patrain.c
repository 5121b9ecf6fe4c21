// patrain.c: the public library's models, tokens and notes. See include/patrain.h.
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/lib/handles.h"
#include "host/lib/pieces.h"
#include "tokenizer/encode.h"
#include "tokenizer/neural.h"
#include "tokenizer/performance.h"
#include "tokenizer/song.h"
#include "tokenizer/workers.h"
#include "tokenizer/write.h"

_Static_assert(PATRAIN_FAILED == (int)PA_FAIL && PATRAIN_BAD_USAGE == (int)PA_USAGE && PATRAIN_BAD_DATA == (int)PA_DATA,
               "status");
_Static_assert(PATRAIN_TIME_SHIFT == (int)PA_TIME_SHIFT && PATRAIN_VELOCITY == (int)PA_VELOCITY, "tokens");
_Static_assert(PATRAIN_END == (int)PA_END && PATRAIN_PAD == (int)PA_PAD && PATRAIN_VOCABULARY == (int)PA_VOCAB,
               "tokens");
_Static_assert(PATRAIN_PERFORMANCE == (int)PA_PERFORMANCE && PATRAIN_MIDI_NEURAL == (int)PA_MIDI_NEURAL, "encodings");

patrain_status pa_lib_result(pa_status status, const pa_err *why, patrain_error *error) {
    if (error && status) snprintf(error->text, sizeof error->text, "%s", why->text);
    if (error && !status) error->text[0] = '\0';
    if (error) error->status = (patrain_status)status;
    return (patrain_status)status;
}

pa_status pa_lib_size(const char *name, size_t size, size_t expected, pa_err *err) {
    return size == expected ? PA_OK : pa_error(err, PA_USAGE, "%s.size: expected %zu, found %zu", name, expected, size);
}

const char *patrain_version(void) {
    return PA_VERSION;
}

void patrain_free(void *memory) {
    free(memory);
}

// ---- tokens and notes

static pa_status check_encoding(patrain_encoding e, pa_err *err) {
    if (e == PATRAIN_PERFORMANCE || e == PATRAIN_MIDI_NEURAL) return PA_OK;
    return pa_error(err, PA_USAGE, "encoding: expected PATRAIN_PERFORMANCE or PATRAIN_MIDI_NEURAL, found %d", (int)e);
}

static void fill_report(patrain_midi_report *r, const pa_piece *piece) {
    r->notes = piece->notes;
    r->dropped = piece->dropped;
    r->silence = piece->report.trimmed;
    r->seconds = piece->seconds;
    r->sostenuto = piece->report.sostenuto;
    r->unclosed = piece->report.unclosed;
    r->unread = piece->report.unread_bytes;
    r->mended = piece->report.mended.count;
    snprintf(r->first_mended, sizeof r->first_mended, "%s", piece->report.mended.first);
}

static pa_status read_midi(const char *path, patrain_encoding encoding, const patrain_midi_options *given,
                           pa_piece *piece, pa_err *err) {
    // libsmf reports through glib's log, one for the whole process.
    static pthread_mutex_t reader = PTHREAD_MUTEX_INITIALIZER;
    pa_encode_options o = {.encoding = (pa_encoding)encoding, .lenient = !given->strict, .trim_silence = true};
    o.sostenuto = given->sostenuto != 0;
    for (int p = 0; p < 128 && given->programs; p++)
        if (given->programs[p]) pa_programs_add(&o.programs, p);
    if (given->programs && pa_programs_empty(&o.programs))
        return pa_error(err, PA_USAGE, "programs: expected at least one, found none");
    pthread_mutex_lock(&reader);
    pa_status s = given->isolated ? pa_encode_isolated(path, &o, piece, err) : pa_encode_file(path, &o, piece, err);
    pthread_mutex_unlock(&reader);
    return s;
}

patrain_status patrain_encode_midi(const char *path, patrain_encoding encoding, const patrain_midi_options *options,
                                   uint16_t **tokens, size_t *count, patrain_midi_report *report,
                                   patrain_error *error) {
    const patrain_midi_options defaults = {.size = sizeof defaults};
    pa_err err = {""};
    pa_piece piece = {0};
    pa_status s = check_encoding(encoding, &err);
    if (!options) options = &defaults;
    if (!s) s = pa_lib_size("patrain_midi_options", options->size, sizeof *options, &err);
    if (!s && report) s = pa_lib_size("patrain_midi_report", report->size, sizeof *report, &err);
    if (!s && access(path, F_OK)) s = pa_error(&err, PA_USAGE, "cannot open %s: %s", path, strerror(errno));
    if (!s) s = read_midi(path, encoding, options, &piece, &err);
    if (!s && report) fill_report(report, &piece);
    if (s) pa_piece_clear(&piece);
    *tokens = piece.token;
    *count = piece.count;
    return pa_lib_result(s, &err, error);
}

static int by_end(const void *x, const void *y) {
    const pa_note *a = x, *b = y;
    if (a->end != b->end) return a->end < b->end ? -1 : 1;
    return a->start < b->start ? -1 : a->start > b->start;
}

static pa_status convert_notes(const patrain_note *notes, size_t count, pa_note **out, pa_err *err) {
    *out = malloc((count + 1) * sizeof **out);
    if (!*out) return pa_error(err, PA_FAIL, "no memory for %zu notes", count);
    for (size_t i = 0; i < count; i++) {
        const patrain_note *n = &notes[i];
        if (!(n->start >= 0 && n->end > n->start && n->end <= PA_LONGEST_PIECE))
            return pa_error(err, PA_DATA,
                            "note %zu: expected a start from 0 and a later end within %d s, found %g and %g", i,
                            PA_LONGEST_PIECE, n->start, n->end);
        if (n->pitch > 127 || n->velocity < 1 || n->velocity > 127)
            return pa_error(err, PA_DATA,
                            "note %zu: expected a pitch up to 127 and a velocity from 1 to 127, found %d and %d", i,
                            n->pitch, n->velocity);
        (*out)[i] = (pa_note){.start = n->start, .end = n->end, .pitch = n->pitch, .velocity = n->velocity};
    }
    return PA_OK;
}

patrain_status patrain_encode_notes(const patrain_note *notes, size_t note_count, patrain_encoding encoding,
                                    uint16_t **tokens, size_t *count, patrain_error *error) {
    pa_err err = {""};
    pa_piece piece = {0};
    pa_note *note = NULL;
    pa_status s = check_encoding(encoding, &err);
    if (!s) s = convert_notes(notes, note_count, &note, &err);
    if (!s) {
        // PATRAIN_MIDI_NEURAL passes on only the notes that begin before some pedal goes down.
        pa_pedal pedal[] = {{.time = PA_LONGEST_PIECE, .kind = PA_PEDAL_DOWN},
                            {.time = PA_LONGEST_PIECE, .kind = PA_PEDAL_UP}};
        pa_part part = {
            .note = note, .notes = note_count, .pedal = pedal, .pedals = encoding == PATRAIN_MIDI_NEURAL ? 2 : 0};
        qsort(note, note_count, sizeof *note, by_end); // the order of a song's parts
        pa_song song = {.part = &part, .parts = 1};
        pa_encode_options o = {.encoding = (pa_encoding)encoding};
        s = encoding == PATRAIN_MIDI_NEURAL ? pa_neural_encode(&song, &o, &piece, &err)
                                            : pa_performance_encode(&song, &o, &piece, &err);
    }
    free(note);
    if (s) pa_piece_clear(&piece);
    *tokens = piece.token;
    *count = piece.count;
    return pa_lib_result(s, &err, error);
}

patrain_status patrain_decode(const uint16_t *tokens, size_t count, patrain_encoding encoding, patrain_note **notes,
                              size_t *note_count, patrain_error *error) {
    pa_err err = {""};
    pa_note *note = NULL;
    size_t found = 0;
    pa_status s = check_encoding(encoding, &err);
    *notes = NULL;
    *note_count = 0;
    if (!s) s = pa_decode(tokens, count, (pa_encoding)encoding, &note, &found, &err);
    if (!s && !(*notes = malloc((found + 1) * sizeof **notes)))
        s = pa_error(&err, PA_FAIL, "no memory for %zu notes", found);
    for (size_t i = 0; i < found && !s; i++)
        (*notes)[i] = (patrain_note){.start = note[i].start,
                                     .end = note[i].end,
                                     .pitch = note[i].pitch,
                                     .velocity = note[i].velocity,
                                     .token = note[i].token};
    if (!s) *note_count = found;
    free(note);
    return pa_lib_result(s, &err, error);
}

// At the time of the cut only releases are kept, and not those of notes struck at that time.
static size_t cut(uint16_t *token, size_t count, int64_t end) {
    int64_t clock = 0;
    size_t kept = 0;
    bool dropped[128] = {false};
    for (size_t i = 0; i < count && clock <= end; i++) {
        uint16_t t = token[i];
        if (pa_is_time_shift(t)) {
            int64_t left = end - clock;
            clock += pa_shift_steps(t);
            if (!left) break;
            if (clock > end) t = pa_shift_of((int)left);
        } else if (clock == end && !pa_is_note_off(t)) {
            if (pa_is_note_on(t)) dropped[pa_pitch_of(t)] = true;
            continue;
        } else if (clock == end && dropped[pa_pitch_of(t)]) {
            continue;
        }
        token[kept++] = t;
    }
    return kept;
}

patrain_status patrain_cut(uint16_t *tokens, size_t *count, double seconds, patrain_error *error) {
    pa_err err = {""};
    double last = pa_token_seconds(tokens, *count);
    size_t first = 0;
    while (first < *count && !pa_is_note_on(tokens[first])) first++;
    double begins = pa_token_seconds(tokens, first);
    int64_t end = seconds < last ? llround(seconds * PA_STEPS_A_SECOND) : INT64_MAX;
    if (isnan(seconds) || first == *count || end <= llround(begins * PA_STEPS_A_SECOND)) {
        pa_error(&err, PA_USAGE, "seconds: expected more than %.2f, where the music begins, found %.2f", begins,
                 seconds);
        return pa_lib_result(PA_USAGE, &err, error);
    }
    if (end < INT64_MAX) *count = cut(tokens, *count, end);
    return pa_lib_result(PA_OK, &err, error);
}

patrain_status patrain_write_midi(const char *path, const patrain_note *notes, size_t note_count,
                                  patrain_error *error) {
    pa_err err = {""};
    pa_note *note = NULL;
    pa_status s = convert_notes(notes, note_count, &note, &err);
    if (!s) s = pa_midi_write(path, note, note_count, &err);
    free(note);
    return pa_lib_result(s, &err, error);
}

// ---- models

patrain_status patrain_model_open(patrain_model **model, const char *path, const char *config, patrain_error *error) {
    pa_err err = {""};
    patrain_model *m = *model = calloc(1, sizeof *m);
    pa_status s =
        m ? pa_weights_open(&m->weights, path, config, NULL, &err) : pa_error(&err, PA_FAIL, "no memory for a model");
    if (!s) s = pa_params_init(&m->params, &m->weights.model, &err);
    if (!s && m->weights.model.vocab != PA_VOCAB)
        s = pa_error(&err, PA_DATA, "%s: model.vocab: expected %d, found %d", m->weights.path, PA_VOCAB,
                     m->weights.model.vocab);
    if (s) {
        patrain_model_close(m);
        *model = NULL;
    } else {
        m->info = (patrain_model_info){.context = m->weights.model.context,
                                       .prefix = m->weights.model.prefix,
                                       .encoding = (patrain_encoding)m->weights.encoding,
                                       .foreign = m->weights.foreign,
                                       .step = m->weights.step,
                                       .parameters = m->params.parameters,
                                       .path = m->weights.path,
                                       .batch = pa_pieces_batch(&m->params.model)};
    }
    return pa_lib_result(s, &err, error);
}

void patrain_model_close(patrain_model *m) {
    if (!m) return;
    pa_params_clear(&m->params);
    pa_weights_close(&m->weights);
    free(m);
}

const patrain_model_info *patrain_model_describe(const patrain_model *m) {
    return &m->info;
}
