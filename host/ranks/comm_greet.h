// comm_greet.h: how two ranks prove to each other that they know the run's word, without sending it. The one that
// connects sends a hello with a random number; the listener a challenge with another and a proof over both; the first
// its greeting, with a proof over both and it.
#ifndef PA_COMM_GREET_H
#define PA_COMM_GREET_H

#include "host/ranks/comm_proof.h"

enum { PA_HOST = 64 };

typedef struct {
    char magic[16];
    uint8_t random[PA_WORD];
} pa_hello;
typedef struct {
    uint8_t random[PA_WORD], proof[PA_WORD];
} pa_challenge;
typedef struct { // numbers in network order
    uint8_t proof[PA_WORD];
    uint32_t world, rank, port;
    char host[PA_HOST];
} pa_greeting;

// The side that connects: false without random numbers, or where the challenge does not come from one that knows the
// word.
bool pa_greet_begin(pa_hello *h);
bool pa_greet_answer(const pa_hello *h, const pa_challenge *c, const uint8_t word[PA_WORD], pa_greeting *g);

// The listener's: a connection whose other end has proved nothing yet.
typedef struct {
    int fd; // -1: none
    uint32_t address;
    double until;
    size_t got; // bytes of hello, then of greeting
    pa_hello hello;
    pa_greeting greeting;
    uint8_t random[PA_WORD]; // this side's
} pa_newcomer;

// Reads what has come so far and replies; never waits. Closes the connection (fd -1) once it cannot be a rank's, or
// after `until`. Returns true once it has proved to be one.
bool pa_greet_hear(pa_newcomer *n, const uint8_t word[PA_WORD]);

#endif
