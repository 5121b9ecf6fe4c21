// corpus_find.c: see corpus_find.h.
#include "host/prep/corpus_find.h"

#include <errno.h>
#include <fnmatch.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "host/base/file.h"
#include "host/prep/corpus_list.h"

enum { PATH = 4096 };

static int by_name(const void *x, const void *y) {
    const pa_corpus_file *a = x, *b = y;
    return strcmp(a->name, b->name);
}

static int by_text(const void *x, const void *y) {
    return strcmp(*(char *const *)x, *(char *const *)y);
}

static bool is_midi_name(const char *name) {
    static const char *const ending[] = {".mid", ".midi", ".kar", ".rmi", ".smf"};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < sizeof ending / sizeof *ending; i++)
        if (!strcasecmp(dot, ending[i])) return true;
    return false;
}

// What a path leads to.
typedef struct {
    dev_t device;
    ino_t inode;
    size_t file; // of the corpus
} target;

static bool find_target(const pa_corpus *c, size_t file, target *t) {
    char path[PATH];
    struct stat info;
    if (!pa_corpus_path(c, c->file[file].name, path, sizeof path) || stat(path, &info)) return false;
    *t = (target){info.st_dev, info.st_ino, file};
    return true;
}

static int by_inode(const void *x, const void *y) {
    const target *a = x, *b = y;
    return a->device != b->device ? (a->device < b->device ? -1 : 1)
           : a->inode != b->inode ? (a->inode < b->inode ? -1 : 1)
                                  : 0;
}

static int by_target(const void *x, const void *y) {
    const target *a = x, *b = y;
    int order = by_inode(x, y);
    return order ? order : a->file < b->file ? -1 : a->file > b->file;
}

// ---- the files below a folder

typedef struct {
    pa_corpus *corpus;
    void *seen; // folders, a tree of targets
} walk;

// False where the folder was seen before, or there is no memory to note it.
static bool see_folder(walk *w, DIR *d, bool *again) {
    struct stat info;
    target *t = malloc(sizeof *t);
    *again = false;
    if (!t || fstat(dirfd(d), &info)) {
        free(t);
        return false;
    }
    *t = (target){info.st_dev, info.st_ino, 0};
    target **found = tsearch(t, &w->seen, by_inode);
    *again = found && *found != t;
    if (!found || *again) free(t);
    return found && !*again;
}

typedef struct {
    char **name;
    size_t count, room;
} names;

static bool add_name(names *n, const char *name) {
    if (n->count == n->room) {
        size_t room = n->room ? 2 * n->room : 16;
        char **grown = realloc(n->name, room * sizeof *grown);
        if (!grown) return false;
        n->name = grown;
        n->room = room;
    }
    n->name[n->count] = strdup(name);
    return n->name[n->count++] != NULL;
}

static pa_status add_unseen(pa_corpus *c, const char *name, int why, pa_err *err) {
    c->unseen++;
    return pa_corpus_add(
        c, (pa_corpus_file){.name = (char *)(*name ? name : "."), .refused = strerrordesc_np(why), .unseen = true},
        err);
}

// An entry of a folder that is no plain folder or file, or not known yet.
static mode_t kind_of(const pa_corpus *c, const struct dirent *e, const char *name, int *why) {
    char path[PATH];
    struct stat info = {0};
    *why = 0;
    if (e->d_type == DT_DIR) return S_IFDIR;
    if (e->d_type == DT_REG) return S_IFREG;
    if (e->d_type != DT_LNK && e->d_type != DT_UNKNOWN) return S_IFIFO;
    if (!pa_corpus_path(c, name, path, sizeof path))
        *why = ENAMETOOLONG;
    else if (stat(path, &info))
        *why = errno;
    return info.st_mode & S_IFMT;
}

static pa_status look_at(walk *w, const char *below, const struct dirent *e, names *folders, pa_err *err) {
    pa_corpus *c = w->corpus;
    char name[PATH + 256 + 2];
    int why;
    snprintf(name, sizeof name, "%s%s%s", below, *below ? "/" : "", e->d_name);
    mode_t kind = kind_of(c, e, name, &why);
    if (why && why != ENOENT && why != ELOOP) return add_unseen(c, name, why, err);
    if (kind == S_IFDIR)
        return add_name(folders, name) ? PA_OK : pa_error(err, PA_FAIL, "no memory for the names of folders");
    if (!is_midi_name(e->d_name)) {
        c->other++;
        return PA_OK;
    }
    if (!strncmp(e->d_name, "._", 2)) {
        c->apple++;
        return PA_OK;
    }
    const char *refused = why ? "a link to nothing" : kind != S_IFREG ? "expected a regular file" : NULL;
    return pa_corpus_add(c, (pa_corpus_file){.name = name, .refused = refused}, err);
}

// Adds the files of the folder `below` (a path below the corpus' folder, "" for that itself), then those of its folders
// in order of name.
static pa_status walk_folder(walk *w, const char *below, pa_err *err) {
    char path[PATH];
    names folders = {0};
    bool again = false;
    pa_status s = PA_OK;
    errno = ENAMETOOLONG;
    DIR *d = pa_corpus_path(w->corpus, below, path, sizeof path) ? opendir(path) : NULL;
    if (!d) return add_unseen(w->corpus, below, errno, err);
    if (!see_folder(w, d, &again)) {
        w->corpus->again += again;
        closedir(d);
        return again ? PA_OK : pa_error(err, PA_FAIL, "no memory for the names of folders");
    }
    pa_status listed = PA_OK;
    for (const struct dirent *e; !s && (e = pa_next_entry(d, path, &listed, NULL));)
        s = look_at(w, below, e, &folders, err);
    if (listed) s = add_unseen(w->corpus, below, errno, err);
    closedir(d); // before its folders are opened: they may lie deep
    if (folders.count) qsort(folders.name, folders.count, sizeof *folders.name, by_text);
    for (size_t i = 0; i < folders.count && !s; i++) s = walk_folder(w, folders.name[i], err);
    for (size_t i = 0; i < folders.count; i++) free(folders.name[i]);
    free(folders.name);
    return s;
}

