// token_set.c: see token_set.h.
#include "host/files/token_set.h"

#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/base/checksum.h"
#include "host/base/file.h"

enum { MOST_WEIGHT = 1000, PATH = 4096 };

static pa_status add_part(pa_token_set *s, size_t file, pa_err *err) {
    pa_token_part *grown = realloc(s->part, (s->parts + 1) * sizeof *grown);
    if (!grown) return pa_error(err, PA_FAIL, "no memory for %zu token files", s->parts + 1);
    s->part = grown;
    s->part[s->parts++].piece = (int64_t)file; // a number until every file is open
    return PA_OK;
}

static pa_status add_file(pa_token_set *s, const char *path, int weight, pa_err *err) {
    for (size_t i = 0; i < s->files; i++)
        if (pa_same_file(path, pa_st_path(s->file[i].file)))
            return pa_error(err, PA_USAGE, "%s: expected each file once, found it twice; %s*2 doubles its weight", path,
                            path);
    pa_tokens *grown = realloc(s->file, (s->files + 1) * sizeof *grown);
    if (!grown) return pa_error(err, PA_FAIL, "no memory for %zu token files", s->files + 1);
    s->file = grown;
    pa_status status = pa_tokens_open(&s->file[s->files], path, err);
    if (status) return status;
    s->files++;
    for (int i = 0; i < weight && !status; i++) status = add_part(s, s->files - 1, err);
    return status;
}

static pa_status add_pattern(pa_token_set *s, const char *pattern, int weight, pa_err *err) {
    glob_t found;
    int failed = glob(pattern, 0, NULL, &found);
    const char *hint = strstr(pattern, ".safetensors*") ? " (a weight is a whole number: a.safetensors*3)" : "";
    if (failed == GLOB_NOMATCH)
        return pa_error(err, PA_USAGE, "%s: expected a token file, found none that matches%s", pattern, hint);
    if (failed) return pa_error(err, PA_FAIL, "%s: cannot list the files that match", pattern);
    pa_status status = PA_OK;
    for (size_t i = 0; i < found.gl_pathc && !status; i++) status = add_file(s, found.gl_pathv[i], weight, err);
    globfree(&found);
    return status;
}

// Takes "*N" off the end of an item. 1 without one, 0 where N is out of range.
static int take_weight(char *item) {
    char *star = strrchr(item, '*');
    size_t digits = star ? strspn(star + 1, "0123456789") : 0;
    if (!digits || star[1 + digits]) return 1;
    long weight = digits < 5 ? strtol(star + 1, NULL, 10) : 0;
    *star = 0;
    return weight <= MOST_WEIGHT ? (int)weight : 0;
}

// One name or pattern of the list. An existing file of exactly this name is meant, even if the name holds a pattern's
// signs.
static pa_status add_item(pa_token_set *s, char *item, bool weighted, pa_err *err) {
    item += strspn(item, " \t");
    for (size_t n = strlen(item); n && strchr(" \t", item[n - 1]);) item[--n] = 0;
    if (!*item) return pa_error(err, PA_USAGE, "expected a token file between the commas, found nothing");
    if (!access(item, F_OK)) return add_file(s, item, 1, err);
    size_t length = strlen(item);
    int weight = take_weight(item);
    if (!weight) return pa_error(err, PA_USAGE, "%s: expected a weight of 1 to %d", item, MOST_WEIGHT);
    if (!weighted && strlen(item) < length)
        return pa_error(err, PA_USAGE, "%s: expected no weight, found *%d", item, weight);
    bool pattern = strpbrk(item, "*?[") && access(item, F_OK);
    return pattern ? add_pattern(s, item, weight, err) : add_file(s, item, weight, err);
}

static pa_status add_list(pa_token_set *s, const char *list, bool weighted, pa_err *err) {
    if (!access(list, F_OK)) return add_file(s, list, 1, err);
    char *copy = strdup(list), *rest = copy;
    pa_status status = copy ? PA_OK : pa_error(err, PA_FAIL, "no memory for a list of files");
    while (!status && rest) status = add_item(s, strsep(&rest, ","), weighted, err);
    free(copy);
    return status;
}

// ---- whole sets

const char *pa_split_name(pa_split split) {
    static const char *const name[PA_SPLITS] = {"train", "validation", "test"};
    return name[split];
}

int pa_set_parts(const char *name, size_t *split_length) {
    for (pa_split s = 0; s < PA_SPLITS; s++) {
        size_t length = strlen(pa_split_name(s));
        int parts = 0, end = 0;
        if (strncmp(name, pa_split_name(s), length)) continue;
        *split_length = length;
        if (!strcmp(name + length, ".safetensors")) return 1;
        if (sscanf(name + length, "-%*5[0-9]-of-%5d.safetensors%n", &parts, &end) == 1 && end == 27 &&
            !name[length + 27])
            return parts;
    }
    return 0;
}

// The name in a path; *folder: its length in front of that.
static const char *name_of(const char *path, int *folder) {
    const char *slash = strrchr(path, '/');
    *folder = slash ? (int)(slash - path) + 1 : 0;
    return path + *folder;
}

