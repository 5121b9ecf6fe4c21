// copies_report.c: see copies_report.h.
#include "host/play/copies_report.h"

#include <cJSON.h>
#include <errno.h>
#include <stdlib.h>

#include "host/base/json.h"
#include "host/play/copies.h"
#include "tokenizer/tokens.h"

typedef struct {
    const char *path, *corpus_path;
    pa_token_set pieces, corpus;
    pa_copy *longest[PA_COPIES]; // (pieces)
    cJSON **names;               // (parts of the corpus) what paprep called its pieces; NULL: not known
} found;

static const char *const key[PA_COPIES] = {"tokens", "tokens_transposed", "notes", "notes_transposed"};

static double seconds_at(const pa_token_set *set, int64_t piece, int64_t token) {
    return pa_token_seconds(pa_token_set_piece(set, piece).token, (size_t)token);
}

static int64_t longest_piece(const found *x, pa_copy_kind kind) {
    int64_t best = 0;
    for (int64_t p = 1; p < x->pieces.pieces; p++)
        if (x->longest[kind][p].length > x->longest[kind][best].length) best = p;
    return best;
}

static int by_length(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

// The middle length, of an even number of pieces the mean of the two.
static pa_status median(const found *x, pa_copy_kind kind, double *middle, pa_err *err) {
    size_t n = (size_t)x->pieces.pieces;
    int64_t *length = malloc(n * sizeof *length);
    if (!length) return pa_error(err, PA_FAIL, "no memory for %zu pieces", n);
    for (size_t i = 0; i < n; i++) length[i] = x->longest[kind][i].length;
    qsort(length, n, sizeof *length, by_length);
    *middle = (double)(length[n / 2] + length[(n - 1) / 2]) / 2;
    free(length);
    return PA_OK;
}

static pa_status read_names(found *x, pa_err *err) {
    x->names = calloc(x->corpus.parts + 1, sizeof(cJSON *));
    if (!x->names) return pa_error(err, PA_FAIL, "no memory for %zu lists of names", x->corpus.parts);
    for (size_t i = 0; i < x->corpus.parts; i++) {
        const pa_st *file = x->corpus.part[i].file->file;
        const char *text = pa_st_meta(file, "names");
        size_t values = text ? pa_json_values(text) : 0;
        if (values > PA_JSON_VALUES)
            return pa_error(err, PA_DATA, "%s: names: expected at most %d values, found %zu", pa_st_path(file),
                            PA_JSON_VALUES, values);
        errno = 0;
        x->names[i] = text ? cJSON_Parse(text) : NULL;
        if (!x->names[i] && errno == ENOMEM) return pa_error(err, PA_FAIL, "no memory for the names of pieces");
    }
    return PA_OK;
}

// The name that paprep gave a piece of the corpus; NULL: none.
static const char *piece_name(const found *x, int64_t piece) {
    const pa_token_part *part = x->corpus.part;
    size_t i = 0;
    while (piece >= part[i].piece + part[i].file->pieces) i++;
    return cJSON_GetStringValue(cJSON_GetArrayItem(x->names[i], (int)(piece - part[i].piece)));
}

// ---- the table

static pa_status print_row(const found *x, pa_copy_kind kind, pa_err *err) {
    int64_t piece = longest_piece(x, kind);
    const pa_copy *c = &x->longest[kind][piece];
    double middle;
    pa_status s = median(x, kind, &middle, err);
    if (s) return s;
    printf("%-20s%10g%10lld", pa_copy_name(kind), middle, (long long)c->length);
    if (c->length) {
        const char *name = piece_name(x, c->piece);
        printf("  piece %lld at %.1f s is piece %lld at %.1f s%s%s", (long long)piece,
               seconds_at(&x->pieces, piece, c->own), (long long)c->piece, seconds_at(&x->corpus, c->piece, c->token),
               name ? ", " : "", name ? name : "");
    }
    putchar('\n');
    return PA_OK;
}

static pa_status print_table(const found *x, pa_err *err) {
    pa_status s = PA_OK;
    printf("pieces      %s: %lld, %lld tokens\n", x->path, (long long)x->pieces.pieces, (long long)x->pieces.tokens);
    printf("corpus      %s: %lld, %lld tokens\n\n", x->corpus_path, (long long)x->corpus.pieces,
           (long long)x->corpus.tokens);
    printf("%-20s%10s%10s\n", "in common", "median", "longest");
    for (pa_copy_kind kind = 0; kind < PA_COPIES && !s; kind++) s = print_row(x, kind, err);
    printf("\nThe longest stretch that a piece shares with the corpus. tokens: the same ones; notes: the pitches that "
           "are struck, whatever\n"
           "their times and loudness; transposed: the same after a transposition.\n");
    return s;
}

// ---- JSON

static cJSON *copy_of(const found *x, pa_copy_kind kind, int64_t piece) {
    const pa_copy *c = &x->longest[kind][piece];
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "length", (double)c->length);
    if (!c->length) return o;
    const char *name = piece_name(x, c->piece);
    cJSON_AddNumberToObject(o, "seconds", seconds_at(&x->pieces, piece, c->own));
    cJSON_AddNumberToObject(o, "corpus_piece", (double)c->piece);
    cJSON_AddNumberToObject(o, "corpus_seconds", seconds_at(&x->corpus, c->piece, c->token));
    if (name) cJSON_AddStringToObject(o, "corpus_name", name);
    return o;
}

