// config_read.c: settings from INI text and from section.key=value. inih gets one line at a time, so that errors can
// name it. The ranges of keys are in config.c's schema.
#include "host/files/config_read.h"
#include "host/base/file.h"
#include "host/files/config_schema.h"

#include <ctype.h>
#include <ini.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- one value

// Accepts only a finite decimal number.
static bool parse_real(const char *value, double *x) {
    char *end;
    if (!*value || strspn(value, "0123456789+-.eE") != strlen(value)) return false;
    *x = strtod(value, &end);
    return !*end && isfinite(*x);
}

static pa_status refuse(const char *where, const pa_key *k, const char *value, pa_err *err) {
    char range[PA_KEY_TEXT_ROOM];
    double x;
    pa_key_range(k, range, sizeof range);
    if (!strstr(range, " to ") && !strstr(range, " most ") && parse_real(value, &x) &&
        x > k->high) { // so large that others needn't know
        size_t n = strlen(range);
        snprintf(range + n, sizeof range - n, " and at most %.16g", k->high);
    }
    return pa_error(err, PA_USAGE, "%s%s.%s: expected %s, found \"%.80s\"%s", where, k->section, k->key, range, value,
                    strlen(value) > 80 ? "..." : "");
}

static bool parse_number(const pa_key *k, const char *value, double *x) {
    *x = 0;
    if (k->automatic && !strcmp(value, "auto")) return true;
    if (!parse_real(value, x)) return false;
    if (k->type != PA_KEY_REAL && *x != floor(*x)) return false;
    return *x >= k->low && *x <= k->high && !(k->above_low && *x == k->low) && !(k->below_high && *x == k->high);
}

static int parse_name(const char *names, const char *value) {
    size_t length = strlen(value);
    for (int i = 0;; i++) {
        size_t n = strcspn(names, "|");
        if (n == length && !strncmp(names, value, n)) return i;
        if (!names[n]) return -1;
        names += n + 1;
    }
}

// Text must read back unchanged from a printed file, so it must not hold what inih strips or takes for a comment.
static bool text_fits(const pa_key *k, const char *value) {
    size_t n = strlen(value);
    if (n >= k->room) return false;
    if (n && (*value == ';' || isspace((unsigned char)*value) || isspace((unsigned char)value[n - 1]))) return false;
    for (const char *p = value; *p; p++)
        if (*p == '\n' || *p == '\r' || (isspace((unsigned char)*p) && p[1] == ';')) return false;
    return true;
}

static pa_status assign(pa_config *c, const char *where, const pa_key *k, const char *value, pa_err *err) {
    char *at = (char *)c + k->offset;
    double x;
    int which;
    switch (k->type) {
    case PA_KEY_TEXT:
        if (!text_fits(k, value)) return refuse(where, k, value, err);
        memset(at, 0, k->room);
        memcpy(at, value, strlen(value));
        break;
    case PA_KEY_BOOL:
        which = parse_name("false|no|off|0|true|yes|on|1", value);
        if (which < 0) return refuse(where, k, value, err);
        *(bool *)at = which >= 4;
        break;
    case PA_KEY_ENUM:
        which = parse_name(k->names, value);
        if (which < 0) return refuse(where, k, value, err);
        memcpy(at, &which, sizeof which);
        break;
    default:
        if (!parse_number(k, value, &x)) return refuse(where, k, value, err);
        x += 0.0; // no negative zero
        if (k->type == PA_KEY_INT)
            memcpy(at, &(int){(int)x}, sizeof(int));
        else if (k->type == PA_KEY_INT64)
            memcpy(at, &(int64_t){(int64_t)x}, sizeof(int64_t));
        else
            memcpy(at, &x, sizeof x);
    }
    return PA_OK;
}

// ---- which key

