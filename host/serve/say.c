// say.c: see say.h.
#include "host/serve/say.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

enum { KEYS_A_MESSAGE = 2000, LONGEST_KEY = 40 };

// Where memory is short, nothing is sent.
static void say(pa_hub *h, uint64_t client, cJSON *object) {
    char *text = cJSON_PrintUnformatted(object);
    if (text) pa_hub_say(h, client, text, strlen(text));
    cJSON_free(text);
    cJSON_Delete(object);
}

static cJSON *begin(const char *is) {
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "is", is);
    return object;
}

static cJSON *describe(const pa_take *t) {
    cJSON *object = begin("take");
    cJSON_AddNumberToObject(object, "take", t->number);
    cJSON_AddNumberToObject(object, "parent", t->parent);
    cJSON_AddNumberToObject(object, "begins", t->begins);
    cJSON_AddNumberToObject(object, "end", t->end);
    cJSON_AddNumberToObject(object, "keys", (double)t->keys);
    cJSON_AddBoolToObject(object, "given", t->given);
    return object;
}

void pa_say_session(pa_hub *h, const pa_session *s, const char *model, const char *piano) {
    cJSON *object = begin("session");
    cJSON_AddStringToObject(object, "session", s->id);
    cJSON_AddStringToObject(object, "model", model);
    cJSON_AddRawToObject(object, "piano", piano);
    cJSON *takes = cJSON_AddArrayToObject(object, "takes");
    for (int i = 0; i < s->takes; i++) cJSON_AddItemToArray(takes, describe(&s->take[i]));
    say(h, s->client, object);
}

void pa_say_take(pa_hub *h, const pa_session *s, const pa_take *t) {
    say(h, s->client, describe(t));
}

void pa_say_keys(pa_hub *h, const pa_session *s, const pa_take *t, size_t from) {
    while (from < t->keys) {
        size_t count = t->keys - from < KEYS_A_MESSAGE ? t->keys - from : KEYS_A_MESSAGE,
               size = 128 + count * LONGEST_KEY;
        char *text = malloc(size);
        if (!text) return;
        size_t n = (size_t)snprintf(text, size, "{\"is\":\"keys\",\"take\":%d,\"turn\":%.0f,\"keys\":[", t->number,
                                    s->answer.turn);
        for (size_t i = 0; i < count; i++, from++) {
            const pa_stroke *k = &t->key[from];
            n += (size_t)snprintf(text + n, size - n, "%s%d,%d,%d,%d", i ? "," : "", k->step, k->pitch, k->velocity,
                                  k->model);
        }
        n += (size_t)snprintf(text + n, size - n, "]}");
        pa_hub_say(h, s->client, text, n);
        free(text);
    }
}

void pa_say_event(pa_hub *h, const pa_session *s, const char *is, const pa_take *t, double number) {
    char text[128];
    int n = snprintf(text, sizeof text, "{\"is\":\"%s\",\"take\":%d,\"number\":%.1f}", is, t->number, number);
    pa_hub_say(h, s->client, text, (size_t)n);
}

bool pa_say_file(pa_hub *h, uint64_t client, const char *is, int take, const void *bytes, size_t count) {
    char text[128];
    snprintf(text, sizeof text, "{\"is\":\"%s\",\"take\":%d,\"number\":%zu}", is, take, count);
    return pa_hub_say_file(h, client, text, bytes, count);
}

void pa_say_elsewhere(pa_hub *h, uint64_t client) {
    say(h, client, begin("elsewhere"));
}

void pa_say_error(pa_hub *h, uint64_t client, const char *message) {
    cJSON *object = begin("error");
    cJSON_AddStringToObject(object, "text", message);
    say(h, client, object);
}