static pa_status add_kind(cJSON *copies, const found *x, pa_copy_kind kind, pa_err *err) {
    cJSON *o = cJSON_AddObjectToObject(copies, key[kind]);
    double middle;
    pa_status s = median(x, kind, &middle, err);
    if (s) return s;
    cJSON_AddNumberToObject(o, "median", middle);
    cJSON_AddNumberToObject(o, "longest", (double)x->longest[kind][longest_piece(x, kind)].length);
    cJSON *each = cJSON_AddArrayToObject(o, "pieces");
    for (int64_t p = 0; p < x->pieces.pieces; p++) cJSON_AddItemToArray(each, copy_of(x, kind, p));
    return PA_OK;
}

static void add_set(cJSON *o, const char *prefix, const char *path, const pa_token_set *set) {
    char name[64], crc[16];
    snprintf(name, sizeof name, "%s_file", prefix);
    cJSON_AddStringToObject(o, name, path);
    snprintf(name, sizeof name, "%s_crc32c", prefix);
    snprintf(crc, sizeof crc, "%08x", set->crc);
    cJSON_AddStringToObject(o, name, crc);
}

static pa_status print_json(const found *x, pa_err *err) {
    cJSON *o = cJSON_CreateObject();
    pa_status s = PA_OK;
    cJSON_AddStringToObject(o, "version", PA_VERSION);
    add_set(o, "tokens", x->path, &x->pieces);
    add_set(o, "corpus", x->corpus_path, &x->corpus);
    cJSON_AddStringToObject(o, "encoding", pa_encoding_name(x->corpus.encoding));
    cJSON_AddNumberToObject(o, "pieces", (double)x->pieces.pieces);
    cJSON_AddNumberToObject(o, "tokens", (double)x->pieces.tokens);
    cJSON_AddNumberToObject(o, "corpus_pieces", (double)x->corpus.pieces);
    cJSON_AddNumberToObject(o, "corpus_tokens", (double)x->corpus.tokens);
    cJSON *copies = cJSON_AddObjectToObject(o, "copies");
    for (pa_copy_kind kind = 0; kind < PA_COPIES && !s; kind++) s = add_kind(copies, x, kind, err);
    char *text = s ? NULL : cJSON_Print(o);
    if (text) puts(text);
    if (!text && !s) s = pa_error(err, PA_FAIL, "no memory to print the result");
    cJSON_Delete(o);
    cJSON_free(text);
    return s;
}

pa_status pa_copies_report(const char *pieces, const char *corpus, bool json, pa_err *err) {
    found x = {.path = pieces, .corpus_path = corpus};
    pa_status s = pa_token_set_open(&x.pieces, pieces, false, err);
    if (s) return s;
    if ((s = pa_token_set_open(&x.corpus, corpus, false, err))) goto done;
    if (!x.pieces.pieces) {
        s = pa_error(err, PA_DATA, "%s: expected a piece, found none", pieces);
        goto done;
    }
    for (pa_copy_kind kind = 0; kind < PA_COPIES && !s; kind++) {
        x.longest[kind] = calloc((size_t)x.pieces.pieces, sizeof *x.longest[kind]);
        s = x.longest[kind] ? pa_copies_find(&x.pieces, &x.corpus, kind, x.longest[kind], err)
                            : pa_error(err, PA_FAIL, "no memory for %lld pieces", (long long)x.pieces.pieces);
    }
    if (!s) s = read_names(&x, err);
    if (!s) s = json ? print_json(&x, err) : print_table(&x, err);
done:
    for (size_t i = 0; x.names && i < x.corpus.parts; i++) cJSON_Delete(x.names[i]);
    free(x.names);
    for (pa_copy_kind kind = 0; kind < PA_COPIES; kind++) free(x.longest[kind]);
    pa_token_set_close(&x.corpus);
    pa_token_set_close(&x.pieces);
    return s;
}
