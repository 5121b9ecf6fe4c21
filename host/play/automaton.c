// automaton.c: see automaton.h.
#include "host/play/automaton.h"

#include <stdlib.h>

pa_status pa_automaton_init(pa_automaton *a, size_t most, pa_err *err) {
    size_t slots = 1024;
    *a = (pa_automaton){.states = 1, .edges = 1};
    if (most > UINT32_MAX / 16)
        return pa_error(err, PA_FAIL, "expected at most %u tokens to compare, found %zu", UINT32_MAX / 16, most);
    while (slots < 5 * most) slots *= 2;
    a->mask = (uint32_t)(slots - 1);
    a->state = calloc(2 * most + 2, sizeof *a->state); // at most 2 n - 1 states and 3 n - 4 edges
    a->edge = calloc(3 * most + 2, sizeof *a->edge);
    a->table = calloc(slots, sizeof *a->table);
    if (a->state && a->edge && a->table) return PA_OK;
    pa_automaton_clear(a);
    return pa_error(err, PA_FAIL, "no memory to compare %zu tokens", most);
}

void pa_automaton_clear(pa_automaton *a) {
    free(a->state);
    free(a->edge);
    free(a->table);
    *a = (pa_automaton){0};
}

// The slot of the edge, or the free one where it belongs.
static uint32_t *slot_of(const pa_automaton *a, uint32_t state, uint16_t symbol) {
    uint64_t h = ((uint64_t)state * PA_SYMBOLS + symbol) * 0x9e3779b97f4a7c15u;
    for (uint32_t i = (uint32_t)(h >> 32) & a->mask;; i = (i + 1) & a->mask) {
        const pa_edge *e = &a->edge[a->table[i]];
        if (!a->table[i] || (e->from == state && e->symbol == symbol)) return &a->table[i];
    }
}

static pa_edge *find(const pa_automaton *a, uint32_t state, uint16_t symbol) {
    uint32_t edge = *slot_of(a, state, symbol);
    return edge ? &a->edge[edge] : NULL;
}

static void connect(pa_automaton *a, uint32_t from, uint16_t symbol, uint32_t to) {
    *slot_of(a, from, symbol) = a->edges;
    a->edge[a->edges] = (pa_edge){.from = from, .to = to, .next = a->state[from].edge, .symbol = symbol};
    a->state[from].edge = a->edges++;
}

// A copy of q for the shorter of its substrings, which now end elsewhere too. p is the longest suffix with an edge to
// q.
static uint32_t split(pa_automaton *a, uint32_t p, uint16_t symbol, uint32_t q) {
    uint32_t copy = a->states++;
    a->state[copy] = (pa_state){.length = a->state[p].length + 1, .link = a->state[q].link};
    for (uint32_t e = a->state[q].edge; e; e = a->edge[e].next) connect(a, copy, a->edge[e].symbol, a->edge[e].to);
    a->state[q].link = copy;
    for (pa_edge *e; (e = find(a, p, symbol)) && e->to == q; p = a->state[p].link) {
        e->to = copy;
        if (!p) break;
    }
    return copy;
}

uint32_t pa_automaton_add(pa_automaton *a, uint16_t symbol) {
    uint32_t p = a->last, added = a->states++;
    pa_edge *e = NULL;
    a->state[added] = (pa_state){.length = a->state[p].length + 1};
    a->last = added;
    while (!(e = find(a, p, symbol))) {
        connect(a, p, symbol, added);
        if (!p) return added; // a new symbol: its link is the root
        p = a->state[p].link;
    }
    uint32_t q = e->to;
    a->state[added].link = a->state[q].length == a->state[p].length + 1 ? q : split(a, p, symbol, q);
    return added;
}

void pa_automaton_match(pa_automaton *a, pa_match *m, uint16_t symbol, int64_t where) {
    const pa_edge *e;
    while (!(e = find(a, m->state, symbol)) && m->state) {
        m->state = a->state[m->state].link;
        m->length = a->state[m->state].length;
    }
    if (!e) return;
    m->state = e->to;
    m->length++;
    pa_state *s = &a->state[m->state];
    if (m->length <= s->match) return;
    s->match = m->length;
    s->where = where;
}

pa_status pa_automaton_close(pa_automaton *a, pa_err *err) {
    uint32_t longest = a->state[a->last].length, *order = malloc(a->states * sizeof *order);
    uint32_t *start = calloc((size_t)longest + 2, sizeof *start); // of the states of each length in `order`
    if (!order || !start) {
        free(order);
        free(start);
        return pa_error(err, PA_FAIL, "no memory to compare tokens");
    }
    for (uint32_t i = 0; i < a->states; i++) start[a->state[i].length + 1]++;
    for (uint32_t n = 0; n < longest; n++) start[n + 1] += start[n];
    for (uint32_t i = 0; i < a->states; i++) order[start[a->state[i].length]++] = i;
    for (uint32_t i = a->states; i-- > 1;) { // a longer match holds all of a shorter state's substrings
        const pa_state *s = &a->state[order[i]];
        pa_state *link = &a->state[s->link];
        if (!s->match || link->match == link->length) continue;
        link->match = link->length;
        link->where = s->where;
    }
    for (uint32_t i = 1; i < a->states; i++) { // what a state has no match of, a shorter end of it may
        pa_state *s = &a->state[order[i]];
        if (s->match) continue;
        s->match = a->state[s->link].match;
        s->where = a->state[s->link].where;
    }
    free(order);
    free(start);
    return PA_OK;
}
