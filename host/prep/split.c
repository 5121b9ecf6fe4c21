// split.c: see split.h.
#include "host/prep/split.h"

#include <stdlib.h>
#include <string.h>

// The pieces that were read, those with one notes_hash together, and in these those with the same tokens.
typedef struct {
    pa_pieces *pieces;
    uint32_t *piece;
    size_t count;
    uint16_t *token[2]; // two pieces that are compared
    size_t room[2];
} order;

static int by_music(const void *x, const void *y, void *rows) {
    uint32_t i = *(const uint32_t *)x, j = *(const uint32_t *)y;
    const pa_row *a = (pa_row *)rows + i, *b = (pa_row *)rows + j;
    if (a->notes_hash != b->notes_hash) return a->notes_hash < b->notes_hash ? -1 : 1;
    if (a->crc != b->crc) return a->crc < b->crc ? -1 : 1;
    if (a->count != b->count) return a->count < b->count ? -1 : 1;
    return i < j ? -1 : i > j;
}

static pa_status fetch(order *o, int which, const pa_row *row, pa_err *err) {
    size_t bytes = row->count * sizeof *o->token[0];
    if (bytes > o->room[which]) {
        uint16_t *grown = realloc(o->token[which], bytes);
        if (!grown) return pa_error(err, PA_FAIL, "no memory for %u tokens", row->count);
        o->token[which] = grown;
        o->room[which] = bytes;
    }
    return pa_pieces_fetch(o->pieces, row->at, o->token[which], bytes, err);
}

static pa_status same_tokens(order *o, const pa_row *a, const pa_row *b, bool *same, pa_err *err) {
    *same = a->crc == b->crc && a->count == b->count;
    if (!*same) return PA_OK;
    pa_status s = fetch(o, 0, a, err);
    if (!s) s = fetch(o, 1, b, err);
    *same = !s && !memcmp(o->token[0], o->token[1], a->count * sizeof *o->token[0]);
    return s;
}

// piece[first .. end) have one notes_hash.
static pa_status compare_group(order *o, size_t first, size_t end, pa_split_report *report, pa_err *err) {
    pa_row *row = o->pieces->row;
    uint32_t earliest = o->piece[first];
    size_t leader = first; // of those with the same tokens
    for (size_t i = first; i < end; i++) earliest = o->piece[i] < earliest ? o->piece[i] : earliest;
    for (size_t i = first; i < end; i++) {
        pa_row *r = &row[o->piece[i]];
        bool copy = false;
        pa_status s = i > leader ? same_tokens(o, &row[o->piece[leader]], r, &copy, err) : PA_OK;
        if (s) return s;
        if (!copy) leader = i;
        r->like = copy ? o->piece[leader] : earliest;
        if (copy) r->state = PA_ROW_COPY;
        report->copies += copy;
        report->similar += !copy && r->like != o->piece[i];
    }
    return PA_OK;
}

static size_t group_end(const order *o, size_t first) {
    size_t end = first + 1;
    const pa_row *row = o->pieces->row;
    while (end < o->count && row[o->piece[end]].notes_hash == row[o->piece[first]].notes_hash) end++;
    return end;
}

static void put_group(order *o, size_t first, pa_split split) {
    for (size_t i = first, end = group_end(o, first); i < end; i++) o->pieces->row[o->piece[i]].split = (uint8_t)split;
}

// The groups of `from` in number, and the one with the smallest hash.
static size_t count_groups(const order *o, pa_split from, size_t *smallest) {
    size_t count = 0;
    for (size_t first = 0; first < o->count; first = group_end(o, first)) {
        if (o->pieces->row[o->piece[first]].split != from) continue;
        if (!count++) *smallest = first;
    }
    return count;
}

// Train and validation give only what leaves them a group, except that train comes first.
static bool find_giver(const order *o, pa_split to, size_t *first) {
    pa_split other = to == PA_SPLIT_TRAIN ? PA_SPLIT_VALIDATION : PA_SPLIT_TRAIN;
    return count_groups(o, other, first) > 1 || count_groups(o, PA_SPLIT_TEST, first) ||
           (to == PA_SPLIT_TRAIN && count_groups(o, other, first));
}

static void fill_split(order *o, pa_split split, pa_split_report *report) {
    size_t first;
    if (count_groups(o, split, &first) || !find_giver(o, split, &first)) return;
    report->moved[split] = o->piece[first];
    put_group(o, first, split);
}

static void split_by_hash(order *o, pa_split_report *report) {
    for (size_t first = 0; first < o->count; first = group_end(o, first)) {
        uint64_t share = (o->pieces->row[o->piece[first]].notes_hash >> 32) % 100;
        put_group(o, first, share < 90 ? PA_SPLIT_TRAIN : share < 95 ? PA_SPLIT_VALIDATION : PA_SPLIT_TEST);
    }
    fill_split(o, PA_SPLIT_TRAIN, report);
    fill_split(o, PA_SPLIT_VALIDATION, report);
}

pa_status pa_split_pieces(pa_pieces *p, pa_split_report *report, pa_err *err) {
    size_t files = p->corpus->count;
    order o = {.pieces = p, .piece = malloc((files + 1) * sizeof *o.piece)};
    pa_status s = o.piece ? PA_OK : pa_error(err, PA_FAIL, "no memory for %zu files", files);
    *report = (pa_split_report){.moved = {files, files, files}};
    if (s) return s;
    for (size_t i = 0; i < files; i++)
        if (p->row[i].state == PA_ROW_READ) o.piece[o.count++] = (uint32_t)i;
    qsort_r(o.piece, o.count, sizeof *o.piece, by_music, p->row);
    for (size_t first = 0, end; first < o.count && !s; first = end) {
        end = group_end(&o, first);
        s = compare_group(&o, first, end, report, err);
    }
    if (!s && !p->corpus->metadata) split_by_hash(&o, report);
    for (size_t i = 0; i < o.count && !s; i++) {
        const pa_row *r = &p->row[o.piece[i]];
        report->apart += r->split != p->row[r->like].split;
    }
    free(o.piece);
    free(o.token[0]);
    free(o.token[1]);
    return s;
}
