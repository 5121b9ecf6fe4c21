// token_set.c: see token_set.h.
#include "host/files/token_set.h"

#include <glob.h>
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
            return pa_error(err, PA_USAGE, "%s: expected each file once, found it twice; %s*2 doubles its weight", path, path);
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
    if (failed == GLOB_NOMATCH) return pa_error(err, PA_USAGE, "%s: expected a token file, found none that matches%s", pattern, hint);
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

// One name or pattern of the list. A file with this very name is meant, whatever signs the name holds.
static pa_status add_item(pa_token_set *s, char *item, bool weighted, pa_err *err) {
    item += strspn(item, " \t");
    for (size_t n = strlen(item); n && strchr(" \t", item[n - 1]);) item[--n] = 0;
    if (!*item) return pa_error(err, PA_USAGE, "expected a token file between the commas, found nothing");
    if (!access(item, F_OK)) return add_file(s, item, 1, err);
    size_t length = strlen(item);
    int weight = take_weight(item);
    if (!weight) return pa_error(err, PA_USAGE, "%s: expected a weight of 1 to %d", item, MOST_WEIGHT);
    if (!weighted && strlen(item) < length) return pa_error(err, PA_USAGE, "%s: expected no weight, found *%d", item, weight);
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

// The files are open and stay where they are.
static pa_status join(pa_token_set *s, pa_err *err) {
    s->encoding = s->file[0].encoding;
    for (size_t i = 1; i < s->files; i++)
        if (s->file[i].encoding != s->encoding)
            return pa_error(err, PA_DATA, "%s: encoding: expected %s, that of %s, found %s", pa_st_path(s->file[i].file),
                            pa_encoding_name(s->encoding), pa_st_path(s->file[0].file), pa_encoding_name(s->file[i].encoding));
    for (size_t i = 0; i < s->parts; i++) {
        const pa_tokens *file = &s->file[s->part[i].piece];
        uint32_t crc = pa_st_crc(file->file);
        s->part[i] = (pa_token_part){file, s->pieces, s->tokens};
        s->pieces += file->pieces;
        s->tokens += file->offsets[file->pieces];
        s->crc = s->parts == 1 ? crc : pa_crc32c(s->crc, &crc, sizeof crc);
    }
    return pa_token_sets_match(s, s, err);
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

static size_t folder_length(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

static bool same_folder(const char *a, const char *b) {
    char folder[2][PATH];
    const char *path[] = {a, b};
    for (int i = 0; i < 2; i++) snprintf(folder[i], PATH, "%.*s.", (int)folder_length(path[i]), path[i]);
    return pa_same_file(folder[0], folder[1]);
}

// "train.safetensors", "train-00001-of-00002.safetensors" where the metadata says that the split is "train".
static bool has_own_name(const pa_tokens *t) {
    const char *split = pa_st_meta(t->file, "split"), *path = pa_st_path(t->file), *name = path + folder_length(path);
    size_t length = split ? strlen(split) : 0;
    return length && !strncmp(name, split, length) && (name[length] == '.' || name[length] == '-');
}

pa_status pa_token_sets_match(const pa_token_set *a, const pa_token_set *b, pa_err *err) {
    for (size_t i = 0; i < a->files; i++)
        for (size_t j = 0; j < b->files; j++) {
            const pa_tokens *x = &a->file[i], *y = &b->file[j];
            const char *id = pa_st_meta(x->file, "set"), *other = pa_st_meta(y->file, "set");
            if (!id || !other || !strcmp(id, other) || !has_own_name(x) || !has_own_name(y)) continue;
            if (same_folder(pa_st_path(x->file), pa_st_path(y->file)))
                return pa_error(err, PA_DATA, "%s: expected the set of %s, %s, found %s: run paprep again", pa_st_path(y->file),
                                pa_st_path(x->file), id, other);
        }
    return PA_OK;
}
