// same_ranks.c: see same_ranks.h.
#include "host/train/same_ranks.h"

#include <stdlib.h>
#include <string.h>

#include "host/base/checksum.h"
#include "pa_commit.h"

// ---- facts

enum { RECORD = 256 };

// "optimizer.lr: rank 0 has 0.002, rank 1 has 0.001", of the first lines that differ.
static void describe(const char *section, const char *theirs, const char *mine, int rank, char out[RECORD]) {
    const char *named = *mine ? mine : theirs;
    int name = (int)strcspn(named, "=\n");
    char value[2][64];
    while (name && named[name - 1] == ' ') name--;
    for (int i = 0; i < 2; i++) {
        const char *line = i ? mine : theirs, *is = line + strcspn(line, "=\n");
        if (*is == '=') is += strspn(is, "= ");
        snprintf(value[i], sizeof value[i], "%.*s", (int)strcspn(is, "\n"), is);
    }
    snprintf(out, RECORD, "%.*s%s%.*s: rank 0 has %s, rank %d has %s", (int)strcspn(section, "]"), section,
             *section ? "." : "", name, named, *value[0] ? value[0] : "none", rank, *value[1] ? value[1] : "none");
}

static void first_difference(const char *theirs, const char *mine, int rank, char out[RECORD]) {
    const char *section = "";
    while (*theirs || *mine) {
        size_t a = strcspn(theirs, "\n"), b = strcspn(mine, "\n");
        if (a != b || memcmp(theirs, mine, a)) {
            describe(section, theirs, mine, rank, out);
            return;
        }
        if (*mine == '[') section = mine + 1;
        theirs += a + (theirs[a] == '\n');
        mine += b + (mine[b] == '\n');
    }
}

pa_status pa_same_facts(pa_comm *c, const char facts[PA_FACTS], pa_err *err) {
    size_t W = (size_t)c->size;
    if (W == 1) return PA_OK;
    char theirs[PA_FACTS] = "", (*record)[RECORD] = calloc(W, sizeof *record);
    pa_span *of = calloc(W, sizeof *of);
    pa_status s = record && of ? PA_OK : pa_error(err, PA_FAIL, "no memory");
    if (s) goto done;
    of[0].to = sizeof theirs;
    if (!c->rank) memcpy(theirs, facts, sizeof theirs);
    if ((s = pa_comm_gather(c, theirs, of, err))) goto done;
    theirs[sizeof theirs - 1] = 0;
    first_difference(theirs, facts, c->rank, record[c->rank]);
    for (size_t r = 0; r < W; r++) of[r] = (pa_span){r * sizeof *record, (r + 1) * sizeof *record};
    if ((s = pa_comm_gather(c, record, of, err))) goto done;
    for (size_t r = 0; r < W && !s; r++)
        if (*record[r]) s = pa_error(err, PA_USAGE, "%.*s; ranks of a run need the same", RECORD - 1, record[r]);
done:
    free(record);
    free(of);
    return s;
}

// An empty buffer as a stream; what does not fit is dropped.
static FILE *open_facts(char facts[PA_FACTS]) {
    memset(facts, 0, PA_FACTS);
    return fmemopen(facts, PA_FACTS - 1, "w");
}

pa_status pa_same_start(const pa_trainer *t, pa_err *err) {
    char facts[PA_FACTS];
    FILE *f = open_facts(facts);
    if (!f) return pa_error(err, PA_FAIL, "no memory");
    fprintf(f, "version = %s %s\n--device = %s\n--dry-run = %s\n", PA_VERSION, PA_COMMIT, t->run.backend->name,
            t->options->dry_run ? "true" : "false");
    pa_config c = *t->run.config;
    *c.data.train = *c.data.validation = 0; // paths may differ between machines, checksums not
    pa_config_print(&c, false, f);
    fprintf(f, "[checksum of data]\ntrain = %08x\nvalidation = %08x\n", t->run.corpus, t->validation.crc);
    fclose(f);
    return pa_same_facts(t->comm, facts, err);
}

pa_status pa_same_device(const pa_trainer *t, pa_err *err) {
    static const char *const names[] = {"auto", "fp32", "bf16", "fp16"};
    char facts[PA_FACTS];
    pa_hardware device = {0};
    FILE *f = open_facts(facts);
    if (!f) return pa_error(err, PA_FAIL, "no memory");
    if (t->run.ctx) {
        t->run.backend->describe(t->run.ctx, &device);
        fprintf(f, "precision = %s\n", names[t->run.backend->precision(t->run.ctx)]);
    }
    fprintf(f, "instruction set = %s\n", device.instruction_set);
    fclose(f);
    return pa_same_facts(t->comm, facts, err);
}

// ---- weights

pa_status pa_same_digest(pa_comm *c, uint32_t digest, int64_t step, pa_err *err) {
    size_t W = (size_t)c->size, most = 0, votes = 0, used = 0, others = 0;
    uint32_t *all = calloc(W, sizeof *all);
    pa_span *of = calloc(W, sizeof *of);
    char names[200] = "";
    pa_status s = all && of ? PA_OK : pa_error(err, PA_FAIL, "no memory");
    if (s) goto done;
    for (size_t r = 0; r < W; r++) of[r] = (pa_span){r * sizeof *all, (r + 1) * sizeof *all};
    all[c->rank] = digest;
    if ((s = pa_comm_gather(c, all, of, err))) goto done;
    for (size_t r = 0; r < W; r++) {
        size_t equal = 0;
        for (size_t q = 0; q < W; q++) equal += all[q] == all[r];
        if (equal <= votes) continue;
        votes = equal;
        most = r;
    }
    for (size_t r = 0; r < W && votes < W; r++)
        if (all[r] != all[most] && used < sizeof names - 16)
            used += (size_t)snprintf(names + used, sizeof names - used, "%s%zu", others++ ? ", " : "", r);
    if (others)
        s = pa_error(err, PA_FAIL, "weights of rank%s %s differ from rank %zu's at step %lld, which is not saved",
                     others > 1 ? "s" : "", names, most, (long long)step);
done:
    free(all);
    free(of);
    return s;
}

pa_status pa_same_weights(const pa_trainer *t, pa_err *err) {
    const pa_params *p = &t->params;
    uint32_t digest = 0;
    pa_status s = t->run.backend->check(t->run.ctx, err);
    if (s || t->comm->size == 1) return s;
    float *values = malloc(pa_params_largest(p) * sizeof *values);
    if (!values) s = pa_error(err, PA_FAIL, "no memory to compare weights");
    for (int i = 0; i < p->count && !s; i++) {
        s = t->run.backend->read(t->run.ctx, PA_PARAM, i, values, err);
        digest = pa_crc32c(digest, values, p->row[i].size * sizeof *values);
    }
    free(values);
    return s ? s : pa_same_digest(t->comm, digest, t->state.step, err);
}
