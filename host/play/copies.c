// copies.c: see copies.h. The pieces, which are few, become a suffix automaton; the corpus streams through it.
#include "host/play/copies.h"

#include <stdlib.h>

#include "host/play/automaton.h"
#include "tokenizer/tokens.h"

// Symbols: tokens; or, for transposed copies, a note's interval from the note before and whether it is struck or
// released.
enum { INTERVAL = 512 + 127, STRUCK = 800, RELEASED, BETWEEN_PIECES };

// A piece as symbols. Room is for two a token.
typedef struct {
    uint16_t *symbol;
    uint32_t *token; // index of each symbol's
    size_t count, room;
} line;

static pa_status reserve(line *l, size_t tokens, pa_err *err) {
    if (l->room >= 2 * tokens) return PA_OK;
    free(l->symbol);
    free(l->token);
    l->room = 2 * tokens;
    l->symbol = malloc(l->room * sizeof *l->symbol);
    l->token = malloc(l->room * sizeof *l->token);
    if (l->symbol && l->token) return PA_OK;
    l->room = 0;
    return pa_error(err, PA_FAIL, "no memory to compare a piece of %zu tokens", tokens);
}

static void clear(line *l) {
    free(l->symbol);
    free(l->token);
}

static bool is_transposed(pa_copy_kind kind) {
    return kind == PA_COPY_TOKENS_TRANSPOSED || kind == PA_COPY_NOTES_TRANSPOSED;
}

static pa_status read_line(line *l, const pa_token_set *set, int64_t piece, pa_copy_kind kind, pa_err *err) {
    const pa_token_piece p = pa_token_set_piece(set, piece);
    bool notes = kind == PA_COPY_NOTES || kind == PA_COPY_NOTES_TRANSPOSED;
    int before = -1; // pitch
    pa_status s = reserve(l, (size_t)p.count, err);
    l->count = 0;
    for (int64_t i = 0; i < p.count && !s; i++) {
        uint16_t t = p.token[i];
        if (notes && !pa_is_note_on(t)) continue;
        if (is_transposed(kind) && pa_is_note(t)) {
            int pitch = pa_pitch_of(t);
            l->token[l->count] = (uint32_t)i;
            if (before >= 0) l->symbol[l->count++] = (uint16_t)(INTERVAL + pitch - before);
            before = pitch;
            t = pa_is_note_on(t) ? STRUCK : RELEASED;
        }
        l->token[l->count] = (uint32_t)i;
        l->symbol[l->count++] = t;
    }
    return s;
}

static bool is_interval(uint16_t symbol) {
    return symbol >= INTERVAL - 127 && symbol <= INTERVAL + 127;
}

static bool is_key(uint16_t symbol) {
    return symbol == STRUCK || symbol == RELEASED;
}

typedef struct {
    const pa_token_set *pieces, *corpus;
    pa_copy_kind kind;
    pa_automaton automaton;
    uint32_t *state; // to which the pieces' symbols lead, one piece behind the other
    line line;
} search;

static pa_status add_pieces(search *x, pa_err *err) {
    size_t at = 0;
    pa_status s = PA_OK;
    for (int64_t p = 0; p < x->pieces->pieces && !(s = read_line(&x->line, x->pieces, p, x->kind, err)); p++) {
        for (size_t i = 0; i < x->line.count; i++) x->state[at++] = pa_automaton_add(&x->automaton, x->line.symbol[i]);
        pa_automaton_add(&x->automaton, BETWEEN_PIECES);
    }
    return s;
}

// A symbol of a piece of the corpus, as one number.
enum { SYMBOL_BITS = 36 };
typedef struct {
    int64_t piece, symbol;
} place;

static pa_status match_corpus(search *x, pa_err *err) {
    pa_status s = PA_OK;
    for (int64_t p = 0; p < x->corpus->pieces && !(s = read_line(&x->line, x->corpus, p, x->kind, err)); p++) {
        pa_match m = {0};
        for (size_t i = 0; i < x->line.count; i++)
            pa_automaton_match(&x->automaton, &m, x->line.symbol[i], p << SYMBOL_BITS | (int64_t)i);
    }
    return s;
}

// The longest stretch of the piece in x->line, whose symbols lead to state[]. *found: where it begins in the corpus.
static pa_copy longest_of(const search *x, const uint32_t *state, place *found) {
    const line *l = &x->line;
    pa_copy best = {0};
    size_t first = 0, counted = 0; // where the stretch that ends at i begins; how many of [first, i] are no intervals
    for (size_t i = 0; i < l->count; i++) {
        const pa_state *s = &x->automaton.state[state[i]];
        counted += !is_interval(l->symbol[i]);
        while (first <= i && (first < i + 1 - s->match || (is_transposed(x->kind) && !is_key(l->symbol[first]))))
            counted -= !is_interval(l->symbol[first++]);
        if ((int64_t)counted <= best.length) continue;
        best = (pa_copy){.length = (int64_t)counted, .own = l->token[first]};
        found->piece = s->where >> SYMBOL_BITS;
        found->symbol = (s->where & (((int64_t)1 << SYMBOL_BITS) - 1)) - (int64_t)(i - first);
    }
    return best;
}

static pa_status longest_of_all(search *x, pa_copy *longest, pa_err *err) {
    pa_status s = PA_OK;
    const uint32_t *state = x->state;
    for (int64_t p = 0; p < x->pieces->pieces && !(s = read_line(&x->line, x->pieces, p, x->kind, err)); p++) {
        place found = {0};
        longest[p] = longest_of(x, state, &found);
        state += x->line.count;
        if (!longest[p].length) continue;
        if ((s = read_line(&x->line, x->corpus, found.piece, x->kind, err))) break;
        longest[p].piece = found.piece;
        longest[p].token = x->line.token[found.symbol];
    }
    return s;
}

pa_status pa_copies_find(const pa_token_set *pieces, const pa_token_set *corpus, pa_copy_kind kind, pa_copy *longest,
                         pa_err *err) {
    search x = {.pieces = pieces, .corpus = corpus, .kind = kind};
    size_t most = (is_transposed(kind) ? 2 : 1) * (size_t)pieces->tokens + (size_t)pieces->pieces;
    if (pieces->encoding != corpus->encoding)
        return pa_error(err, PA_DATA, "encoding: expected %s, that of the corpus, found %s",
                        pa_encoding_name(corpus->encoding), pa_encoding_name(pieces->encoding));
    pa_status s = pa_automaton_init(&x.automaton, most, err);
    x.state = malloc((most + 1) * sizeof *x.state);
    if (!s && !x.state) s = pa_error(err, PA_FAIL, "no memory to compare %zu tokens", most);
    if (!s) s = add_pieces(&x, err);
    if (!s) s = match_corpus(&x, err);
    if (!s) s = pa_automaton_close(&x.automaton, err);
    if (!s) s = longest_of_all(&x, longest, err);
    free(x.state);
    clear(&x.line);
    pa_automaton_clear(&x.automaton);
    return s;
}

const char *pa_copy_name(pa_copy_kind kind) {
    static const char *const name[PA_COPIES] = {"tokens", "tokens, transposed", "notes", "notes, transposed"};
    return name[kind];
}
