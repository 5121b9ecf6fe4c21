// token_file.c: see token_file.h.
#include "host/files/token_file.h"

#include <cJSON.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char FORMAT[] = PA_TOKENS_FORMAT, VOCABULARY[] = "390";

static pa_status need_meta(const pa_st *file, const char *key, const char *expected, pa_err *err) {
    const char *found = pa_st_meta(file, key);
    if (found && !strcmp(found, expected)) return PA_OK;
    return pa_error(err, PA_DATA, "%s: metadata %s: expected %s, found %s; is this a token file of paprep's?",
                    pa_st_path(file), key, expected, found ? found : "none");
}

static pa_status check_pieces(const pa_tokens *t, int64_t tokens, pa_err *err) {
    const char *path = pa_st_path(t->file);
    for (int64_t p = 0; p < t->pieces; p++)
        if (t->offsets[p + 1] < t->offsets[p])
            return pa_error(err, PA_DATA, "%s: offsets[%lld]: expected at least %lld, found %lld", path,
                            (long long)p + 1, (long long)t->offsets[p], (long long)t->offsets[p + 1]);
    if (t->offsets[0] != 0 || t->offsets[t->pieces] != tokens)
        return pa_error(err, PA_DATA, "%s: offsets: expected 0 to %lld, found %lld to %lld", path, (long long)tokens,
                        (long long)t->offsets[0], (long long)t->offsets[t->pieces]);
    uint16_t greatest = 0;
    for (int64_t i = 0; i < tokens; i++) greatest = t->tokens[i] > greatest ? t->tokens[i] : greatest;
    if (greatest >= PA_PAD)
        return pa_error(err, PA_DATA, "%s: tokens: expected ids below %d, found %d", path, PA_PAD, greatest);
    return PA_OK;
}

pa_status pa_tokens_open(pa_tokens *t, const char *path, pa_err *err) {
    const pa_tensor *tokens, *offsets, *seconds, *notes;
    pa_err reason;
    *t = (pa_tokens){0};
    pa_status s = pa_st_open(&t->file, path, err);
    if (s) return s == PA_FAIL && access(path, F_OK) ? PA_USAGE : s;
    if ((s = need_meta(t->file, "format", FORMAT, err))) goto done;
    if ((s = need_meta(t->file, "vocab", VOCABULARY, err))) goto done;
    const char *encoding = pa_st_meta(t->file, "encoding");
    if (!encoding || pa_encoding_parse(encoding, &t->encoding, &reason)) {
        s = pa_error(err, PA_DATA, "%s: metadata %s", path,
                     encoding ? reason.text : "encoding: expected performance or midi-neural, found none");
        goto done;
    }
    if ((s = pa_st_need(t->file, "tokens", PA_U16, 1, (int64_t[]){-1}, &tokens, err))) goto done;
    if ((s = pa_st_need(t->file, "offsets", PA_I64, 1, (int64_t[]){-1}, &offsets, err))) goto done;
    t->pieces = offsets->shape[0] - 1;
    if (t->pieces < 0) {
        s = pa_error(err, PA_DATA, "%s: offsets: expected at least one, found none", path);
        goto done;
    }
    if ((s = pa_st_need(t->file, "seconds", PA_F32, 1, &t->pieces, &seconds, err))) goto done;
    if ((s = pa_st_need(t->file, "notes", PA_I64, 1, &t->pieces, &notes, err))) goto done;
    t->tokens = tokens->data;
    if (!(t->offsets = malloc(offsets->bytes))) { // a copy: whatever becomes of the file, pieces lie within it
        s = pa_error(err, PA_FAIL, "%s: no memory for %lld offsets", path, (long long)t->pieces);
        goto done;
    }
    memcpy(t->offsets, offsets->data, offsets->bytes);
    t->seconds = seconds->data;
    t->notes = notes->data;
    s = check_pieces(t, tokens->shape[0], err);
done:
    if (s) pa_tokens_close(t);
    return s;
}

void pa_tokens_close(pa_tokens *t) {
    free(t->offsets);
    pa_st_close(t->file);
    *t = (pa_tokens){0};
}

