// hub.c: see hub.h.
#include "host/serve/hub.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct waiting {
    struct waiting *next;
    pa_request request;
} waiting;

typedef struct {
    uint64_t id;     // 0: free
    int waiting;     // requests
    size_t uploaded; // bytes of them
    pa_reply *reply, **last;
    size_t unsent, files; // bytes
    bool slow;
} client;

struct pa_hub {
    pthread_mutex_t lock;
    pthread_cond_t asked;
    void (*wake)(void *arg);
    void *arg;
    client client[PA_MOST_CLIENTS];
    uint64_t joined;
    waiting *request, **last;
    size_t uploaded; // bytes
    size_t files;    // bytes of replies
    bool stopped;
};

pa_hub *pa_hub_open(void (*wake)(void *arg), void *arg) {
    pa_hub *h = calloc(1, sizeof *h);
    pthread_condattr_t monotonic;
    if (!h) return NULL;
    h->wake = wake;
    h->arg = arg;
    h->last = &h->request;
    pthread_mutex_init(&h->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&h->asked, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return h;
}

static pa_reply *take_reply(pa_hub *h, client *c) {
    pa_reply *first = c->reply;
    if (!first) return NULL;
    c->reply = first->next;
    if (!c->reply) c->last = &c->reply;
    *(first->file ? &c->files : &c->unsent) -= first->count;
    if (first->file) h->files -= first->count;
    return first;
}

static void drop_replies(pa_hub *h, client *c) {
    for (pa_reply *r; (r = take_reply(h, c));) free(r);
}

void pa_hub_close(pa_hub *h) {
    if (!h) return;
    for (int i = 0; i < PA_MOST_CLIENTS; i++) drop_replies(h, &h->client[i]);
    while (h->request) {
        waiting *first = h->request;
        h->request = first->next;
        free(first->request.message.bytes);
        free(first);
    }
    pthread_cond_destroy(&h->asked);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

static client *find(pa_hub *h, uint64_t id) {
    for (int i = 0; i < PA_MOST_CLIENTS; i++)
        if (h->client[i].id == id) return &h->client[i];
    return NULL;
}

// ---- requests

static bool put(pa_hub *h, uint64_t id, const pa_message *m) {
    waiting *w = malloc(sizeof *w);
    if (!w) return false;
    *w = (waiting){.request = {id, pa_clock(), *m}};
    *h->last = w;
    h->last = &w->next;
    h->uploaded += m->count;
    pthread_cond_signal(&h->asked);
    return true;
}

uint64_t pa_hub_join(pa_hub *h) {
    pthread_mutex_lock(&h->lock);
    client *c = find(h, 0);
    uint64_t id = c ? ++h->joined : 0;
    if (c) *c = (client){.id = id, .last = &c->reply};
    pthread_mutex_unlock(&h->lock);
    return id;
}

void pa_hub_leave(pa_hub *h, uint64_t id) {
    pthread_mutex_lock(&h->lock);
    client *c = find(h, id);
    if (c) {
        drop_replies(h, c);
        c->id = 0;
        put(h, id, &(pa_message){.deed = PA_DO_LEAVE});
    }
    pthread_mutex_unlock(&h->lock);
}

bool pa_hub_ask(pa_hub *h, uint64_t id, const pa_message *m) {
    pthread_mutex_lock(&h->lock);
    client *c = find(h, id);
    bool full = !c || c->waiting >= PA_MOST_WAITING || c->uploaded + m->count > PA_MOST_UPLOADED ||
                h->uploaded + m->count > PA_MOST_UPLOADED_OF_ALL;
    bool done = !full && put(h, id, m);
    if (done) c->waiting++;
    if (done) c->uploaded += m->count;
    pthread_mutex_unlock(&h->lock);
    if (!done) free(m->bytes);
    return done;
}

bool pa_hub_next(pa_hub *h, pa_request *r, double wait) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    double end = (double)until.tv_sec + (double)until.tv_nsec * 1e-9 + wait;
    until = (struct timespec){(time_t)end, (long)((end - (double)(time_t)end) * 1e9)};
    pthread_mutex_lock(&h->lock);
    while (!h->request && !h->stopped && wait > 0)
        if (pthread_cond_timedwait(&h->asked, &h->lock, &until)) break;
    waiting *w = h->request;
    if (w) {
        h->request = w->next;
        if (!h->request) h->last = &h->request;
        client *c = find(h, w->request.client);
        if (c) c->waiting--;
        if (c) c->uploaded -= w->request.message.count;
        h->uploaded -= w->request.message.count;
        *r = w->request;
    }
    pthread_mutex_unlock(&h->lock);
    free(w);
    return w != NULL;
}

bool pa_hub_is_asked(pa_hub *h) {
    pthread_mutex_lock(&h->lock);
    bool asked = h->request || h->stopped;
    pthread_mutex_unlock(&h->lock);
    return asked;
}

void pa_hub_stop(pa_hub *h) {
    pthread_mutex_lock(&h->lock);
    h->stopped = true;
    pthread_cond_broadcast(&h->asked);
    pthread_mutex_unlock(&h->lock);
}

bool pa_hub_is_stopped(pa_hub *h) {
    pthread_mutex_lock(&h->lock);
    bool stopped = h->stopped;
    pthread_mutex_unlock(&h->lock);
    return stopped;
}

// ---- replies

static pa_reply *make_reply(const void *bytes, size_t count, bool binary, bool file) {
    pa_reply *r = malloc(sizeof *r + PA_ROOM_BEFORE + count);
    if (!r) return NULL;
    *r = (pa_reply){.count = count, .binary = binary, .file = file};
    if (count) memcpy(r->room + PA_ROOM_BEFORE, bytes, count);
    return r;
}

static void put_reply(pa_hub *h, client *c, pa_reply *r) {
    *c->last = r;
    c->last = &r->next;
    *(r->file ? &c->files : &c->unsent) += r->count;
    if (r->file) h->files += r->count;
}

void pa_hub_say(pa_hub *h, uint64_t id, const char *text, size_t length) {
    pa_reply *r = make_reply(text, length, false, false);
    bool first = false;
    pthread_mutex_lock(&h->lock);
    client *c = id ? find(h, id) : NULL;
    if (c && !c->slow && (!r || c->unsent + length > PA_MOST_UNSENT)) {
        drop_replies(h, c);
        c->slow = first = true;
    } else if (c && !c->slow) {
        first = !c->reply;
        put_reply(h, c, r);
        r = NULL;
    }
    pthread_mutex_unlock(&h->lock);
    free(r);
    if (first) h->wake(h->arg);
}

bool pa_hub_say_file(pa_hub *h, uint64_t id, const char *text, const void *bytes, size_t count) {
    size_t length = strlen(text);
    pa_reply *head = make_reply(text, length, false, true), *file = make_reply(bytes, count, true, true);
    bool first = false;
    pthread_mutex_lock(&h->lock);
    client *c = id ? find(h, id) : NULL;
    size_t all = length + count;
    bool fits =
        head && file && h->files + all <= PA_MOST_FILES_OF_ALL && (!c || !c->files || c->files + all <= PA_MOST_FILES);
    if (fits && c && !c->slow) {
        first = !c->reply;
        put_reply(h, c, head);
        put_reply(h, c, file);
        head = file = NULL;
    }
    pthread_mutex_unlock(&h->lock);
    free(head);
    free(file);
    if (first) h->wake(h->arg);
    return fits;
}

pa_reply *pa_hub_reply(pa_hub *h, uint64_t id, bool *more) {
    pthread_mutex_lock(&h->lock);
    client *c = id ? find(h, id) : NULL;
    pa_reply *r = c ? take_reply(h, c) : NULL;
    *more = c && c->reply;
    pthread_mutex_unlock(&h->lock);
    return r;
}

bool pa_hub_is_slow(pa_hub *h, uint64_t id) {
    pthread_mutex_lock(&h->lock);
    client *c = id ? find(h, id) : NULL;
    bool slow = c && c->slow;
    pthread_mutex_unlock(&h->lock);
    return slow;
}
