// automaton.h: a suffix automaton: all substrings of some sequences of symbols, built in linear time, and how far other
// sequences match them. Knows nothing of music. A. Blumer et al., "The smallest automaton recognizing the subwords of a
// text", 1985.
#ifndef PA_AUTOMATON_H
#define PA_AUTOMATON_H

#include "host/base/base.h"

enum { PA_SYMBOLS = 1024 }; // symbols are below this

typedef struct {
    uint32_t length, link, edge; // longest substring; longest suffix in another state; first of its edges, 0: none
    uint32_t match;              // longest match that was reported here
    int64_t where;               // the caller's name for it
} pa_state;

typedef struct {
    uint32_t from, to, next; // next: of the same state; 0: none
    uint16_t symbol;
} pa_edge;

typedef struct {
    pa_state *state; // 0 is the root
    pa_edge *edge;   // from 1
    uint32_t *table; // of edges by state and symbol: open addressing, 0: free
    uint32_t states, edges, mask;
    uint32_t last; // where the symbols so far lead
} pa_automaton;

// For at most `most` symbols in all. Memory: at most 140 bytes for each, most of it untouched until it is needed.
// PA_FAIL without memory.
pa_status pa_automaton_init(pa_automaton *a, size_t most, pa_err *err);
void pa_automaton_clear(pa_automaton *a);
// Appends a symbol; returns the state of all symbols so far.
uint32_t pa_automaton_add(pa_automaton *a, uint16_t symbol);

// A place in another sequence: the longest end of it that is a substring.
typedef struct {
    uint32_t state, length;
} pa_match;
// Moves the match past a symbol, and reports it to the state under the name `where`.
void pa_automaton_match(pa_automaton *a, pa_match *m, uint16_t symbol, int64_t where);
// After the last match: gives each state the longest match of its substrings' ends. `match` is then the longest end of
// what leads to the state that the other sequences have. PA_FAIL without memory.
pa_status pa_automaton_close(pa_automaton *a, pa_err *err);

#endif
