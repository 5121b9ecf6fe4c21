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
    uint64_t id; // 0: free
    int waiting; // requests
    pa_reply *reply, **last;
    size_t unsent; // bytes
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

static void drop_replies(client *c) {
    while (c->reply) {
        pa_reply *first = c->reply;
        c->reply = first->next;
        free(first);
    }
    c->last = &c->reply;
    c->unsent = 0;
}

void pa_hub_close(pa_hub *h) {
    if (!h) return;
    for (int i = 0; i < PA_MOST_CLIENTS; i++) drop_replies(&h->client[i]);
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
        drop_replies(c);
        c->id = 0;
        put(h, id, &(pa_message){.deed = PA_DO_LEAVE});
    }
    pthread_mutex_unlock(&h->lock);
}

bool pa_hub_ask(pa_hub *h, uint64_t id, const pa_message *m) {
    pthread_mutex_lock(&h->lock);
    client *c = find(h, id);
    bool full = !c || c->waiting >= PA_MOST_WAITING || h->uploaded + m->count > PA_MOST_UPLOADED;
    bool done = !full && put(h, id, m);
    if (done) c->waiting++;
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
        h->uploaded -= w->request.message.count;
        *r = w->request;
    }
    pthread_mutex_unlock(&h->lock);
    free(w);
    return w != NULL;
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

void pa_hub_say(pa_hub *h, uint64_t id, bool binary, const void *bytes, size_t count) {
    pa_reply *r = malloc(sizeof *r + PA_ROOM_BEFORE + count);
    bool first = false;
    pthread_mutex_lock(&h->lock);
    client *c = id ? find(h, id) : NULL;
    if (c && !c->slow && (!r || c->unsent + count > PA_MOST_UNSENT)) {
        drop_replies(c);
        c->slow = first = true;
    } else if (c && !c->slow) {
        r->next = NULL;
        r->count = count;
        r->binary = binary;
        memcpy(r->room + PA_ROOM_BEFORE, bytes, count);
        first = !c->reply;
        *c->last = r;
        c->last = &r->next;
        c->unsent += count;
        r = NULL;
    }
    pthread_mutex_unlock(&h->lock);
    free(r);
    if (first) h->wake(h->arg);
}

pa_reply *pa_hub_reply(pa_hub *h, uint64_t id, bool *more) {
    pthread_mutex_lock(&h->lock);
    client *c = id ? find(h, id) : NULL;
    pa_reply *r = c ? c->reply : NULL;
    if (r) {
        c->reply = r->next;
        c->unsent -= r->count;
        if (!c->reply) c->last = &c->reply;
    }
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
