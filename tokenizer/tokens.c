// tokens.c: what both encodings share: names, writing tokens, sorting events by time, reading a file. Knows neither encoding's rules.
#include "tokenizer/song.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *pa_encoding_name(pa_encoding e) {
    return e == PA_PERFORMANCE ? "performance" : "midi-neural";
}

pa_status pa_encoding_parse(const char *name, pa_encoding *e, pa_err *err) {
    for (pa_encoding i = PA_PERFORMANCE; i <= PA_MIDI_NEURAL; i++) {
        *e = i;
        if (!strcmp(name, pa_encoding_name(i))) return PA_OK;
    }
    return pa_error(err, PA_USAGE, "encoding: expected performance or midi-neural, found '%s'", name);
}

void pa_piece_clear(pa_piece *piece) {
    free(piece->token);
    *piece = (pa_piece){0};
}

bool pa_writer_add(pa_writer *w, int token) {
    uint16_t *grown = pa_grow(w->token, &w->room, w->count, sizeof *grown);
    if (!grown) return false;
    w->token = grown;
    w->token[w->count++] = (uint16_t)token;
    return true;
}

bool pa_writer_shift(pa_writer *w, int64_t steps) {
    for (; steps > 100; steps -= 100)
        if (!pa_writer_add(w, PA_TIME_SHIFT + 99)) return false;
    return steps <= 0 || pa_writer_add(w, PA_TIME_SHIFT + (int)steps - 1);
}

static bool is_after(const pa_moment *a, const pa_moment *b) {
    return a->time > b->time || (a->time == b->time && a->order > b->order);
}

// Merges from[low .. middle) and from[middle .. high) into `to`.
static void merge(const pa_moment *from, pa_moment *to, size_t low, size_t middle, size_t high) {
    if (middle >= high || !is_after(&from[middle - 1], &from[middle])) { // in order already, as most of a performance is
        memcpy(to + low, from + low, (high - low) * sizeof *to);
        return;
    }
    size_t a = low, b = middle;
    for (size_t i = low; i < high; i++) to[i] = a < middle && (b == high || !is_after(&from[a], &from[b])) ? from[a++] : from[b++];
}

bool pa_moment_sort(pa_moment *moment, size_t count) {
    enum { RUN = 16 };
    for (size_t i = 1; i < count; i++) { // runs by insertion
        pa_moment m = moment[i];
        size_t k = i;
        for (; k % RUN && is_after(&moment[k - 1], &m); k--) moment[k] = moment[k - 1];
        moment[k] = m;
    }
    if (count <= RUN) return true;
    pa_moment *other = malloc(count * sizeof *other), *from = moment, *to = other;
    if (!other) return false;
    for (size_t run = RUN; run < count; run *= 2) {
        for (size_t low = 0; low < count; low += 2 * run) {
            size_t middle = low + run < count ? low + run : count, high = low + 2 * run < count ? low + 2 * run : count;
            merge(from, to, low, middle, high);
        }
        pa_moment *t = from;
        from = to, to = t;
    }
    if (from != moment) memcpy(moment, from, count * sizeof *moment);
    free(other);
    return true;
}

// Whole file; only a regular one, and of a size that a piece of music has.
static pa_status read_bytes(const char *path, uint8_t **bytes, size_t *count, pa_err *err) {
    pa_status s = PA_OK;
    struct stat st;
    *bytes = NULL;
    *count = 0;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); // without O_NONBLOCK a named pipe would wait for its writer
    if (fd < 0) return pa_error(err, PA_DATA, "cannot open: %s", strerror(errno));
    if (fstat(fd, &st) || !S_ISREG(st.st_mode))
        s = pa_error(err, PA_DATA, "expected a regular file");
    else if (st.st_size > PA_LONGEST_FILE)
        s = pa_error(err, PA_DATA, "expected at most %d bytes, found %lld", PA_LONGEST_FILE, (long long)st.st_size);
    else if (!(*bytes = malloc((size_t)st.st_size + 1)))
        s = pa_error(err, PA_FAIL, "no memory for %lld bytes", (long long)st.st_size);
    while (!s && *count < (size_t)st.st_size) {
        ssize_t n = read(fd, *bytes + *count, (size_t)st.st_size - *count);
        if (n < 0 && errno != EINTR) s = pa_error(err, PA_DATA, "cannot read: %s", strerror(errno));
        if (n == 0) break;
        if (n > 0) *count += (size_t)n;
    }
    close(fd);
    return s;
}

pa_status pa_encode_song(const pa_song *song, pa_encoding e, pa_piece *piece, pa_err *err) {
    pa_status s = e == PA_PERFORMANCE ? pa_performance_encode(song, piece, err) : pa_neural_encode(song, piece, err);
    for (size_t i = 0; i < song->parts && !s; i++)
        for (size_t k = 0; k < song->part[i].notes && !(e == PA_PERFORMANCE && song->part[i].drums); k++)
            piece->seconds = fmax(piece->seconds, song->part[i].note[k].end);
    return s;
}

pa_status pa_encode_file(const char *path, pa_encoding e, pa_piece *piece, pa_err *err) {
    uint8_t *bytes;
    size_t count;
    pa_err reason = {""};
    pa_song song = {0};
    *piece = (pa_piece){0};
    pa_status s = read_bytes(path, &bytes, &count, &reason);
    if (!s) s = pa_song_read(&song, bytes, count, &reason);
    if (!s) s = pa_encode_song(&song, e, piece, &reason);
    pa_song_clear(&song);
    free(bytes);
    return s ? pa_error(err, s, "%s: %s", path, reason.text) : PA_OK;
}

pa_status pa_decode(const uint16_t *token, size_t count, pa_encoding e, pa_note **notes, size_t *note_count, pa_err *err) {
    *notes = NULL;
    *note_count = 0;
    for (size_t i = 0; i < count; i++)
        if (token[i] >= PA_VOCAB) return pa_error(err, PA_DATA, "token %zu: expected an id below %d, found %d", i, PA_VOCAB, token[i]);
    pa_part part = {0};
    if (!(e == PA_PERFORMANCE ? pa_performance_decode(token, count, &part) : pa_neural_decode(token, count, &part))) {
        free(part.note);
        return pa_error(err, PA_FAIL, "no memory for the notes of %zu tokens", count);
    }
    *notes = part.note;
    *note_count = part.notes;
    return PA_OK;
}

double pa_token_seconds(const uint16_t *token, size_t count) {
    int64_t steps = 0;
    for (size_t i = 0; i < count && token[i] != PA_END; i++)
        if (token[i] >= PA_TIME_SHIFT && token[i] < PA_VELOCITY) steps += token[i] - PA_TIME_SHIFT + 1;
    return (double)steps / 100;
}

void pa_token_text(uint16_t token, char *text, size_t size) {
    if (token < PA_NOTE_OFF)
        snprintf(text, size, "NOTE_ON %d", token);
    else if (token < PA_TIME_SHIFT)
        snprintf(text, size, "NOTE_OFF %d", token - PA_NOTE_OFF);
    else if (token < PA_VELOCITY)
        snprintf(text, size, "TIME_SHIFT %.2f s", (token - PA_TIME_SHIFT + 1) / 100.0);
    else if (token < PA_END)
        snprintf(text, size, "VELOCITY %d", token - PA_VELOCITY);
    else if (token < PA_VOCAB)
        snprintf(text, size, token == PA_END ? "END" : "PAD");
    else
        snprintf(text, size, "UNKNOWN %d", token);
}
