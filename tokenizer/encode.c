// encode.c: see encode.h. Reads the file and passes it to the requested encoding. Knows neither encoding's rules.
#include "tokenizer/encode.h"

#include "tokenizer/neural.h"
#include "tokenizer/performance.h"
#include "tokenizer/read.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Whole file; only a regular one, and of a size that a piece of music has.
static pa_status read_bytes(const char *path, uint8_t **bytes, size_t *count, pa_err *err) {
    pa_status s = PA_OK;
    struct stat st;
    *bytes = NULL;
    *count = 0;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); // without O_NONBLOCK a named pipe would wait for its writer
    bool ours = errno == EMFILE || errno == ENFILE || errno == ENOMEM;
    if (fd < 0) return pa_error(err, ours ? PA_FAIL : PA_DATA, "cannot open: %s", strerror(errno));
    if (fstat(fd, &st) || !S_ISREG(st.st_mode))
        s = pa_error(err, PA_DATA, "expected a regular file");
    else if (st.st_size > PA_LONGEST_FILE)
        s = pa_error(err, PA_DATA, "expected at most %d bytes, found %lld", PA_LONGEST_FILE, (long long)st.st_size);
    else if (!(*bytes = malloc((size_t)st.st_size + 1)))
        s = pa_error(err, PA_FAIL, "no memory for %lld bytes", (long long)st.st_size);
    while (!s && *count < (size_t)st.st_size) {
        ssize_t n = read(fd, *bytes + *count, (size_t)st.st_size - *count);
        if (n < 0 && errno != EINTR) s = pa_error(err, PA_FAIL, "cannot read: %s", strerror(errno));
        if (n == 0) break;
        if (n > 0) *count += (size_t)n;
    }
    close(fd);
    return s;
}

static pa_status encode_song(const pa_song *song, const pa_encode_options *o, pa_piece *piece, pa_err *err) {
    bool neural = o->encoding == PA_MIDI_NEURAL;
    pa_status s = neural ? pa_neural_encode(song, o, piece, err) : pa_performance_encode(song, o, piece, err);
    for (size_t i = 0; i < song->parts && !s; i++)
        for (size_t k = 0; k < song->part[i].notes && (neural || !song->part[i].drums); k++)
            piece->seconds = fmax(piece->seconds, song->part[i].note[k].end);
    piece->seconds = fmax(0, piece->seconds - piece->report.trimmed - piece->report.shortened);
    return s;
}

// Why a piece has no token.
static pa_status empty(const pa_report *r, pa_encoding e, pa_err *err) {
    size_t others = r->drums + r->other_programs;
    if (!r->notes) return pa_error(err, PA_DATA, "no notes");
    if (e == PA_PERFORMANCE && r->drums == r->notes)
        return pa_error(err, PA_DATA, "only drums: %zu note%s on channel 10 and no other", r->notes,
                        r->notes == 1 ? "" : "s");
    if (e == PA_PERFORMANCE && others == r->notes)
        return pa_error(err, PA_DATA, "no note of the programs asked for: %zu are of others and %zu are drums",
                        r->other_programs, r->drums);
    return pa_error(err, PA_DATA, "no note of its %zu has a place in the %s encoding", r->notes, pa_encoding_name(e));
}

pa_status pa_encode_bytes(const uint8_t *bytes, size_t count, const pa_encode_options *o, pa_piece *piece,
                          pa_err *err) {
    pa_song song = {0};
    *piece = (pa_piece){0};
    pa_status s = pa_song_read(&song, bytes, count, o, &piece->report, err);
    if (!s) s = encode_song(&song, o, piece, err);
    if (!s && !piece->count) s = empty(&piece->report, o->encoding, err);
    pa_song_clear(&song);
    return s;
}

pa_status pa_encode_file(const char *path, const pa_encode_options *o, pa_piece *piece, pa_err *err) {
    uint8_t *bytes;
    size_t count;
    pa_err reason = {""};
    *piece = (pa_piece){0};
    pa_status s = read_bytes(path, &bytes, &count, &reason);
    if (!s) s = pa_encode_bytes(bytes, count, o, piece, &reason);
    free(bytes);
    return s ? pa_error(err, s, "%s: %s", path, reason.text) : PA_OK;
}

pa_status pa_decode(const uint16_t *token, size_t count, pa_encoding e, pa_note **notes, size_t *note_count,
                    pa_err *err) {
    *notes = NULL;
    *note_count = 0;
    for (size_t i = 0; i < count; i++)
        if (token[i] >= PA_VOCAB)
            return pa_error(err, PA_DATA, "token %zu: expected an id below %d, found %d", i, PA_VOCAB, token[i]);
    pa_part part = {0};
    if (!(e == PA_PERFORMANCE ? pa_performance_decode(token, count, &part) : pa_neural_decode(token, count, &part))) {
        free(part.note);
        return pa_error(err, PA_FAIL, "no memory for the notes of %zu tokens", count);
    }
    *notes = part.note;
    *note_count = part.notes;
    return PA_OK;
}
