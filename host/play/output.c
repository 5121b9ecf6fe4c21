// output.c: see output.h.
#include "host/play/output.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "host/base/file.h"
#include "host/play/library.h"
#include "tokenizer/splice.h"
#include "tokenizer/write.h"

bool pa_output_is_tokens(const pa_output *o) {
    return pa_ends_with(o->path, ".safetensors");
}

pa_status pa_output_name(const pa_output *o, size_t k, char *name, size_t size, pa_err *err) {
    const char *dot = strrchr(o->path, '.');
    int n = o->number > 1 && !pa_output_is_tokens(o)
                ? snprintf(name, size, "%.*s-%zu%s", (int)(dot - o->path), o->path, k + 1, dot)
                : snprintf(name, size, "%s", o->path);
    return n < (int)size ? PA_OK
                         : pa_error(err, PA_USAGE, "--output: expected at most %zu bytes, found %d", size - 1, n);
}

// Tokens replace tokens, not weights.
static pa_status check_replaced(const pa_output *o, const char *name, pa_err *err) {
    pa_st *st;
    struct stat info;
    pa_status s = pa_check_spares_runs("output", name, err);
    if (s || !pa_output_is_tokens(o) || stat(name, &info) || !info.st_size) return s;
    const char *format = pa_st_open_meta(&st, name, NULL) ? NULL : pa_st_meta(st, "format");
    bool tokens = format && !strcmp(format, PA_TOKENS_FORMAT);
    pa_st_close(st);
    return tokens ? PA_OK
                  : pa_error(err, PA_USAGE, "--output: expected a new file or tokens to replace, found %s", name);
}

pa_status pa_output_check(const pa_output *o, const char *primer, pa_err *err) {
    char name[4096], file[4096];
    int64_t piece;
    if (!pa_ends_with(o->path, ".mid") && !pa_ends_with(o->path, ".midi") && !pa_output_is_tokens(o))
        return pa_error(err, PA_USAGE, "--output: expected a name in .mid, .midi or .safetensors, found %s", o->path);
    for (int k = 0; k < o->number; k++) {
        pa_file created;
        pa_status s = pa_output_name(o, (size_t)k, name, sizeof name, err);
        if (s || (s = check_replaced(o, name, err)) || (s = pa_file_create(&created, name, err))) return s;
        pa_file_abandon(&created);
    }
    if (!primer) return PA_OK;
    pa_split_piece(primer, file, sizeof file, &piece);
    return pa_output_check_spares(o, "the primer", file, err);
}

pa_status pa_output_check_spares(const pa_output *o, const char *what, const char *input, pa_err *err) {
    char name[4096];
    pa_status s = PA_OK;
    for (int k = 0; k < o->number && !s; k++) {
        s = pa_output_name(o, (size_t)k, name, sizeof name, err);
        if (!s) s = pa_check_spares("output", name, what, input, err);
    }
    return s;
}

// ---- MIDI

// A new file from tokens only.
static pa_status write_notes(const pa_output *o, const pa_primer *p, const pa_take *take, const char *name,
                             pa_err *err) {
    pa_take_notes n;
    pa_status s = pa_take_decode(p, take, p->count, &n, err);
    size_t first = o->without_primer ? n.primer : 0;
    double from = o->without_primer ? pa_primer_seconds(p) : 0;
    for (size_t i = first; i < n.count && !s; i++) {
        n.note[i].start -= from;
        n.note[i].end -= from;
    }
    if (!s) s = pa_midi_write(name, n.note + first, n.count - first, err);
    free(n.note);
    return s;
}

// The primer's file continued. Notes are in seconds of the tokens and go to seconds of the file.
static pa_status write_splice(const pa_output *o, const pa_primer *p, const pa_take *take, const char *name,
                              pa_err *err) {
    pa_take_notes n;
    double offset = p->cut - pa_primer_seconds(p);
    pa_splice splice = {.bytes = p->bytes,
                        .count = p->size,
                        .lenient = p->lenient,
                        .keep = p->whole && !o->without_primer ? INFINITY : p->keep,
                        .cut = p->cut,
                        .bare = o->without_primer};
    pa_status s = pa_take_decode(p, take, p->before, &n, err);
    for (size_t i = 0; i < n.count && !s; i++) {
        n.note[i].start += offset;
        n.note[i].end += offset;
        double *held = &splice.held[n.note[i].pitch];
        if (i < n.primer) *held = fmax(*held, n.note[i].end);
    }
    splice.note = n.note + n.primer;
    splice.notes = n.count - n.primer;
    if (!s) s = pa_splice_write(name, &splice, err);
    free(n.note);
    return s;
}

// ---- tokens

// The piece of a take; its tokens are malloc'ed.
static pa_status make_piece(const pa_output *o, const pa_primer *p, const pa_take *take, pa_piece *piece, pa_err *err) {
    size_t before = o->without_primer ? 0 : p->count;
    piece->count = before + take->count;
    piece->token = malloc((piece->count + 1) * sizeof *piece->token);
    if (!piece->token) return pa_error(err, PA_FAIL, "%s: no memory for %zu tokens", o->path, piece->count);
    if (before) memcpy(piece->token, p->token, before * sizeof *p->token);
    memcpy(piece->token + before, take->token, take->count * sizeof *take->token);
    piece->seconds = pa_token_seconds(piece->token, piece->count);
    for (size_t i = 0; i < piece->count; i++) piece->notes += pa_is_note_on(piece->token[i]);
    return PA_OK;
}

static pa_status write_tokens(const pa_output *o, const pa_primer *p, const pa_takes *t, pa_err *err) {
    pa_status s = PA_OK;
    pa_piece *piece = calloc(t->count + 1, sizeof *piece);
    char(*text)[320] = calloc(t->count + 1, sizeof *text);
    const char **name = calloc(t->count + 1, sizeof *name);
    if (!piece || !text || !name) s = pa_error(err, PA_FAIL, "%s: no memory for %zu pieces", o->path, t->count);
    for (size_t k = 0; k < t->count && !s; k++) {
        snprintf(text[k], sizeof *text, "%s%scontinuation %zu", p->name, *p->name ? ", " : "", k + 1);
        name[k] = text[k];
        s = make_piece(o, p, &t->take[k], &piece[k], err);
    }
    if (!s) s = pa_tokens_write(o->path, piece, name, t->count, p->encoding, "generated", err);
    for (size_t k = 0; k < t->count && piece; k++) free(piece[k].token);
    free(piece);
    free(text);
    free(name);
    return s;
}

pa_status pa_output_write(const pa_output *o, const pa_primer *p, const pa_takes *t, pa_err *err) {
    char name[4096];
    if (!t->count) return pa_error(err, PA_FAIL, "%s: stopped before there was anything to write", o->path);
    if (pa_output_is_tokens(o)) return write_tokens(o, p, t, err);
    pa_file_group group = {0};
    pa_status s = pa_file_group_begin(&group, err);
    for (size_t k = 0; k < t->count && !s; k++) {
        s = pa_output_name(o, k, name, sizeof name, err);
        if (!s) s = p->bytes ? write_splice(o, p, &t->take[k], name, err) : write_notes(o, p, &t->take[k], name, err);
    }
    return pa_file_group_end(&group, s, err);
}
