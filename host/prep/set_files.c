// set_files.c: see set_files.h.
#include "host/prep/set_files.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/base/file.h"
#include "host/files/token_set.h"

enum {
    MOST_PIECES = 1 << 16,
    PIECE_BYTES = 20,
    COPY_BYTES = 1 << 20,
    PATH = 4096
}; // PIECE_BYTES: offset, notes, seconds

typedef struct {
    const pa_pieces *pieces;
    const pa_set_options *o;
    const char *folder;
    char set[17];
    void *buffer; // COPY_BYTES
} writer;

// Pieces [first, end) of the corpus; `count` of them are in the file.
typedef struct {
    size_t first, end, count;
    int64_t tokens;
} part;

bool pa_set_holds(const pa_row *row, const pa_set_options *o) {
    return row->state == PA_ROW_READ || (row->state == PA_ROW_COPY && o->keep_copies);
}

static bool belongs(const writer *w, size_t piece, pa_split split) {
    const pa_row *row = &w->pieces->row[piece];
    return row->split == split && pa_set_holds(row, w->o);
}

// The next file of a split. MOST_PIECES bounds the memory for its header, whatever the pieces' length.
static part next_part(const writer *w, pa_split split, size_t first) {
    part p = {.first = first};
    for (p.end = first; p.end < w->pieces->corpus->count; p.end++) {
        if (!belongs(w, p.end, split)) continue;
        int64_t tokens = p.tokens + w->pieces->row[p.end].count;
        int64_t bytes = tokens * (int64_t)sizeof(uint16_t) + (int64_t)(p.count + 1) * PIECE_BYTES;
        if (p.count && (bytes > w->o->part_bytes || p.count == MOST_PIECES)) break;
        p.tokens = tokens;
        p.count++;
    }
    return p;
}

static pa_status put_tokens(const writer *w, pa_st_writer *out, const pa_row *row, pa_err *err) {
    size_t left = row->count * sizeof(uint16_t);
    pa_status s = PA_OK;
    for (int64_t at = row->at; left && !s;) {
        size_t bytes = left < COPY_BYTES ? left : COPY_BYTES;
        s = pa_pieces_fetch(w->pieces, at, w->buffer, bytes, err);
        if (!s) s = pa_st_put(out, w->buffer, bytes, err);
        at += (int64_t)bytes;
        left -= bytes;
    }
    return s;
}

static pa_status write_part(const writer *w, pa_split split, const part *p, const char *path, pa_err *err) {
    int64_t *offsets = calloc(p->count + 1, sizeof *offsets), *notes = malloc(p->count * sizeof *notes + 1);
    float *seconds = malloc(p->count * sizeof *seconds + 1);
    const char **names = malloc((p->count + 1) * sizeof *names);
    pa_st_writer *out = NULL;
    pa_status s = PA_OK;
    size_t n = 0;
    if (!offsets || !notes || !seconds || !names) {
        s = pa_error(err, PA_FAIL, "%s: no memory for %zu pieces", path, p->count);
        goto done;
    }
    for (size_t i = p->first; i < p->end; i++) {
        const pa_row *row = &w->pieces->row[i];
        if (!belongs(w, i, split)) continue;
        offsets[n + 1] = offsets[n] + row->count;
        notes[n] = row->notes;
        seconds[n] = (float)row->seconds;
        names[n++] = w->pieces->corpus->file[i].name;
    }
    const pa_token_rows rows = {.pieces = n,
                                .offsets = offsets,
                                .seconds = seconds,
                                .notes = notes,
                                .names = names,
                                .encoding = w->o->encoding,
                                .split = pa_split_name(split),
                                .set = w->set};
    s = pa_tokens_begin(&out, path, &rows, err);
    for (size_t i = p->first; i < p->end && !s; i++)
        if (belongs(w, i, split)) s = put_tokens(w, out, &w->pieces->row[i], err);
    if (!s) {
        s = pa_st_finish(out, err);
        out = NULL;
    }
done:
    pa_st_abandon(out);
    free(offsets);
    free(notes);
    free(seconds);
    free(names);
    return s;
}

