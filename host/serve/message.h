// message.h: what a page may say to the server: one JSON object each, checked against a table. Knows nothing of sockets
// and models.
#ifndef PA_MESSAGE_H
#define PA_MESSAGE_H

#include "host/base/base.h"

enum {
    PA_LONGEST_MESSAGE = 1024,   // bytes of JSON
    PA_LONGEST_UPLOAD = 1 << 20, // bytes of a MIDI file
    PA_SESSION_ID = 32,          // hexadecimal digits
    PA_MOST_TAKES = 32,          // of a session
    PA_MOST_AT_ONCE = 4,         // takes that grow together
};

// Fields in brackets may be missing.
typedef enum {
    PA_DO_HELLO,    // session: "" for a new one
    PA_DO_CONTINUE, // take, at, seconds, temperature, seed, [density], [number]: so many new takes (default 1),
                    // which continue that take from second `at` on
    PA_DO_DUET,     // temperature, seed, [density]: a new take, listening
    PA_DO_HOW,      // temperature, density: of what the model plays from now on
    PA_DO_KEY,      // time, pitch, velocity: the player strikes a key, or releases it (0)
    PA_DO_ANSWER,   // time, turn: the model's turn
    PA_DO_LISTEN,   // time: the player's turn
    PA_DO_STOP,     // time: ends a duet there, or continuations at what they have
    PA_DO_TAKE,     // take: sends all of it
    PA_DO_DROP,     // take
    PA_DO_MIDI,     // take: sends it as a MIDI file
    PA_DO_PAGE,     // take: sends it as an HTML page with sound, a while later
    PA_DO_UPLOAD,   // bytes, count: a MIDI file; a binary message
    PA_DO_LEAVE,    // the connection has ended
} pa_deed;

typedef struct {
    pa_deed deed;
    // Whole numbers where they mean such.
    double take, time, pitch, velocity, turn, at, seconds, temperature, density, seed, number;
    char session[PA_SESSION_ID + 1];
    uint8_t *bytes; // of an upload; the receiver frees them
    size_t count;
} pa_message;

// Reads a text message. PA_DATA names what is wrong: no JSON object, an unknown deed or field, one that is missing, has
// the wrong type or is out of range.
pa_status pa_message_parse(const char *text, size_t length, pa_message *m, pa_err *err);

#endif
