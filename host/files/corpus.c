// corpus.c: finds the MIDI files of a folder and splits them. See corpus.h; lists are read by corpus_list.c.
#include "host/files/corpus.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <fts.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "host/base/checksum.h"
#include "host/files/corpus_list.h"

const char *pa_split_name(pa_split split) {
    static const char *const name[PA_SPLITS] = {"train", "validation", "test"};
    return name[split];
}

void pa_corpus_clear(pa_corpus *c) {
    for (size_t i = 0; i < c->count; i++) {
        free(c->file[i].name);
        free(c->file[i].path);
    }
    free(c->file);
    free(c->metadata);
    free(c->unlisted_name);
    *c = (pa_corpus){0};
}

pa_status pa_corpus_add(pa_corpus *c, const char *folder, const char *name, pa_split split, const char *refused, pa_err *err) {
    if (c->count == c->room) {
        size_t room = c->room ? 2 * c->room : 256;
        pa_corpus_file *grown = realloc(c->file, room * sizeof *grown);
        if (!grown) return pa_error(err, PA_FAIL, "no memory for the names of %zu files", room);
        c->file = grown;
        c->room = room;
    }
    pa_corpus_file *f = &c->file[c->count];
    *f = (pa_corpus_file){strdup(name), NULL, split, refused};
    if (!f->name || asprintf(&f->path, "%s/%s", folder, name) < 0) {
        free(f->name);
        return pa_error(err, PA_FAIL, "no memory for the name of %s", name);
    }
    c->count++;
    return PA_OK;
}

static int by_name(const void *x, const void *y) {
    const pa_corpus_file *a = x, *b = y;
    return strcmp(a->name, b->name);
}

static bool is_midi_name(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot && (!strcasecmp(dot, ".mid") || !strcasecmp(dot, ".midi"));
}

// 90/5/5. Depends on the name alone, so a file keeps its split when others come or go.
static pa_split split_of_name(const char *name) {
    uint32_t share = pa_crc32c(0, name, strlen(name)) % 100;
    return share < 90 ? PA_SPLIT_TRAIN : share < 95 ? PA_SPLIT_VALIDATION : PA_SPLIT_TEST;
}

// Every .mid and .midi below the folder, through links too; fts sees links that lead back.
static pa_status walk(pa_corpus *c, const char *folder, pa_err *err) {
    char *roots[] = {(char *)folder, NULL};
    pa_status s = PA_OK;
    FTS *tree = fts_open(roots, FTS_LOGICAL | FTS_NOCHDIR, NULL);
    if (!tree) return pa_error(err, PA_FAIL, "%s: %s", folder, strerror(errno));
    for (FTSENT *e; !s && (errno = 0, e = fts_read(tree));) {
        const char *name = e->fts_path + strlen(folder), *refused = NULL;
        while (*name == '/') name++;
        switch (e->fts_info) {
        case FTS_F:
            break;
        case FTS_DC:
            refused = "a link that leads back to a folder above it";
            break;
        case FTS_DNR:
            refused = "cannot read the folder";
            break;
        case FTS_SLNONE:
            refused = "a link to nothing";
            break;
        case FTS_NS:
        case FTS_ERR:
            refused = "cannot be opened";
            break;
        case FTS_DEFAULT:
            refused = "expected a regular file";
            break;
        default: // a folder
            continue;
        }
        bool folder_refused = e->fts_info == FTS_DC || e->fts_info == FTS_DNR;
        if (folder_refused || is_midi_name(name)) s = pa_corpus_add(c, folder, *name ? name : ".", split_of_name(name), refused, err);
    }
    if (!s && errno) s = pa_error(err, PA_FAIL, "%s: expected to read it to its end, found: %s", folder, strerror(errno));
    fts_close(tree);
    return s;
}