// A file name in UTF-8: what is not UTF-8 is taken for Latin-1, as old collections have it. malloc'ed.
static char *name_utf8(const char *name) {
    char *copy = malloc(2 * strlen(name) + 1);
    if (!copy) return NULL;
    if (pa_is_utf8(name, strlen(name))) return strcpy(copy, name);
    char *at = copy;
    for (const unsigned char *c = (const unsigned char *)name; *c; c++) {
        if (*c >= 128) *at++ = (char)(0xc0 | *c >> 6);
        *at++ = (char)(*c >= 128 ? 0x80 | (*c & 63) : *c);
    }
    *at = 0;
    return copy;
}

// JSON array of the names; malloc'ed, NULL without memory.
static char *names_json(const char *const *names, size_t count) {
    cJSON *array = cJSON_CreateArray();
    char *text = NULL;
    bool ok = array != NULL;
    for (size_t i = 0; i < count && ok; i++) {
        char *name = name_utf8(names[i]);
        ok = name && cJSON_AddItemToArray(array, cJSON_CreateString(name));
        free(name);
    }
    if (ok) text = cJSON_PrintUnformatted(array);
    cJSON_Delete(array);
    return text;
}

pa_status pa_tokens_begin(pa_st_writer **w, const char *path, const pa_token_rows *rows, pa_err *err) {
    *w = NULL;
    const int64_t n = (int64_t)rows->pieces, tokens = rows->offsets[n];
    char *json = names_json(rows->names, rows->pieces);
    if (!json) return pa_error(err, PA_FAIL, "%s: no memory for %lld names", path, (long long)n);
    const pa_tensor tensor[] = {
        {"tokens", PA_U16, 1, {tokens}, NULL, (size_t)tokens * sizeof(uint16_t)},
        {"offsets", PA_I64, 1, {n + 1}, NULL, (rows->pieces + 1) * sizeof *rows->offsets},
        {"seconds", PA_F32, 1, {n}, NULL, rows->pieces * sizeof *rows->seconds},
        {"notes", PA_I64, 1, {n}, NULL, rows->pieces * sizeof *rows->notes},
    };
    const pa_meta meta[] = {
        {"format", FORMAT},    {"encoding", pa_encoding_name(rows->encoding)},
        {"vocab", VOCABULARY}, {"split", rows->split},
        {"names", json},       {"set", rows->set},
    };
    size_t metas = sizeof meta / sizeof *meta - !rows->set;
    pa_status s = pa_st_begin(w, path, tensor, sizeof tensor / sizeof *tensor, meta, metas, err);
    free(json);
    if (!s) s = pa_st_put(*w, rows->offsets, tensor[1].bytes, err);
    if (!s) s = pa_st_put(*w, rows->notes, tensor[3].bytes, err);
    if (!s) s = pa_st_put(*w, rows->seconds, tensor[2].bytes, err);
    if (!s) return PA_OK;
    pa_st_abandon(*w);
    *w = NULL;
    return s;
}

pa_status pa_tokens_write(const char *path, const pa_piece *pieces, const char *const *names, size_t count,
                          pa_encoding e, const char *split, pa_err *err) {
    int64_t *offsets = calloc(count + 1, sizeof *offsets), *notes = malloc(count * sizeof *notes + 1);
    float *seconds = malloc(count * sizeof *seconds + 1);
    pa_st_writer *w = NULL;
    pa_status s = PA_OK;
    if (!offsets || !notes || !seconds) {
        s = pa_error(err, PA_FAIL, "%s: no memory for %zu pieces", path, count);
        goto done;
    }
    for (size_t p = 0; p < count; p++) {
        offsets[p + 1] = offsets[p] + (int64_t)pieces[p].count;
        seconds[p] = (float)pieces[p].seconds;
        notes[p] = (int64_t)pieces[p].notes;
    }
    const pa_token_rows rows = {.pieces = count,
                                .offsets = offsets,
                                .seconds = seconds,
                                .notes = notes,
                                .names = names,
                                .encoding = e,
                                .split = split};
    s = pa_tokens_begin(&w, path, &rows, err);
    for (size_t p = 0; p < count && !s; p++)
        s = pa_st_put(w, pieces[p].token, pieces[p].count * sizeof *pieces[p].token, err);
    if (!s) {
        s = pa_st_finish(w, err);
        w = NULL;
    }
done:
    pa_st_abandon(w);
    free(offsets);
    free(notes);
    free(seconds);
    return s;
}
