// pieces.c: see pieces.h.
#include "host/prep/pieces.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/base/checksum.h"
#include "host/base/progress.h"
#include "tokenizer/workers.h"

enum { BATCH = 4096, PATH = 4096 }; // files whose paths are in memory at once

typedef struct {
    pa_pieces *pieces;
    const pa_encode_options *encode;
    uint32_t file[BATCH]; // of the corpus
    char *path[BATCH];
    size_t count;
    size_t read;
    pa_progress progress;
} reader;

// A failed write is found when all is read.
static void put(pa_pieces *p, pa_row *row, const void *bytes, size_t size, size_t count) {
    row->at = p->end;
    row->count = (uint32_t)count;
    p->end += (int64_t)(size * count);
    if (count) fwrite(bytes, size, count, p->tokens);
}

static void refuse(pa_pieces *p, size_t file, const char *reason) {
    put(p, &p->row[file], reason, 1, strlen(reason));
    p->row[file].state = PA_ROW_REFUSED;
    p->refused++;
}

static uint64_t mix(uint64_t h) {
    h *= 0xd6e8feb86659fd93u;
    return h ^ h >> 32;
}

// Decides a folder's splits: it must stay what it is, or pieces change their split.
static uint64_t hash_notes(const uint16_t *token, size_t count) {
    uint64_t h = 1;
    int last = -1;
    for (size_t i = 0; i < count; i++) {
        if (token[i] >= PA_NOTE_OFF) continue;
        if (last >= 0) h = mix(h + (uint64_t)(token[i] - last + 128));
        last = token[i];
    }
    return mix(mix(h));
}

static void take_piece(void *user, size_t index, pa_status status, pa_piece got, const char *reason) {
    reader *r = user;
    pa_pieces *p = r->pieces;
    char path[sizeof(pa_err)];
    size_t file = r->file[index],
           length = pa_escape(r->path[index], strlen(r->path[index]), false, path, sizeof path); // as in reasons
    pa_row *row = &p->row[file];
    if (status && !strncmp(reason, path, length) && !strncmp(reason + length, ": ", 2))
        reason += length + 2; // the report has a column for the file
    pa_findings_add(&p->findings, &got.report);
    if (status) {
        p->unseen += access(r->path[index], R_OK) && errno != ENOENT;
        refuse(p, file, reason);
    } else {
        put(p, row, got.token, sizeof *got.token, got.count);
        row->state = PA_ROW_READ;
        row->crc = pa_crc32c(0, got.token, got.count * sizeof *got.token);
        row->notes_hash = hash_notes(got.token, got.count);
        row->seconds = got.seconds;
        row->notes = (uint32_t)got.notes;
        row->dropped = (uint32_t)got.dropped;
    }
    pa_piece_clear(&got);
    pa_progress_update(&r->progress, (double)++r->read);
}

static pa_status open_temporary(pa_pieces *p, const char *folder, pa_err *err) {
    char path[PATH];
    snprintf(path, sizeof path, "%s/tokens", folder);
    p->tokens = fopen(path, "w+be");
    if (!p->tokens) return pa_error(err, PA_FAIL, "cannot create %s: %s", path, strerror(errno));
    if (!unlink(path)) return PA_OK; // it goes with the process, whatever ends that
    return pa_error(err, PA_FAIL, "cannot remove the name of %s: %s", path, strerror(errno));
}

static pa_status read_batch(reader *r, int jobs, pa_err *err) {
    pa_status s = pa_encode_files((const char *const *)r->path, r->count, r->encode, jobs, take_piece, r, err);
    for (size_t i = 0; i < r->count; i++) free(r->path[i]);
    r->count = 0;
    if (s) return s;
    errno = 0;
    if (fflush(r->pieces->tokens) || ferror(r->pieces->tokens))
        return pa_error(err, PA_FAIL, "cannot write the temporary file of tokens: %s",
                        errno ? strerror(errno) : "an earlier write failed");
    return PA_OK;
}

static pa_status read_all(reader *r, int jobs, pa_err *err) {
    const pa_corpus *c = r->pieces->corpus;
    pa_status s = PA_OK;
    char path[2 * PATH];
    for (size_t i = 0; i < c->count && !s; i++) {
        r->pieces->row[i].split = c->file[i].split;
        r->pieces->row[i].like = (uint32_t)i;
        if (c->file[i].refused) {
            refuse(r->pieces, i, c->file[i].refused);
            continue;
        }
        pa_corpus_path(c, c->file[i].name, path, sizeof path);
        r->path[r->count] = strdup(path);
        if (!r->path[r->count]) return pa_error(err, PA_FAIL, "no memory for the path of %s", path);
        r->file[r->count++] = (uint32_t)i;
        if (r->count == BATCH) s = read_batch(r, jobs, err);
    }
    return s ? s : read_batch(r, jobs, err);
}

pa_status pa_pieces_read(pa_pieces *p, const pa_corpus *corpus, const pa_pieces_options *o, pa_err *err) {
    *p = (pa_pieces){.corpus = corpus, .row = calloc(corpus->count + 1, sizeof *p->row)};
    reader *r = calloc(1, sizeof *r);
    pa_status s = PA_OK;
    if (!p->row || !r) {
        s = pa_error(err, PA_FAIL, "no memory for %zu files", corpus->count);
        goto done;
    }
    r->pieces = p;
    r->encode = o->encode;
    if ((s = open_temporary(p, o->folder, err))) goto done;
    pa_progress_start(&r->progress, "reading", "files", (double)corpus->count);
    s = read_all(r, o->jobs, err);
    pa_progress_end(&r->progress);
    for (size_t i = 0; i < r->count; i++) free(r->path[i]);
done:
    free(r);
    if (s) pa_pieces_clear(p);
    return s;
}

void pa_pieces_clear(pa_pieces *p) {
    if (p->tokens) fclose(p->tokens);
    free(p->row);
    *p = (pa_pieces){0};
}

pa_status pa_pieces_fetch(const pa_pieces *p, int64_t at, void *bytes, size_t count, pa_err *err) {
    for (size_t done = 0; done < count;) {
        ssize_t got = pread(fileno(p->tokens), (char *)bytes + done, count - done, (off_t)at + (off_t)done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0)
            return pa_error(err, PA_FAIL, "cannot read the temporary file of tokens: %s",
                            got ? strerror(errno) : "it is cut short");
        done += (size_t)got;
    }
    return PA_OK;
}
