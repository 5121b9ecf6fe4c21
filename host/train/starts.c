// starts.c: see starts.h.
#include "host/train/starts.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/base/file.h"
#include "host/train/run_log.h"
#include "pa_commit.h"

static void processor_name(char *out, size_t size) {
    char line[512];
    FILE *f = fopen("/proc/cpuinfo", "re");
    snprintf(out, size, "unknown");
    while (f && fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon) continue;
        snprintf(out, size, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
        break;
    }
    if (f) fclose(f);
}

static cJSON *line_of(const pa_start *s) {
    char time[32], host[256] = "", processor[128], corpus[16];
    pa_time_text(time);
    gethostname(host, sizeof host - 1);
    processor_name(processor, sizeof processor);
    snprintf(corpus, sizeof corpus, "%08x", s->corpus);
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "time", time);
    cJSON_AddStringToObject(o, "version", PA_VERSION);
    cJSON_AddStringToObject(o, "commit", PA_COMMIT);
    cJSON_AddStringToObject(o, "host", host);
    cJSON_AddStringToObject(o, "processor", processor);
    cJSON_AddStringToObject(o, "backend", s->backend);
    cJSON_AddStringToObject(o, "device", *s->device.name ? s->device.name : processor);
    cJSON_AddStringToObject(o, "instruction_set", s->device.instruction_set);
    cJSON_AddNumberToObject(o, "threads", s->device.threads);
    cJSON_AddNumberToObject(o, "ranks", s->ranks);
    cJSON_AddStringToObject(o, "precision", s->precision);
    cJSON_AddBoolToObject(o, "deterministic", s->deterministic);
    cJSON_AddStringToObject(o, "corpus_crc32c", corpus);
    cJSON_AddNumberToObject(o, "step", (double)s->step);
    cJSON_AddStringToObject(o, "command", s->command);
    return o;
}

// The last line that parses; a crash may have torn the one after it.
static cJSON *last_line(const char *path) {
    char *text;
    size_t length;
    cJSON *last = NULL;
    if (access(path, F_OK) || pa_read_text(path, &text, &length, NULL)) return NULL;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        cJSON *parsed = cJSON_Parse(line);
        if (!parsed) continue;
        cJSON_Delete(last);
        last = parsed;
    }
    free(text);
    return last;
}

static void print_value(const cJSON *value, char *out, size_t size) {
    snprintf(out, size, "unknown");
    if (cJSON_IsString(value)) snprintf(out, size, "%s", value->valuestring);
    if (cJSON_IsNumber(value)) snprintf(out, size, "%d", value->valueint);
}

// A resumed run continues to the bit only where none of these changes.
static void print_changes(const cJSON *before, const cJSON *now, FILE *out) {
    static const char *const keys[] = {"device", "instruction_set", "threads", "ranks", "precision"};
    const char *start = "rounding will differ from the previous start: ";
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char was[128], is[128], name[32];
        print_value(cJSON_GetObjectItem(before, keys[i]), was, sizeof was);
        print_value(cJSON_GetObjectItem(now, keys[i]), is, sizeof is);
        if (!strcmp(was, is)) continue;
        snprintf(name, sizeof name, "%s", keys[i]);
        if (strchr(name, '_')) *strchr(name, '_') = ' ';
        fprintf(out, "%s%s was %s, is %s", start, name, was, is);
        start = "; ";
    }
    if (*start == ';') fputc('\n', out);
}

pa_status pa_starts_add(const char *run, const pa_start *start, FILE *out, pa_err *err) {
    char path[4096 + 32];
    pa_status status = PA_OK;
    snprintf(path, sizeof path, "%s/run.jsonl", run);
    cJSON *before = last_line(path), *now = line_of(start);
    char *text = cJSON_PrintUnformatted(now);
    int fd = pa_open_regular(path, O_RDWR | O_APPEND | O_CREAT, err);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "a+");
    if (f && !fseek(f, -1, SEEK_END) && fgetc(f) != '\n') fputc('\n', f); // after a line that a crash has torn
    if (fd < 0) {
        status = PA_FAIL;
    } else if (!text) {
        status = pa_error(err, PA_FAIL, "no memory");
    } else if (!f || fprintf(f, "%s\n", text) < 0 || fflush(f)) {
        status = pa_error(err, PA_FAIL, "cannot write %s: %s", path, strerror(errno));
    } else if (before) {
        print_changes(before, now, out);
    }
    if (f)
        fclose(f);
    else if (fd >= 0)
        close(fd);
    free(text);
    cJSON_Delete(before);
    cJSON_Delete(now);
    return status;
}