// MAESTRO's own list in the folder: its CSV, else its JSON. *path is malloc'ed, NULL without one.
static pa_status find_list(const char *folder, char **path, pa_err *err) {
    static const char *const pattern[] = {"maestro-v*.csv", "maestro-v*.json"};
    *path = NULL;
    for (int i = 0; i < 2 && !*path; i++) {
        DIR *d = opendir(folder);
        if (!d) return pa_error(err, PA_USAGE, "%s: expected a folder of MIDI files, found: %s", folder, strerror(errno));
        for (const struct dirent *e; (e = readdir(d));) {
            if (fnmatch(pattern[i], e->d_name, FNM_PERIOD)) continue;
            char *old = *path;
            bool ok = asprintf(path, "%s/%s", folder, e->d_name) >= 0;
            if (ok && !old) continue;
            pa_status s = ok ? pa_error(err, PA_USAGE, "%s and %s: expected one list, found two; choose with --metadata", old, *path)
                             : pa_error(err, PA_FAIL, "no memory for a path");
            free(old);
            if (ok) free(*path);
            *path = NULL;
            closedir(d);
            return s;
        }
        closedir(d);
    }
    return PA_OK;
}

// What a path leads to: a list may write a path in another way than the folder does.
typedef struct {
    dev_t device;
    ino_t inode;
} target;

static bool find_target(const char *path, target *t) {
    struct stat info;
    if (stat(path, &info)) return false;
    *t = (target){info.st_dev, info.st_ino};
    return true;
}

static int by_target(const void *x, const void *y) {
    const target *a = x, *b = y;
    return a->device != b->device ? (a->device < b->device ? -1 : 1) : a->inode != b->inode ? (a->inode < b->inode ? -1 : 1) : 0;
}

// Looks at names alone, not into files. c: its list has been read.
static pa_status count_unlisted(pa_corpus *c, const char *folder, pa_err *err) {
    pa_corpus below = {0};
    size_t listed = 0;
    target own, *targets = malloc((c->count + 1) * sizeof *targets);
    pa_status s = targets ? walk(&below, folder, err) : pa_error(err, PA_FAIL, "no memory for %zu files", c->count);
    for (size_t i = 0; i < c->count && !s; i++) listed += find_target(c->file[i].path, &targets[listed]);
    if (listed) qsort(targets, listed, sizeof *targets, by_target);
    for (size_t i = 0; i < below.count && !s; i++) {
        char **name = &below.file[i].name;
        if (below.file[i].refused || !find_target(below.file[i].path, &own)) continue;
        if (listed && bsearch(&own, targets, listed, sizeof *targets, by_target)) continue;
        c->unlisted++;
        if (c->unlisted_name && strcmp(c->unlisted_name, *name) < 0) continue;
        free(c->unlisted_name);
        c->unlisted_name = *name;
        *name = NULL;
    }
    free(targets);
    pa_corpus_clear(&below);
    return s;
}

// A corpus of a few files must be trainable: where none fell to train, all do.
static void fill_train(pa_corpus *c) {
    for (size_t i = 0; i < c->count; i++)
        if (c->file[i].split == PA_SPLIT_TRAIN && !c->file[i].refused) return;
    for (size_t i = 0; i < c->count; i++) c->file[i].split = PA_SPLIT_TRAIN;
}

pa_status pa_corpus_find(pa_corpus *c, const char *folder, const char *metadata, pa_err *err) {
    struct stat info;
    *c = (pa_corpus){0};
    if (stat(folder, &info)) return pa_error(err, PA_USAGE, "%s: expected a folder of MIDI files, found: %s", folder, strerror(errno));
    if (!S_ISDIR(info.st_mode)) return pa_error(err, PA_USAGE, "%s: expected a folder of MIDI files, found a file", folder);
    pa_status s = PA_OK;
    if (!metadata)
        s = find_list(folder, &c->metadata, err);
    else if (!(c->metadata = strdup(metadata)))
        s = pa_error(err, PA_FAIL, "no memory for a path");
    if (!s) s = c->metadata ? pa_corpus_read_list(c, folder, c->metadata, err) : walk(c, folder, err);
    if (!s && c->metadata) s = count_unlisted(c, folder, err);
    if (s) {
        pa_corpus_clear(c);
        return s;
    }
    if (c->count) qsort(c->file, c->count, sizeof *c->file, by_name);
    for (size_t i = 1; i < c->count; i++)
        if (!strcmp(c->file[i].name, c->file[i - 1].name)) c->file[i].refused = "listed twice";
    if (!c->metadata) fill_train(c);
    return PA_OK;
}
