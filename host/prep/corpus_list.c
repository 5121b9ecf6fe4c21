// corpus_list.c: the list of a corpus, in MAESTRO's two forms: CSV (RFC 4180: quoted fields with commas, quotes and
// line breaks) and JSON (an object a column, with a member a row). Only the columns split and midi_filename are read,
// found by their names.
#include "host/prep/corpus_list.h"

#include <cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "host/base/file.h"
#include "host/base/json.h"

enum { MOST_FIELDS = 256 };
static const char SPLIT[] = "split", NAME[] = "midi_filename";

// Takes a CSV apart in place, a record at a time.
typedef struct {
    char *at;
    int line, next_line; // of the current record; of what follows it
    char *field[MOST_FIELDS];
    int fields; // counted beyond MOST_FIELDS, but not kept
    bool unclosed;
} csv;

// Reads one field and returns what ended it: ',', '\n' or 0.
static char read_field(csv *c) {
    char *from = c->at, *to = from, *const field = from;
    if (c->fields < MOST_FIELDS) c->field[c->fields] = field;
    c->fields++;
    if (*from == '"') {
        for (from++; *from && (*from != '"' || from[1] == '"'); *to++ = *from++) {
            if (*from == '"') from++;
            if (*from == '\n') c->next_line++;
        }
        c->unclosed = !*from;
        if (*from) from++;
    }
    while (*from && *from != ',' && *from != '\n') *to++ = *from++;
    char end = *from;
    c->at = from + (end != 0);
    if (end != ',' && to > field && to[-1] == '\r') to--;
    *to = 0;
    c->next_line += end == '\n';
    return end;
}

static bool read_record(csv *c) {
    while (*c->at == '\n' || (*c->at == '\r' && c->at[1] == '\n')) c->next_line += *c->at++ == '\n'; // empty lines
    if (!*c->at) return false;
    c->line = c->next_line;
    c->fields = 0;
    c->unclosed = false;
    while (read_field(c) == ',') {}
    return true;
}

static int find_column(const csv *c, const char *name) {
    for (int i = 0; i < c->fields && i < MOST_FIELDS; i++)
        if (!strcmp(c->field[i], name)) return i;
    return -1;
}

static pa_status missing_column(const csv *c, const char *path, const char *name, pa_err *err) {
    char found[512] = "";
    for (int i = 0; i < c->fields && i < MOST_FIELDS; i++) {
        size_t used = strlen(found);
        snprintf(found + used, sizeof found - used, "%s%s", i ? "," : "", c->field[i]);
    }
    return pa_error(err, PA_DATA, "%s: line %d: expected a column %s, found the columns %s", path, c->line, name,
                    found);
}

// where: "line 2", "row 0".
static pa_status add(pa_corpus *c, const char *path, const char *where, const char *split, const char *name,
                     pa_err *err) {
    if (!*name) return pa_error(err, PA_DATA, "%s: %s: %s: expected a file, found nothing", path, where, NAME);
    for (pa_split s = 0; s < PA_SPLITS; s++)
        if (!strcmp(split, pa_split_name(s)))
            return pa_corpus_add(c, (pa_corpus_file){.name = (char *)name, .split = (uint8_t)s}, err);
    return pa_error(err, PA_DATA, "%s: %s: %s: expected train, validation or test, found '%s'", path, where, SPLIT,
                    split);
}

static pa_status read_csv(pa_corpus *corpus, const char *path, char *text, pa_err *err) {
    csv c = {.at = text, .next_line = 1};
    if (!strncmp(text, "\xef\xbb\xbf", 3)) c.at += 3;
    if (!read_record(&c)) return pa_error(err, PA_DATA, "%s: line 1: expected a header, found an empty file", path);
    int split = find_column(&c, SPLIT), name = find_column(&c, NAME), last = split > name ? split : name;
    if (split < 0) return missing_column(&c, path, SPLIT, err);
    if (name < 0) return missing_column(&c, path, NAME, err);
    while (read_record(&c)) {
        if (c.unclosed)
            return pa_error(err, PA_DATA, "%s: line %d: expected a closing quote, found the end of the file", path,
                            c.line);
        if (c.fields <= last)
            return pa_error(err, PA_DATA, "%s: line %d: expected at least %d fields, found %d", path, c.line, last + 1,
                            c.fields);
        char where[32];
        snprintf(where, sizeof where, "line %d", c.line);
        pa_status s = add(corpus, path, where, c.field[split], c.field[name], err);
        if (s) return s;
    }
    return PA_OK;
}

// The two columns have the same members in the same order in MAESTRO; else they are looked up.
static pa_status read_json(pa_corpus *corpus, const char *path, const char *text, pa_err *err) {
    size_t values = pa_json_values(text);
    if (values > PA_JSON_VALUES)
        return pa_error(err, PA_DATA, "%s: expected at most %d values in JSON, found %zu", path, PA_JSON_VALUES,
                        values);
    errno = 0;
    cJSON *json = cJSON_Parse(text);
    if (!json && errno == ENOMEM) return pa_error(err, PA_FAIL, "%s: no memory to read it", path);
    const cJSON *splits = cJSON_GetObjectItemCaseSensitive(json, SPLIT),
                *names = cJSON_GetObjectItemCaseSensitive(json, NAME);
    pa_status s = PA_OK;
    if (!json)
        s = pa_error(err, PA_DATA, "%s: expected JSON, found an error in it", path);
    else if (!cJSON_IsObject(splits) || !cJSON_IsObject(names))
        s = pa_error(err, PA_DATA, "%s: expected an object %s, as MAESTRO's list has it, found none", path,
                     cJSON_IsObject(splits) ? NAME : SPLIT);
    const cJSON *split = s ? NULL : splits->child, *name = s ? NULL : names->child;
    for (; split && !s; split = split->next) {
        const cJSON *own = name && !strcmp(name->string, split->string)
                               ? name
                               : cJSON_GetObjectItemCaseSensitive(names, split->string);
        char where[32];
        snprintf(where, sizeof where, "row %s", split->string);
        if (!cJSON_IsString(split) || !cJSON_IsString(own))
            s = pa_error(err, PA_DATA, "%s: %s: expected texts for %s and %s, found none", path, where, SPLIT, NAME);
        else
            s = add(corpus, path, where, split->valuestring, own->valuestring, err);
        if (name) name = name->next;
    }
    cJSON_Delete(json);
    return s;
}

pa_status pa_corpus_read_list(pa_corpus *c, const char *path, pa_err *err) {
    char *text;
    const char *dot = strrchr(path, '.');
    pa_status s = pa_read_text(path, &text, NULL, err);
    if (s) return s == PA_FAIL ? PA_USAGE : s;
    s = dot && !strcasecmp(dot, ".json") ? read_json(c, path, text, err) : read_csv(c, path, text, err);
    free(text);
    return s;
}