// Other programs' names for our keys.
// clang-format off
static const struct { const char *name, *key; } synonyms[] = {
    {"activation_checkpointing", "train.recompute"}, {"batch", "train.global_batch"},
    {"batch_size", "train.global_batch"}, {"block_size", "model.context"}, {"clip", "train.grad_clip"},
    {"context_length", "model.context"}, {"d_model", "model.dim"}, {"dtype", "train.precision"},
    {"epsilon", "optimizer.eps"}, {"eval_interval", "log.eval_every"}, {"gradient_checkpointing", "train.recompute"},
    {"gradient_clip", "train.grad_clip"}, {"hidden_size", "model.dim"}, {"iterations", "train.steps"},
    {"layers", "model.depth"}, {"learning_rate", "optimizer.lr"}, {"lr_scheduler", "optimizer.schedule"},
    {"max_grad_norm", "train.grad_clip"}, {"max_seq_len", "model.context"}, {"max_steps", "train.steps"},
    {"min_lr", "optimizer.final_lr"}, {"n_head", "model.heads"}, {"n_layer", "model.depth"},
    {"num_heads", "model.heads"}, {"num_layers", "model.depth"}, {"optimizer", "optimizer.name"},
    {"random_seed", "train.seed"}, {"save_every", "checkpoint.every"}, {"save_interval", "checkpoint.every"},
    {"scheduler", "optimizer.schedule"}, {"seq_len", "model.context"}, {"vocab_size", "model.vocab"},
    {"warmup_steps", "optimizer.warmup"}, {"wd", "optimizer.weight_decay"},
};
// clang-format on

static pa_status unknown_section(const char *where, const char *section, pa_err *err) {
    const pa_key *near = pa_keys;
    for (const pa_key *k = pa_keys; k < pa_keys + pa_key_count; k++)
        if (pa_edit_distance(section, k->section) < pa_edit_distance(section, near->section)) near = k;
    if (2 * pa_edit_distance(section, near->section) <= strlen(near->section))
        return pa_error(err, PA_USAGE, "%sunknown section '[%.80s]' (did you mean '[%s]'?)", where, section,
                        near->section);
    return pa_error(err, PA_USAGE, "%sunknown section '[%.80s]' (patrain --print-config lists all)", where, section);
}

static pa_status check_section(const char *where, const char *section, pa_err *err) {
    for (const pa_key *k = pa_keys; k < pa_keys + pa_key_count; k++)
        if (!strcmp(section, k->section)) return PA_OK;
    return unknown_section(where, section, err);
}

static pa_status unknown_key(const char *where, const char *section, const char *key, pa_err *err) {
    char guess[64] = "";
    size_t least = SIZE_MAX;
    for (const pa_key *k = pa_keys; k < pa_keys + pa_key_count; k++) {
        size_t off = pa_edit_distance(key, k->key),
               d = 2 * off + (strcmp(section, k->section) != 0); // prefers the same section
        if (d >= least || 2 * off > strlen(k->key)) continue;
        least = d;
        snprintf(guess, sizeof guess, "%s.%s", k->section, k->key);
    }
    for (size_t i = 0; i < sizeof synonyms / sizeof *synonyms; i++)
        if (!strcmp(key, synonyms[i].name)) snprintf(guess, sizeof guess, "%s", synonyms[i].key);
    if (*guess)
        return pa_error(err, PA_USAGE, "%sunknown key '%s.%.80s' (did you mean '%s'?)", where, section, key, guess);
    return pa_error(err, PA_USAGE, "%sunknown key '%s.%.80s' (patrain --print-config lists all)", where, section, key);
}

// Sets one key from text. `where` starts the message ("FILE:12: " or ""); *row (may be NULL) is the key's index.
static pa_status set_key(pa_config *c, const char *where, const char *section, const char *key, const char *value,
                         int *row, pa_err *err) {
    pa_status s = check_section(where, section, err);
    if (s) return s;
    for (const pa_key *k = pa_keys; k < pa_keys + pa_key_count; k++) {
        if (strcmp(section, k->section) || strcmp(key, k->key)) continue;
        if (row) *row = (int)(k - pa_keys);
        return assign(c, where, k, value, err);
    }
    return unknown_key(where, section, key, err);
}

static char *strip(char *s) {
    size_t n = strlen(s);
    while (n && isspace((unsigned char)s[n - 1])) s[--n] = 0;
    while (isspace((unsigned char)*s)) s++;
    return s;
}

pa_status pa_config_set(pa_config *c, const char *assignment, pa_err *err) {
    pa_status s = PA_OK;
    char *section = strdup(assignment), *equals, *dot;
    if (!section) return pa_error(err, PA_FAIL, "no memory");
    equals = strchr(section, '=');
    if (equals) *equals = 0;
    dot = strchr(section, '.');
    if (!equals || !dot) {
        s = pa_error(err, PA_USAGE, "expected section.key=value, found \"%.80s\"", assignment);
    } else {
        *dot = 0;
        s = set_key(c, "", strip(section), strip(dot + 1), strip(equals + 1), NULL, err);
    }
    free(section);
    return s;
}

// ---- INI text

