// music.c: see music.h.
#include "host/play/music.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "host/base/file.h"
#include "host/play/repetition.h"
#include "tokenizer/workers.h"
#include "tokenizer/write.h"

static bool ends_with(const char *text, const char *end) { // in upper or lower case
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcasecmp(text + n - m, end);
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

// ---- primer

// Copies up to END.
static pa_status set_primer(pa_music *m, const char *path, const uint16_t *token, size_t count, pa_err *err) {
    size_t n = 0;
    while (n < count && token[n] != PA_END) n++;
    if (!n)
        return pa_error(err, PA_DATA, "%s: expected music to continue, found no notes that the %s encoding keeps", path,
                        pa_encoding_name(m->encoding));
    if (!(m->primer = malloc(n * sizeof *m->primer))) return pa_error(err, PA_FAIL, "%s: no memory for %zu tokens", path, n);
    memcpy(m->primer, token, n * sizeof *token);
    m->primer_count = n;
    snprintf(m->name, sizeof m->name, "%s", base_name(path));
    return PA_OK;
}

static pa_status read_token_file(pa_music *m, const pa_inference *model, const char *path, int64_t piece, pa_err *err) {
    pa_token_set t;
    pa_status s = pa_inference_tokens(model, &t, path, err);
    if (s) return s;
    m->encoding = t.encoding; // a foreign checkpoint doesn't know its own
    if (!t.pieces) {
        s = pa_error(err, PA_DATA, "%s: expected a piece, found none", path);
    } else if (piece < t.pieces) {
        const pa_token_piece p = pa_token_set_piece(&t, piece);
        s = set_primer(m, path, p.token, (size_t)p.count, err);
    } else {
        s = pa_error(err, PA_USAGE, "%s: expected a piece below %lld, found %lld", path, (long long)t.pieces, (long long)piece);
    }
    pa_token_set_close(&t);
    return s;
}

// Takes TOKENS.safetensors[:PIECE] apart. False where `path` is not such: then it is the file itself.
static bool split_piece(const char *path, char *file, size_t size, int64_t *piece) {
    const char *colon = strrchr(path, ':');
    size_t digits = colon ? strspn(colon + 1, "0123456789") : 0;
    *piece = 0;
    if (digits && digits < 18 && !colon[1 + digits]) {
        snprintf(file, size, "%.*s", (int)(colon - path), path);
        *piece = atoll(colon + 1);
        if (ends_with(file, ".safetensors")) return true;
    }
    snprintf(file, size, "%s", path);
    return ends_with(file, ".safetensors");
}

pa_status pa_music_read_primer(pa_music *m, const pa_inference *model, const char *path, pa_err *err) {
    char file[4096];
    int64_t number;
    m->encoding = model->weights.encoding;
    if (split_piece(path, file, sizeof file, &number)) return read_token_file(m, model, file, number, err);
    pa_piece piece = {0};
    pa_status s = pa_encode_isolated(path, &(pa_encode_options){.encoding = m->encoding}, &piece, err);
    if (!s) s = set_primer(m, path, piece.token, piece.count, err);
    if (!s && piece.dropped)
        fprintf(stderr, "%s: %zu notes are left out: never released, without length, or of no place in the %s encoding\n", path,
                piece.dropped, pa_encoding_name(m->encoding));
    pa_piece_clear(&piece);
    return s;
}

pa_status pa_music_cut_primer(pa_music *m, int64_t steps, size_t tokens, pa_err *err) {
    int64_t clock = 0, begins = -1; // with the first note
    size_t kept = 0, i = 0;
    for (; i < m->primer_count && i < tokens && (clock <= steps || begins < 0); i++) {
        clock += pa_shift_steps(m->primer[i]);
        if (pa_is_note_on(m->primer[i]) && begins < 0) begins = clock;
        if (clock <= steps) kept = i + 1;
    }
    if (begins > steps)
        return pa_error(err, PA_USAGE, "--prime-seconds: expected %.2f at least, when %s begins, found %.2f", (double)begins / 100, m->name,
                        (double)steps / 100);
    m->primer_count = kept;
    return PA_OK;
}

// ---- continuations

pa_status pa_music_add(pa_music *m, const uint16_t *token, size_t count, int64_t limit, pa_err *err) {
    pa_take *larger = realloc(m->take, (m->takes + 1) * sizeof *larger), take = {malloc((count + 1) * sizeof *token), 0};
    if (larger) m->take = larger;
    if (!larger || !take.token) {
        free(take.token);
        return pa_error(err, PA_FAIL, "no memory for a continuation of %zu tokens", count);
    }
    for (int64_t clock = 0; take.count < count && (!limit || clock < limit);) {
        uint16_t t = token[take.count];
        if (pa_is_time_shift(t)) {
            clock += pa_shift_steps(t);
            if (limit && clock > limit) t -= (uint16_t)(clock - limit);
        }
        take.token[take.count++] = t;
    }
    m->take[m->takes++] = take;
    return PA_OK;
}

void pa_music_clear(pa_music *m) {
    for (size_t k = 0; k < m->takes; k++) free(m->take[k].token);
    free(m->take);
    free(m->primer);
    *m = (pa_music){0};
}

// The primer and take k as one sequence, with a NOTE_OFF at the end for each note that still sounds. malloc'ed; NULL without memory.
static uint16_t *join(const pa_music *m, size_t k, size_t *count) {
    const pa_take *take = &m->take[k];
    size_t sounding[128] = {0}, n = m->primer_count + take->count;
    uint16_t *all = malloc((2 * n + 1) * sizeof *all);
    if (!all) return NULL;
    if (m->primer_count) memcpy(all, m->primer, m->primer_count * sizeof *all);
    memcpy(all + m->primer_count, take->token, take->count * sizeof *all);
    for (size_t i = 0; i < n; i++) {
        size_t *s = &sounding[pa_pitch_of(all[i])];
        if (pa_is_note_on(all[i]))
            *s = m->encoding == PA_PERFORMANCE ? *s + 1 : 1; // midi-neural: the latest note of a pitch is the one that ends
        else if (pa_is_note_off(all[i]) && *s)
            --*s;
    }
    for (int pitch = 0; pitch < 128; pitch++)
        for (; sounding[pitch]; sounding[pitch]--) all[n++] = (uint16_t)(PA_NOTE_OFF + pitch);
    *count = n;
    return all;
}

// Those that began with the first `tokens` tokens in front, each part in its order. How many; SIZE_MAX without memory.
static size_t split_notes(pa_note *note, size_t count, size_t tokens) {
    pa_note *later = malloc((count + 1) * sizeof *later);
    size_t before = 0, after = 0;
    if (!later) return SIZE_MAX;
    for (size_t i = 0; i < count; i++) {
        if (note[i].token < tokens)
            note[before++] = note[i];
        else
            later[after++] = note[i];
    }
    memcpy(note + before, later, after * sizeof *note);
    free(later);
    return before;
}

// Notes of the primer and take k, malloc'ed; the take's own begin at *first: by token, for a primer's last chord may stand at its very end.
static pa_status decode(const pa_music *m, size_t k, pa_note **note, size_t *first, size_t *count, pa_err *err) {
    size_t tokens;
    uint16_t *all = join(m, k, &tokens);
    *note = NULL;
    if (!all) return pa_error(err, PA_FAIL, "no memory for the notes of %zu tokens", m->take[k].count);
    pa_status s = pa_decode(all, tokens, m->encoding, note, count, err);
    free(all);
    if (s) return s;
    *first = split_notes(*note, *count, m->primer_count);
    return *first == SIZE_MAX ? pa_error(err, PA_FAIL, "no memory for %zu notes", *count) : PA_OK;
}

// ---- output

// The file of take k: FILE.mid, or FILE-2.mid for the second of several.
static pa_status file_name(const char *path, size_t k, int number, char *name, size_t size, pa_err *err) {
    const char *dot = strrchr(path, '.');
    int n = number > 1 && !ends_with(path, ".safetensors") ? snprintf(name, size, "%.*s-%zu%s", (int)(dot - path), path, k + 1, dot)
                                                           : snprintf(name, size, "%s", path);
    return n < (int)size ? PA_OK : pa_error(err, PA_USAGE, "--output: expected at most %zu bytes, found %d", size - 1, n);
}

pa_status pa_music_check_output(const char *path, const char *primer, int number, pa_err *err) {
    char name[4096], file[4096];
    int64_t piece;
    if (!ends_with(path, ".mid") && !ends_with(path, ".midi") && !ends_with(path, ".safetensors"))
        return pa_error(err, PA_USAGE, "--output: expected a name in .mid, .midi or .safetensors, found %s", path);
    for (int k = 0; k < number; k++) {
        pa_file made;
        pa_status s = file_name(path, (size_t)k, number, name, sizeof name, err);
        if (s) return s;
        if ((s = pa_file_create(&made, name, err))) return s;
        pa_file_abandon(&made);
    }
    if (!primer) return PA_OK;
    split_piece(primer, file, sizeof file, &piece);
    return pa_music_check_spares(path, number, "the primer", file, err);
}

pa_status pa_music_check_spares(const char *path, int number, const char *what, const char *input, pa_err *err) {
    char name[4096];
    pa_status s = PA_OK;
    for (int k = 0; k < number && !s; k++) {
        s = file_name(path, (size_t)k, number, name, sizeof name, err);
        if (!s) s = pa_check_spares("output", name, what, input, err);
    }
    return s;
}

static pa_status write_midi(const pa_music *m, size_t k, const char *name, bool without_primer, pa_err *err) {
    pa_note *note;
    size_t first, count;
    pa_status s = decode(m, k, &note, &first, &count, err);
    if (!without_primer) first = 0;
    double from = without_primer ? pa_token_seconds(m->primer, m->primer_count) : 0;
    for (size_t i = first; i < count && !s; i++) note[i].start -= from, note[i].end -= from;
    if (!s) s = pa_midi_write(name, note + first, count - first, err);
    free(note);
    return s;
}

static pa_status write_tokens(const pa_music *m, const char *path, bool without_primer, pa_err *err) {
    pa_status s = PA_OK;
    size_t before = without_primer ? 0 : m->primer_count;
    pa_piece *piece = calloc(m->takes + 1, sizeof *piece);
    char(*text)[320] = calloc(m->takes + 1, sizeof *text);
    const char **name = calloc(m->takes + 1, sizeof *name);
    if (!piece || !text || !name) s = pa_error(err, PA_FAIL, "%s: no memory for %zu pieces", path, m->takes);
    for (size_t k = 0; k < m->takes && !s; k++) {
        const pa_take *take = &m->take[k];
        pa_piece *p = &piece[k];
        snprintf(text[k], sizeof *text, "%s%scontinuation %zu", m->name, *m->name ? ", " : "", k + 1);
        name[k] = text[k];
        p->count = before + take->count;
        if (!(p->token = malloc((p->count + 1) * sizeof *p->token))) {
            s = pa_error(err, PA_FAIL, "%s: no memory for %zu tokens", path, p->count);
            break;
        }
        if (before) memcpy(p->token, m->primer, before * sizeof *p->token);
        memcpy(p->token + before, take->token, take->count * sizeof *p->token);
        p->seconds = pa_token_seconds(p->token, p->count);
        for (size_t i = 0; i < p->count; i++) p->notes += pa_is_note_on(p->token[i]);
    }
    if (!s) s = pa_tokens_write(path, piece, name, m->takes, m->encoding, "generated", err);
    for (size_t k = 0; k < m->takes && piece; k++) free(piece[k].token);
    free(piece);
    free(text);
    free(name);
    return s;
}

pa_status pa_music_write(const pa_music *m, const char *path, int number, bool without_primer, pa_err *err) {
    char name[4096];
    if (!m->takes) return pa_error(err, PA_FAIL, "%s: stopped before there was anything to write", path);
    if (ends_with(path, ".safetensors")) return write_tokens(m, path, without_primer, err);
    for (size_t k = 0; k < m->takes; k++) {
        pa_status s = file_name(path, k, number, name, sizeof name, err);
        if (s || (s = write_midi(m, k, name, without_primer, err))) return s;
    }
    return PA_OK;
}

enum { MOST_MEASURED = 1 << 16 }; // notes of a row; hardly any piece has more

static pa_status print_row(const char *name, int width, const pa_note *note, size_t first, size_t count, double seconds, pa_err *err) {
    pa_repetition r;
    size_t notes = count - first, from = notes > MOST_MEASURED ? count - MOST_MEASURED : first;
    size_t before = PA_LOOK_BACK + PA_RUN, skip = from > before ? from - before : 0; // further ahead no run of PA_RUN notes is looked for
    pa_status s = pa_repetition_measure(note + skip, from - skip, count - skip, &r, err);
    if (!s)
        printf("%-*s%7zu%9.1f%9.1f%9d%10.1f%9.1f %%%9zu\n", width, name, notes, seconds, seconds > 0 ? (double)notes / seconds : 0,
               r.pitches, r.velocity, 100 * r.heard, r.longest);
    return s;
}

pa_status pa_music_report(const pa_music *m, const char *path, int number, pa_err *err) {
    char name[4096];
    double before = pa_token_seconds(m->primer, m->primer_count);
    int width = (int)strlen(base_name(path)) + 8; // room for a number in it
    if (width < 20) width = 20;
    printf("\n%-*s%7s%9s%9s%9s%10s%11s%9s\n", width, "", "notes", "seconds", "notes/s", "pitches", "velocity", "heard 16", "longest");
    pa_status s = PA_OK;
    bool whole = true;
    for (size_t k = 0; k < m->takes && !s; k++) {
        pa_note *note;
        size_t first, count;
        if ((s = decode(m, k, &note, &first, &count, err))) break;
        if (!k && m->primer_count) s = print_row("primer", width, note, 0, first, before, err);
        if (!s) s = file_name(path, k, number, name, sizeof name, err);
        if (ends_with(path, ".safetensors")) snprintf(name, sizeof name, "continuation %zu", k + 1);
        if (!s) s = print_row(base_name(name), width, note, first, count, pa_token_seconds(m->take[k].token, m->take[k].count), err);
        whole = whole && first <= MOST_MEASURED && count - first <= MOST_MEASURED;
        free(note);
    }
    if (!s)
        printf("\nheard 16: share of its runs of 16 pitches that were played before; longest: notes of the longest such run.\n"
               "A model that is stuck in a loop nears 100 %%.\n");
    if (!s && !whole)
        printf("Where there are more than %d notes, the columns from pitches on are of the last %d.\n", MOST_MEASURED, MOST_MEASURED);
    return s;
}
