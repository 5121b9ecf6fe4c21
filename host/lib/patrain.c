// patrain.c: the public library's models, tokens and notes. See include/patrain.h.
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "host/lib/handles.h"
#include "tokenizer/encode.h"
#include "tokenizer/neural.h"
#include "tokenizer/performance.h"
#include "tokenizer/song.h"
#include "tokenizer/write.h"

_Static_assert(PATRAIN_FAILED == (int)PA_FAIL && PATRAIN_BAD_USAGE == (int)PA_USAGE && PATRAIN_BAD_DATA == (int)PA_DATA, "status");
_Static_assert(PATRAIN_TIME_SHIFT == (int)PA_TIME_SHIFT && PATRAIN_VELOCITY == (int)PA_VELOCITY, "tokens");
_Static_assert(PATRAIN_END == (int)PA_END && PATRAIN_PAD == (int)PA_PAD && PATRAIN_VOCABULARY == (int)PA_VOCAB, "tokens");
_Static_assert(PATRAIN_PERFORMANCE == (int)PA_PERFORMANCE && PATRAIN_MIDI_NEURAL == (int)PA_MIDI_NEURAL, "encodings");

patrain_status pa_lib_result(pa_status status, const pa_err *why, patrain_error *error) {
    if (error && status) snprintf(error->text, sizeof error->text, "%s", why->text);
    if (error && !status) error->text[0] = '\0';
    if (error) error->status = (patrain_status)status;
    return (patrain_status)status;
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

patrain_status patrain_encode_midi(const char *path, patrain_encoding encoding, uint16_t **tokens, size_t *count, size_t *dropped,
                                   patrain_error *error) {
    static pthread_mutex_t reader = PTHREAD_MUTEX_INITIALIZER; // libsmf reports through glib's log, one for the whole process
    pa_err err = {""};
    pa_piece piece = {0};
    pa_status s = check_encoding(encoding, &err);
    if (!s) {
        pa_encode_options o = {.encoding = (pa_encoding)encoding, .lenient = true, .trim_silence = true}; // as pagen does
        pthread_mutex_lock(&reader);
        s = pa_encode_file(path, &o, &piece, &err);
        pthread_mutex_unlock(&reader);
    }
    if (s) pa_piece_clear(&piece);
    *tokens = piece.token;
    *count = piece.count;
    if (dropped) *dropped = piece.dropped;
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
            return pa_error(err, PA_DATA, "note %zu: expected a start from 0 and a later end within %d s, found %g and %g", i,
                            PA_LONGEST_PIECE, n->start, n->end);
        if (n->pitch > 127 || n->velocity < 1 || n->velocity > 127)
            return pa_error(err, PA_DATA, "note %zu: expected a pitch up to 127 and a velocity from 1 to 127, found %d and %d", i, n->pitch,
                            n->velocity);
        (*out)[i] = (pa_note){.start = n->start, .end = n->end, .pitch = n->pitch, .velocity = n->velocity};
    }
    return PA_OK;
}

patrain_status patrain_encode_notes(const patrain_note *notes, size_t note_count, patrain_encoding encoding, uint16_t **tokens,
                                    size_t *count, patrain_error *error) {
    pa_err err = {""};
    pa_piece piece = {0};
    pa_note *note = NULL;
    pa_status s = check_encoding(encoding, &err);
    if (!s) s = convert_notes(notes, note_count, &note, &err);
    if (!s) {
        // PATRAIN_MIDI_NEURAL passes on only the notes that begin before some pedal goes down.
        pa_pedal pedal[] = {{.time = PA_LONGEST_PIECE, .kind = PA_PEDAL_DOWN}, {.time = PA_LONGEST_PIECE, .kind = PA_PEDAL_UP}};
        pa_part part = {.note = note, .notes = note_count, .pedal = pedal, .pedals = encoding == PATRAIN_MIDI_NEURAL ? 2 : 0};
        qsort(note, note_count, sizeof *note, by_end); // the order of a song's parts
        pa_song song = {.part = &part, .parts = 1};
        pa_encode_options o = {.encoding = (pa_encoding)encoding};
        s = encoding == PATRAIN_MIDI_NEURAL ? pa_neural_encode(&song, &o, &piece, &err) : pa_performance_encode(&song, &o, &piece, &err);
    }
    free(note);
    if (s) pa_piece_clear(&piece);
    *tokens = piece.token;
    *count = piece.count;
    return pa_lib_result(s, &err, error);
}

patrain_status patrain_decode(const uint16_t *tokens, size_t count, patrain_encoding encoding, patrain_note **notes, size_t *note_count,
                              patrain_error *error) {
    pa_err err = {""};
    pa_note *note = NULL;
    size_t found = 0;
    pa_status s = check_encoding(encoding, &err);
    *notes = NULL;
    *note_count = 0;
    if (!s) s = pa_decode(tokens, count, (pa_encoding)encoding, &note, &found, &err);
    if (!s && !(*notes = malloc((found + 1) * sizeof **notes))) s = pa_error(&err, PA_FAIL, "no memory for %zu notes", found);
    for (size_t i = 0; i < found && !s; i++)
        (*notes)[i] = (patrain_note){.start = note[i].start, .end = note[i].end, .pitch = note[i].pitch, .velocity = note[i].velocity};
    if (!s) *note_count = found;
    free(note);
    return pa_lib_result(s, &err, error);
}

patrain_status patrain_write_midi(const char *path, const patrain_note *notes, size_t note_count, patrain_error *error) {
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
    pa_status s = m ? pa_weights_open(&m->weights, path, config, NULL, &err) : pa_error(&err, PA_FAIL, "no memory for a model");
    if (!s) s = pa_params_init(&m->params, &m->weights.model, &err);
    if (!s && m->weights.model.vocab != PA_VOCAB)
        s = pa_error(&err, PA_DATA, "%s: model.vocab: expected %d, found %d", m->weights.path, PA_VOCAB, m->weights.model.vocab);
    if (s) {
        patrain_model_close(m);
        *model = NULL;
    }
    return pa_lib_result(s, &err, error);
}

void patrain_model_close(patrain_model *m) {
    if (!m) return;
    pa_params_clear(&m->params);
    pa_weights_close(&m->weights);
    free(m);
}

patrain_model_info patrain_model_describe(const patrain_model *m) {
    return (patrain_model_info){.context = m->weights.model.context,
                                .prefix = m->weights.model.prefix,
                                .encoding = (patrain_encoding)m->weights.encoding,
                                .step = m->weights.step,
                                .parameters = m->params.parameters,
                                .path = m->weights.path};
}
