// message.c: see message.h.
#include "host/serve/message.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

#include "host/serve/take.h"

enum {
    TAKE = 1,
    TIME = 2,
    KEY = 4,
    TURN = 8,
    AT = 16,
    SECONDS = 32,
    TEMPERATURE = 64,
    DENSITY = 128,
    SEED = 256,
    NUMBER = 512,
    SESSION = 1024,
};

static const struct {
    const char *name;
    int fields, optional;
} deed[] = {[PA_DO_HELLO] = {"hello", SESSION, 0},
            [PA_DO_CONTINUE] = {"continue", TAKE | AT | SECONDS | TEMPERATURE | SEED, DENSITY | NUMBER},
            [PA_DO_DUET] = {"duet", TEMPERATURE | SEED, DENSITY},
            [PA_DO_HOW] = {"how", TEMPERATURE | DENSITY, 0},
            [PA_DO_KEY] = {"key", TIME | KEY, 0},
            [PA_DO_ANSWER] = {"answer", TIME | TURN, 0},
            [PA_DO_LISTEN] = {"listen", TIME, 0},
            [PA_DO_STOP] = {"stop", TIME, 0},
            [PA_DO_TAKE] = {"take", TAKE, 0},
            [PA_DO_DROP] = {"drop", TAKE, 0},
            [PA_DO_MIDI] = {"midi", TAKE, 0},
            [PA_DO_PAGE] = {"page", TAKE, 0}};

static const struct {
    const char *name;
    int field;
    size_t offset;
    double least, most;
    bool whole;
} number[] = {{"take", TAKE, offsetof(pa_message, take), 0, 1e9, true},
              {"time", TIME, offsetof(pa_message, time), 0, PA_LONGEST_TAKE, false},
              {"pitch", KEY, offsetof(pa_message, pitch), 0, 127, true},
              {"velocity", KEY, offsetof(pa_message, velocity), 0, 127, true},
              {"turn", TURN, offsetof(pa_message, turn), 0, 1e9, true},
              {"at", AT, offsetof(pa_message, at), 0, PA_LONGEST_TAKE, false},
              {"seconds", SECONDS, offsetof(pa_message, seconds), 1, 600, false},
              {"temperature", TEMPERATURE, offsetof(pa_message, temperature), 0, 2, false},
              {"density", DENSITY, offsetof(pa_message, density), 0.25, 4, false},
              {"seed", SEED, offsetof(pa_message, seed), 0, 4294967295.0, true},
              {"number", NUMBER, offsetof(pa_message, number), 1, PA_MOST_AT_ONCE, true}};
enum { NUMBERS = sizeof number / sizeof *number };

static pa_status read_session(const cJSON *value, pa_message *m, pa_err *err) {
    const char *text = cJSON_IsString(value) ? value->valuestring : NULL;
    size_t length = text ? strlen(text) : 0;
    if (!text || (length && length != PA_SESSION_ID) || strspn(text, "0123456789abcdef") != length)
        return pa_error(err, PA_DATA, "session: expected %d hexadecimal digits or none", PA_SESSION_ID);
    memcpy(m->session, text, length + 1);
    return PA_OK;
}

static pa_status read_number(const cJSON *value, int i, pa_message *m, pa_err *err) {
    double x = cJSON_IsNumber(value) ? value->valuedouble : (double)NAN;
    bool whole = number[i].whole;
    if (!(x >= number[i].least && x <= number[i].most) || (whole && x != floor(x)))
        return pa_error(err, PA_DATA, "%s: expected a%s number from %.10g to %.10g", number[i].name,
                        whole ? " whole" : "", number[i].least, number[i].most);
    memcpy((char *)m + number[i].offset, &x, sizeof x);
    return PA_OK;
}

// Every field of the object is one that the deed has, once, and none that it needs is missing.
static pa_status read_fields(const cJSON *object, int fields, int optional, pa_message *m, pa_err *err) {
    int known = 1 + !!(fields & SESSION), found = 0;
    for (const cJSON *item = object->child; item; item = item->next) found++;
    pa_status s = fields & SESSION ? read_session(cJSON_GetObjectItemCaseSensitive(object, "session"), m, err) : PA_OK;
    for (int i = 0; i < NUMBERS && !s; i++) {
        const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, number[i].name);
        if (!(number[i].field & (value ? fields | optional : fields))) continue;
        s = read_number(value, i, m, err);
        known++;
    }
    if (!s && found != known)
        s = pa_error(err, PA_DATA, "%s: expected %d fields, found %d", deed[m->deed].name, known, found);
    return s;
}

static pa_status read_object(const cJSON *object, pa_message *m, pa_err *err) {
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(object, "do");
    if (!cJSON_IsString(name)) return pa_error(err, PA_DATA, "expected an object with \"do\"");
    for (size_t i = 0; i < sizeof deed / sizeof *deed; i++) {
        if (strcmp(name->valuestring, deed[i].name)) continue;
        m->deed = (pa_deed)i;
        return read_fields(object, deed[i].fields, deed[i].optional, m, err);
    }
    return pa_error(err, PA_DATA, "do: unknown word '%.32s'", name->valuestring);
}

// As a byte or as an escape: cJSON's strings end there.
static bool has_nul(const char *text, size_t length) {
    static const char escape[] = "\\u0000";
    const size_t n = sizeof escape - 1;
    bool found = memchr(text, 0, length) != NULL;
    for (size_t i = 0; i + n <= length && !found; i++) found = !memcmp(text + i, escape, n);
    return found;
}

static bool is_space(const char *text, size_t length) {
    size_t n = 0;
    while (n < length && strchr(" \t\r\n", text[n])) n++;
    return n == length;
}

pa_status pa_message_parse(const char *text, size_t length, pa_message *m, pa_err *err) {
    *m = (pa_message){.density = 1, .number = 1};
    if (length > PA_LONGEST_MESSAGE)
        return pa_error(err, PA_DATA, "expected at most %d bytes, found %zu", PA_LONGEST_MESSAGE, length);
    if (has_nul(text, length)) return pa_error(err, PA_DATA, "expected a JSON object without NUL characters");
    const char *end = text;
    cJSON *object = cJSON_ParseWithLengthOpts(text, length, &end, false);
    pa_status s = PA_OK;
    if (!cJSON_IsObject(object))
        s = pa_error(err, PA_DATA, "expected a JSON object");
    else if (!is_space(end, (size_t)(text + length - end)))
        s = pa_error(err, PA_DATA, "expected one JSON object, found text after it");
    else
        s = read_object(object, m, err);
    cJSON_Delete(object);
    return s;
}
