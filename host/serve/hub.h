// hub.h: what passes between the thread that serves and the one that computes: requests one way, replies the other,
// both bounded. Knows nothing of sockets and music.
#ifndef PA_HUB_H
#define PA_HUB_H

#include "host/serve/message.h"

enum {
    PA_MOST_CLIENTS = 256,
    PA_MOST_WAITING = 2048,     // requests of a client that are not yet answered for: a network may hold them up
    PA_MOST_UPLOADED = 8 << 20, // bytes of files of a client that wait to be read
    PA_MOST_UPLOADED_OF_ALL = 64 << 20,
    PA_MOST_UNSENT = 4 << 20, // bytes of replies that a client has not yet read, files apart
    PA_MOST_FILES = 16 << 20, // bytes of files that a client has not yet read, or one file, however large
    PA_MOST_FILES_OF_ALL = 96 << 20,
    PA_ROOM_BEFORE = 32, // bytes before a reply, for the header that the socket puts there
};

typedef struct pa_hub pa_hub;

typedef struct {
    uint64_t client; // no two connections have the same
    double arrived;  // pa_clock()
    pa_message message;
} pa_request;

typedef struct pa_reply {
    struct pa_reply *next;
    size_t count;
    bool binary;
    bool file;            // or says that one follows
    unsigned char room[]; // PA_ROOM_BEFORE, then `count` bytes
} pa_reply;

// wake(arg) is called, from any thread, whenever a client has a first reply to send.
pa_hub *pa_hub_open(void (*wake)(void *arg), void *arg); // NULL: no memory
void pa_hub_close(pa_hub *h);

// The serving thread's.
uint64_t pa_hub_join(pa_hub *h); // 0: there are PA_MOST_CLIENTS
void pa_hub_leave(pa_hub *h, uint64_t client);
// Takes m->bytes too, also where it fails: the client asks for more than it waits for.
bool pa_hub_ask(pa_hub *h, uint64_t client, const pa_message *m);
pa_reply *pa_hub_reply(pa_hub *h, uint64_t client, bool *more); // to be freed; NULL: none
bool pa_hub_is_slow(pa_hub *h, uint64_t client);                // its replies were dropped: close it

// The computing thread's.
bool pa_hub_next(pa_hub *h, pa_request *r, double wait); // waits for a request at most so many seconds
bool pa_hub_is_asked(pa_hub *h);                         // a request waits
void pa_hub_say(pa_hub *h, uint64_t client, const char *text, size_t length);
// Any thread: a text, directly followed by a file. False: too many bytes wait, or no memory.
bool pa_hub_say_file(pa_hub *h, uint64_t client, const char *text, const void *bytes, size_t count);
void pa_hub_stop(pa_hub *h); // any thread: pa_hub_next no longer waits
bool pa_hub_is_stopped(pa_hub *h);

#endif
