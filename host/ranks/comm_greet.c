// comm_greet.c: see comm_greet.h.
#include "host/ranks/comm_greet.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

static const char magic[16] = "patrain-join-2";

// What a proof covers: the speaker, both random numbers, and the greeting.
typedef struct {
    char speaker[16];
    uint8_t connector[PA_WORD], listener[PA_WORD];
    pa_greeting greeting; // its proof is zeros
} claim;

static void prove(const uint8_t word[PA_WORD], const pa_hello *h, const uint8_t listener[PA_WORD], const pa_greeting *g,
                  uint8_t proof[PA_WORD]) {
    claim c = {.speaker = ""};
    snprintf(c.speaker, sizeof c.speaker, g ? "connector" : "listener");
    memcpy(c.connector, h->random, PA_WORD);
    memcpy(c.listener, listener, PA_WORD);
    if (g) c.greeting = *g;
    memset(c.greeting.proof, 0, PA_WORD);
    pa_proof(proof, word, &c, sizeof c);
}

bool pa_greet_begin(pa_hello *h) {
    memcpy(h->magic, magic, sizeof magic);
    return getrandom(h->random, PA_WORD, 0) == PA_WORD;
}

bool pa_greet_answer(const pa_hello *h, const pa_challenge *c, const uint8_t word[PA_WORD], pa_greeting *g) {
    uint8_t proof[PA_WORD];
    prove(word, h, c->random, NULL, proof);
    if (memcmp(proof, c->proof, PA_WORD)) return false;
    prove(word, h, c->random, g, g->proof);
    return true;
}

static bool send_challenge(pa_newcomer *n, const uint8_t word[PA_WORD]) {
    pa_challenge c;
    if (memcmp(n->hello.magic, magic, sizeof magic) || getrandom(n->random, PA_WORD, 0) != PA_WORD) return false;
    memcpy(c.random, n->random, PA_WORD);
    prove(word, &n->hello, n->random, NULL, c.proof);
    return send(n->fd, &c, sizeof c, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof c; // the first bytes: there is room
}

bool pa_greet_hear(pa_newcomer *n, const uint8_t word[PA_WORD]) {
    const size_t whole = sizeof n->hello + sizeof n->greeting;
    uint8_t proof[PA_WORD];
    while (n->got < whole && pa_clock() < n->until) {
        bool first = n->got < sizeof n->hello;
        size_t end = first ? sizeof n->hello : whole;
        char *to = first ? (char *)&n->hello + n->got : (char *)&n->greeting + (n->got - sizeof n->hello);
        ssize_t bytes = recv(n->fd, to, end - n->got, MSG_DONTWAIT);
        if (bytes < 0 && errno == EINTR) continue;
        if (bytes < 0 && errno == EAGAIN) return false;
        if (bytes <= 0) break;
        n->got += (size_t)bytes;
        if (n->got == sizeof n->hello && !send_challenge(n, word)) break;
    }
    if (n->got == whole) {
        prove(word, &n->hello, n->random, &n->greeting, proof);
        if (!memcmp(proof, n->greeting.proof, PA_WORD)) return true;
    }
    close(n->fd);
    n->fd = -1;
    return false;
}
