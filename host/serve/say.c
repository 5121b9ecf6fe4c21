// say.c: see say.h.
#include "host/serve/say.h"

#include <stdlib.h>
#include <string.h>

enum { KEYS_A_MESSAGE = 2000, LONGEST_KEY = 40 };

static void say(pa_hub *h, uint64_t client, const char *text, int length) {
    if (length > 0) pa_hub_say(h, client, false, text, (size_t)length);
}

static int describe(char *out, size_t size, const char *is, const pa_take *t) {
    return snprintf(out, size,
                    "{\"is\":\"%s\",\"take\":%d,\"parent\":%d,\"begins\":%d,\"end\":%d,\"keys\":%zu,\"given\":%s}", is,
                    t->number, t->parent, t->begins, t->end, t->keys, t->given ? "true" : "false");
}

// What stands between quotation marks in JSON.
static void quote(const char *text, char *out, size_t size) {
    size_t n = 0;
    for (; *text && n + 2 < size; text++) {
        if (*text == '"' || *text == '\\') out[n++] = '\\';
        out[n++] = (unsigned char)*text < 32 ? ' ' : *text;
    }
    out[n] = 0;
}

void pa_say_session(pa_hub *h, const pa_session *s, const char *model, const char *piano) {
    char text[PA_MOST_TAKES * 160 + 2048], name[512];
    quote(model, name, sizeof name);
    int n =
        snprintf(text, sizeof text, "{\"is\":\"session\",\"session\":\"%s\",\"model\":\"%s\",\"piano\":%s,\"takes\":[",
                 s->id, name, piano);
    for (int i = 0; i < s->takes; i++) {
        if (i) text[n++] = ',';
        n += describe(text + n, sizeof text - (size_t)n, "take", &s->take[i]);
    }
    n += snprintf(text + n, sizeof text - (size_t)n, "]}");
    say(h, s->client, text, n);
}

void pa_say_take(pa_hub *h, const pa_session *s, const pa_take *t) {
    char text[256];
    say(h, s->client, text, describe(text, sizeof text, "take", t));
}

void pa_say_keys(pa_hub *h, const pa_session *s, const pa_take *t, size_t from) {
    while (from < t->keys) {
        size_t count = t->keys - from < KEYS_A_MESSAGE ? t->keys - from : KEYS_A_MESSAGE,
               size = 128 + count * LONGEST_KEY;
        char *text = malloc(size);
        if (!text) return;
        size_t n =
            (size_t)snprintf(text, size, "{\"is\":\"keys\",\"take\":%d,\"turn\":%.0f,\"keys\":[", t->number, s->turn);
        for (size_t i = 0; i < count; i++, from++) {
            const pa_stroke *k = &t->key[from];
            n += (size_t)snprintf(text + n, size - n, "%s%d,%d,%d,%d", i ? "," : "", k->step, k->pitch, k->velocity,
                                  k->model);
        }
        n += (size_t)snprintf(text + n, size - n, "]}");
        say(h, s->client, text, (int)n);
        free(text);
    }
}

void pa_say_event(pa_hub *h, const pa_session *s, const char *is, const pa_take *t, double number) {
    char text[128];
    say(h, s->client, text,
        snprintf(text, sizeof text, "{\"is\":\"%s\",\"take\":%d,\"number\":%.1f}", is, t->number, number));
}

void pa_say_error(pa_hub *h, uint64_t client, const char *message) {
    char text[2600], quoted[2400];
    quote(message, quoted, sizeof quoted);
    say(h, client, text, snprintf(text, sizeof text, "{\"is\":\"error\",\"text\":\"%s\"}", quoted));
}