// If a file has several names, the first counts.
static pa_status skip_further_names(pa_corpus *c, pa_err *err) {
    size_t count = 0, kept = 0;
    target *t = malloc((c->count + 1) * sizeof *t);
    if (!t) return pa_error(err, PA_FAIL, "no memory for %zu files", c->count);
    for (size_t i = 0; i < c->count; i++)
        if (!c->file[i].refused) count += find_target(c, i, &t[count]);
    if (count) qsort(t, count, sizeof *t, by_target);
    for (size_t i = 1; i < count; i++) {
        if (by_inode(&t[i], &t[i - 1])) continue;
        free(c->file[t[i].file].name);
        c->file[t[i].file].name = NULL;
        c->again++;
    }
    free(t);
    for (size_t i = 0; i < c->count; i++)
        if (c->file[i].name) c->file[kept++] = c->file[i];
    c->count = kept;
    return PA_OK;
}

static pa_status find_files(pa_corpus *c, pa_err *err) {
    walk w = {.corpus = c};
    pa_status s = walk_folder(&w, "", err);
    tdestroy(w.seen, free);
    if (c->count) qsort(c->file, c->count, sizeof *c->file, by_name);
    return s ? s : skip_further_names(c, err);
}

// ---- lists

// The one list of that name in an open folder; *path is malloc'ed, NULL without one.
static pa_status match_list(DIR *d, const char *folder, const char *pattern, char **path, pa_err *err) {
    pa_status s = PA_OK;
    for (const struct dirent *e; !s && (e = pa_next_entry(d, folder, &s, err));) {
        char *found;
        if (fnmatch(pattern, e->d_name, FNM_PERIOD)) continue;
        if (asprintf(&found, "%s/%s", folder, e->d_name) < 0) {
            s = pa_error(err, PA_FAIL, "no memory for a path");
        } else if (*path) {
            s = pa_error(err, PA_USAGE, "%s and %s: expected one list, found two; choose with --metadata", *path,
                         found);
            free(found);
        } else {
            *path = found;
        }
    }
    if (!s) return PA_OK;
    free(*path);
    *path = NULL;
    return s;
}

// MAESTRO's own list in the folder: its CSV, else its JSON. *path as in match_list.
static pa_status find_list(const char *folder, char **path, pa_err *err) {
    static const char *const pattern[] = {"maestro-v*.csv", "maestro-v*.json"};
    pa_status s = PA_OK;
    *path = NULL;
    for (int i = 0; i < 2 && !*path && !s; i++) {
        DIR *d = opendir(folder);
        if (!d) return pa_error(err, PA_USAGE, "cannot open folder %s: %s", folder, strerror(errno));
        s = match_list(d, folder, pattern[i], path, err);
        closedir(d);
    }
    return s;
}

// Counts the MIDI files below the folder that a list leaves out, by what the names lead to: a list may write a path in
// another way.
static pa_status count_unlisted(pa_corpus *c, pa_err *err) {
    pa_corpus below = {.folder = strdup(c->folder)};
    size_t listed = 0;
    target own, *targets = malloc((c->count + 1) * sizeof *targets);
    pa_status s =
        targets && below.folder ? find_files(&below, err) : pa_error(err, PA_FAIL, "no memory for %zu files", c->count);
    for (size_t i = 0; i < c->count && !s; i++) listed += find_target(c, i, &targets[listed]);
    if (listed) qsort(targets, listed, sizeof *targets, by_target);
    for (size_t i = 0; i < below.count && !s; i++) {
        char **name = &below.file[i].name;
        if (below.file[i].refused || !find_target(&below, i, &own)) continue;
        if (listed && bsearch(&own, targets, listed, sizeof *targets, by_inode)) continue;
        if (c->unlisted++) continue;
        c->unlisted_name = *name;
        *name = NULL;
    }
    free(targets);
    pa_corpus_clear(&below);
    return s;
}

static pa_status read_list(pa_corpus *c, pa_err *err) {
    pa_status s = pa_corpus_read_list(c, c->metadata, err);
    if (!s) s = count_unlisted(c, err);
    if (!s && c->count) qsort(c->file, c->count, sizeof *c->file, by_name);
    for (size_t i = 1; i < c->count && !s; i++)
        if (!strcmp(c->file[i].name, c->file[i - 1].name)) c->file[i].refused = "listed twice";
    return s;
}

pa_status pa_corpus_find(pa_corpus *c, const char *folder, const char *metadata, pa_err *err) {
    struct stat info;
    *c = (pa_corpus){0};
    if (stat(folder, &info)) return pa_error(err, PA_USAGE, "cannot open folder %s: %s", folder, strerror(errno));
    if (!S_ISDIR(info.st_mode))
        return pa_error(err, PA_USAGE, "%s: expected a folder of MIDI files, found a file", folder);
    pa_status s = PA_OK;
    c->folder = strdup(folder);
    c->metadata = metadata ? strdup(metadata) : NULL;
    if (!c->folder || (metadata && !c->metadata)) s = pa_error(err, PA_FAIL, "no memory for a path");
    if (!s && !metadata) s = find_list(folder, &c->metadata, err);
    if (!s) s = c->metadata ? read_list(c, err) : find_files(c, err);
    if (s) pa_corpus_clear(c);
    return s;
}