// Compares the id of a file beside t's; counts those of t's split.
static pa_status check_neighbour(const pa_tokens *t, const char *id, const char *name, int *found, pa_err *err) {
    char path[PATH];
    int folder;
    size_t length, split;
    pa_st *other;
    const char *own = name_of(pa_st_path(t->file), &folder);
    if (!pa_set_parts(name, &length) ||
        snprintf(path, sizeof path, "%.*s%s", folder, pa_st_path(t->file), name) >= PATH)
        return PA_OK;
    pa_set_parts(own, &split);
    if (pa_st_open_meta(&other, path, NULL)) return PA_OK; // it is not read
    const char *theirs = pa_st_meta(other, "set");
    pa_status s = theirs && strcmp(theirs, id)
                      ? pa_error(err, PA_DATA, "%s: expected the set of %s, %.32s, found %.32s: run paprep again", path,
                                 pa_st_path(t->file), id, theirs)
                      : PA_OK;
    *found += length == split && !strncmp(name, own, length);
    pa_st_close(other);
    return s;
}

// All files of one folder that bear paprep's names are of one run of it, and none of the split is missing.
static pa_status check_folder(const pa_tokens *t, pa_err *err) {
    int folder, found = 0;
    size_t split;
    char path[PATH];
    const char *id = pa_st_meta(t->file, "set"), *name = name_of(pa_st_path(t->file), &folder);
    int parts = pa_set_parts(name, &split);
    if (!id || !parts) return PA_OK;
    snprintf(path, sizeof path, "%.*s.", folder, pa_st_path(t->file));
    DIR *d = opendir(path);
    if (!d) return PA_OK; // a folder may be closed, and its files open
    pa_status s = PA_OK;
    for (const struct dirent *e; !s && (e = pa_next_entry(d, path, &s, err));)
        s = check_neighbour(t, id, e->d_name, &found, err);
    closedir(d);
    if (s || found >= parts) return s;
    return pa_error(err, PA_DATA, "%s: expected all %d files of its split beside it, found %d: run paprep again",
                    pa_st_path(t->file), parts, found);
}

static pa_status check_neighbours(const pa_token_set *s, pa_err *err) {
    pa_status status = PA_OK;
    for (size_t i = 0; i < s->files && !status; i++) {
        const char *path = pa_st_path(s->file[i].file), *before = i ? pa_st_path(s->file[i - 1].file) : "";
        int length, other;
        name_of(path, &length);
        name_of(before, &other);
        if (!i || length != other || strncmp(path, before, (size_t)length)) status = check_folder(&s->file[i], err);
    }
    return status;
}

// The files are open and stay where they are.
static pa_status join(pa_token_set *s, pa_err *err) {
    s->encoding = s->file[0].encoding;
    for (size_t i = 1; i < s->files; i++)
        if (s->file[i].encoding != s->encoding)
            return pa_error(err, PA_DATA, "%s: encoding: expected %s, that of %s, found %s",
                            pa_st_path(s->file[i].file), pa_encoding_name(s->encoding), pa_st_path(s->file[0].file),
                            pa_encoding_name(s->file[i].encoding));
    for (size_t i = 0; i < s->parts; i++) {
        const pa_tokens *file = &s->file[s->part[i].piece];
        uint32_t crc = pa_st_crc(file->file);
        s->part[i] = (pa_token_part){file, s->pieces, s->tokens};
        s->pieces += file->pieces;
        s->tokens += file->offsets[file->pieces];
        s->crc = s->parts == 1 ? crc : pa_crc32c(s->crc, &crc, sizeof crc);
    }
    return check_neighbours(s, err);
}

pa_status pa_token_set_open(pa_token_set *s, const char *list, bool weighted, pa_err *err) {
    *s = (pa_token_set){0};
    pa_status status = add_list(s, list, weighted, err);
    if (!status) status = join(s, err);
    if (status) pa_token_set_close(s);
    return status;
}

void pa_token_set_close(pa_token_set *s) {
    for (size_t i = 0; i < s->files; i++) pa_tokens_close(&s->file[i]);
    free(s->file);
    free(s->part);
    *s = (pa_token_set){0};
}

pa_status pa_token_set_check(const pa_token_set *s, bool whole, pa_err *err) {
    pa_status status = PA_OK;
    for (size_t i = 0; i < s->files && !status; i++)
        status = (whole ? pa_st_verify : pa_st_check)(s->file[i].file, err);
    return status;
}

// The part that holds a piece, or with `tokens` a token, each piece's END counted.
static const pa_token_part *find_part(const pa_token_set *s, int64_t at, bool tokens) {
    size_t low = 0, high = s->parts - 1;
    while (low < high) {
        size_t middle = (low + high + 1) / 2;
        const pa_token_part *p = &s->part[middle];
        if (p->piece + (tokens ? p->token : 0) <= at)
            low = middle;
        else
            high = middle - 1;
    }
    return &s->part[low];
}

pa_token_piece pa_token_set_piece(const pa_token_set *s, int64_t piece) {
    const pa_token_part *part = find_part(s, piece, false);
    const pa_tokens *file = part->file;
    int64_t p = piece - part->piece, begin = file->offsets[p];
    return (pa_token_piece){.token = file->tokens + begin,
                            .count = file->offsets[p + 1] - begin,
                            .notes = file->notes ? file->notes[p] : 0,
                            .seconds = file->seconds ? (double)file->seconds[p] : 0};
}

int64_t pa_token_set_find(const pa_token_set *s, int64_t at) {
    const pa_token_part *part = find_part(s, at, true);
    const int64_t *offset = part->file->offsets;
    int64_t low = 0, high = part->file->pieces - 1;
    at -= part->token + part->piece;
    while (low < high) {
        int64_t middle = (low + high + 1) / 2;
        if (offset[middle] + middle <= at)
            low = middle;
        else
            high = middle - 1;
    }
    return part->piece + low;
}