typedef struct {
    pa_config c;
    const char *name, *text, *end; // text: the unread rest
    char *line;                    // the current line, without comment and surrounding space
    bool cut;                      // inih got only the start of the line
    int number;                    // line number, from 1
    int *seen;                     // line number of each key of the schema, or 0
    pa_status status;              // of the first error, which ends reading
    pa_err *err;
} reader;

typedef struct {
    char text[512];
} place;

static place where(const reader *r) {
    place p;
    snprintf(p.text, sizeof p.text, "%.400s:%d: ", r->name, r->number);
    return p;
}

// Copies the next line to r->line, without its comment and its indentation, which inih would take for a continuation. A
// line ends with LF, CR LF or CR.
static void next_line(reader *r) {
    const char *start = r->text, *stop = start;
    while (stop < r->end && *stop != '\n' && *stop != '\r') stop++;
    size_t n = (size_t)(stop - start), kept = 0;
    if (stop < r->end) stop += *stop == '\r' && stop + 1 < r->end && stop[1] == '\n' ? 2 : 1;
    r->text = stop;
    if (++r->number == 1 && n >= 3 && !memcmp(start, "\xef\xbb\xbf", 3)) { // byte order mark
        start += 3;
        n -= 3;
    }
    if (memchr(start, 0, n)) r->status = pa_error(r->err, PA_USAGE, "%sexpected text, found a NUL byte", where(r).text);
    for (; n && isspace((unsigned char)*start); n--) start++;
    while (kept < n && !(start[kept] == ';' && (!kept || isspace((unsigned char)start[kept - 1])))) kept++;
    while (kept && isspace((unsigned char)start[kept - 1])) kept--;
    memcpy(r->line, start, kept);
    r->line[kept] = 0;
}

// inih ignores a section without keys, and text after its bracket.
static pa_status check_section_line(const reader *r) {
    char section[128];
    const char *close = strchr(r->line, ']');
    if (!close || close[1])
        return pa_error(r->err, PA_USAGE, "%sexpected \"[section]\" and nothing after it, found \"%.80s\"",
                        where(r).text, r->line);
    snprintf(section, sizeof section, "%.*s", (int)(close - r->line - 1 < 100 ? close - r->line - 1 : 100),
             r->line + 1);
    return check_section(where(r).text, section, r->err);
}

// inih's reader: one whole line a call.
static char *read_line(char *out, int size, void *user) {
    reader *r = user;
    if (r->status || r->text == r->end) return NULL;
    next_line(r);
    if (!r->status && *r->line == '[') r->status = check_section_line(r);
    r->cut = snprintf(out, (size_t)size, "%s", r->status ? "" : r->line) >= size;
    return out;
}

// inih's handler: one key a call.
static int take_key(void *user, const char *section, const char *key, const char *value) {
    reader *r = user;
    int row = 0;
    if (r->cut) {
        value = r->line + strcspn(r->line, "=:") + 1;
        while (isspace((unsigned char)*value)) value++;
    }
    if (!*section) {
        r->status = pa_error(r->err, PA_USAGE, "%sexpected a [section] before the first key, found '%.80s'",
                             where(r).text, key);
        return 0;
    }
    r->status = set_key(&r->c, where(r).text, section, key, value, &row, r->err);
    if (!r->status && r->seen[row])
        r->status = pa_error(r->err, PA_USAGE, "%sduplicate key '%s.%s', already set in line %d", where(r).text,
                             section, key, r->seen[row]);
    r->seen[row] = r->number;
    return !r->status;
}

pa_status pa_config_parse(pa_config *c, const char *name, const char *text, size_t length, pa_err *err) {
    reader r = {.c = *c, .name = name, .text = text, .end = text + length, .err = err};
    r.line = malloc(length + 1);
    r.seen = calloc((size_t)pa_key_count, sizeof *r.seen);
    if (!r.line || !r.seen) {
        r.status = pa_error(err, PA_FAIL, "%s: no memory", name);
        goto done;
    }
    int line = ini_parse_stream(read_line, &r, take_key, &r);
    if (line && (!r.status || line < r.number)) // inih continues after a line that it can't read
        r.status =
            pa_error(err, PA_USAGE, "%.400s:%d: expected \"key = value\" or \"[section]\", found neither", name, line);
    if (!r.status) *c = r.c;
done:
    free(r.line);
    free(r.seen);
    return r.status;
}

pa_status pa_config_read(pa_config *c, const char *path, pa_err *err) {
    char *text;
    size_t length;
    if (pa_read_text(path, &text, &length, err)) return PA_USAGE; // a missing configuration is a usage error
    pa_status s = pa_config_parse(c, path, text, length, err);
    free(text);
    return s;
}