static pa_status write_split(const writer *w, pa_split split, pa_set_totals *total, pa_err *err) {
    char path[PATH];
    size_t count = w->pieces->corpus->count, files = 0, number = 0;
    pa_status s = PA_OK;
    for (size_t at = 0; at < count || !files; files++) at = next_part(w, split, at).end;
    for (size_t at = 0; number < files && !s;) {
        part p = next_part(w, split, at);
        const char *name = pa_split_name(split);
        if (files == 1)
            snprintf(path, sizeof path, "%s/%s.safetensors", w->folder, name);
        else
            snprintf(path, sizeof path, "%s/%s-%05zu-of-%05zu.safetensors", w->folder, name, number + 1, files);
        s = write_part(w, split, &p, path, err);
        number++;
        at = p.end;
    }
    for (size_t i = 0; i < count; i++) {
        const pa_row *row = &w->pieces->row[i];
        if (!belongs(w, i, split)) continue;
        total->pieces++;
        total->notes += row->notes;
        total->tokens += row->count;
        total->dropped += row->dropped;
        total->seconds += row->seconds;
    }
    total->files = files;
    return s;
}

static uint64_t mix(uint64_t h, const void *bytes, size_t count) { // FNV-1a
    for (const uint8_t *at = bytes; count--; at++) h = (h ^ *at) * 0x100000001b3u;
    return h;
}

static void name_set(writer *w) {
    const pa_corpus *c = w->pieces->corpus;
    uint64_t h = 0xcbf29ce484222325u;
    h = mix(h, &w->o->encoding, sizeof w->o->encoding);
    h = mix(h, &w->o->part_bytes, sizeof w->o->part_bytes);
    for (size_t i = 0; i < c->count; i++) {
        const pa_row *row = &w->pieces->row[i];
        if (!pa_set_holds(row, w->o)) continue;
        h = mix(h, c->file[i].name, strlen(c->file[i].name) + 1);
        h = mix(h, &row->split, sizeof row->split);
        h = mix(h, &row->crc, sizeof row->crc);
        h = mix(h, &row->count, sizeof row->count);
    }
    snprintf(w->set, sizeof w->set, "%016llx", (unsigned long long)h);
}

pa_status pa_set_write(const pa_pieces *p, const pa_set_options *o, const char *folder, pa_set_totals total[PA_SPLITS],
                       pa_err *err) {
    writer w = {.pieces = p, .o = o, .folder = folder, .buffer = malloc(COPY_BYTES)};
    if (!w.buffer) return pa_error(err, PA_FAIL, "no memory to write token files");
    pa_status s = PA_OK;
    name_set(&w);
    for (pa_split split = 0; split < PA_SPLITS && !s; split++) {
        total[split] = (pa_set_totals){0};
        s = write_split(&w, split, &total[split], err);
    }
    free(w.buffer);
    return s;
}

static pa_status move_file(const char *from, const char *to, const char *name, pa_err *err) {
    char old[PATH + 300], new[PATH + 300];
    snprintf(old, sizeof old, "%s/%s", from, name);
    snprintf(new, sizeof new, "%s/%s", to, name);
    if (!rename(old, new)) return PA_OK;
    return pa_error(err, PA_FAIL, "cannot rename %s to %s: %s", old, new, strerror(errno));
}

// Whether `name` is among the `count` that were moved.
static bool is_among(struct dirent **moved, int count, const char *name) {
    while (count && strcmp(moved[count - 1]->d_name, name)) count--;
    return count;
}

// What an older set left in `to`.
static pa_status remove_old(const char *to, struct dirent **moved, int count, pa_err *err) {
    char path[PATH + 300];
    size_t length;
    DIR *d = opendir(to);
    if (!d) return pa_error(err, PA_FAIL, "cannot open %s: %s", to, strerror(errno));
    pa_status s = PA_OK;
    for (const struct dirent *e; !s && (e = pa_next_entry(d, to, &s, err));) {
        if (!pa_set_parts(e->d_name, &length) || is_among(moved, count, e->d_name)) continue;
        snprintf(path, sizeof path, "%s/%s", to, e->d_name);
        if (unlink(path)) s = pa_error(err, PA_FAIL, "cannot remove %s: %s", path, strerror(errno));
    }
    closedir(d);
    return s;
}

static int is_file_name(const struct dirent *e) {
    return *e->d_name != '.'; // nor the marker of the folder
}

// Moves new files in before it removes old ones: if it is interrupted, readers see that the folder holds files of two
// runs.
pa_status pa_set_install(const char *from, const char *to, pa_err *err) {
    struct dirent **name;
    int count = scandir(from, &name, is_file_name, NULL);
    pa_status s = count > 0 ? PA_OK : pa_error(err, PA_FAIL, "cannot open %s: %s", from, strerror(errno));
    for (int i = 0; i < count && !s; i++) s = move_file(from, to, name[i]->d_name, err);
    if (!s) s = pa_sync_dir(to, err);
    if (!s) s = remove_old(to, name, count, err);
    for (int i = 0; i < count; i++) free(name[i]);
    if (count >= 0) free(name);
    return s ? s : pa_sync_dir(to, err);
}
