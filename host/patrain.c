// patrain.c: the trainer's command line.
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/base/cli.h"
#include "host/files/config_read.h"
#include "host/files/model_path.h"
#include "host/files/weights.h"
#include "host/ranks/comm_start.h"
#include "host/train/train.h"

typedef struct {
    const char *device, *precision, *run_dir, *init, *rendezvous;
    int64_t rank, world;
    bool fresh, dry_run, no_save, print_config;
    const char *config_path; // CONFIG.ini, or NULL
    char **assignment;       // section.key=value ...
    int assignments;
} arguments;

// The positional arguments: CONFIG.ini unless the first one is an assignment, then assignments.
static pa_status split_positionals(arguments *a, char **argv, int count, pa_err *err) {
    bool has_path = count && (!strchr(argv[1], '=') || !access(argv[1], F_OK));
    if (has_path) a->config_path = argv[1];
    a->assignment = argv + 1 + has_path;
    a->assignments = count - has_path;
    if (has_path || a->init || a->print_config) return PA_OK;
    if (count) return pa_error(err, PA_USAGE, "expected CONFIG.ini or --init before settings, found %s", argv[1]);
    return pa_error(err, PA_USAGE, "expected CONFIG.ini or --init, found neither");
}

// The name of what --init names: runs/v1, runs/v1/best, runs/v1/checkpoints/step-00000100/model.safetensors -> v1.
static void init_name(const char *path, char *out, size_t size) {
    static const char *const skipped[] = {"", ".", "best", "latest", "model.safetensors", "checkpoints"};
    size_t end = strlen(path), start = end;
    snprintf(out, size, "model");
    for (bool skips = true; skips && end;) {
        for (start = end; start && path[start - 1] != '/';) start--;
        skips = !strncmp(path + start, "step-", 5);
        for (size_t i = 0; i < sizeof skipped / sizeof *skipped; i++)
            skips |= strlen(skipped[i]) == end - start && !strncmp(path + start, skipped[i], end - start);
        if (!skips) snprintf(out, size, "%.*s", (int)(end - start), path + start);
        end = start ? start - 1 : 0;
    }
    char *ending = strstr(out, ".safetensors");
    if (ending && !ending[12]) *ending = 0;
}

// configs/v4.ini -> runs/v4; without a configuration, --init runs/v1 -> runs/v1-tuned. A pipe's name, /dev/fd/63, names
// no run: the next pipe has the same one.
static pa_status default_run_dir(const arguments *a, char *out, size_t size, pa_err *err) {
    char name[256];
    struct stat info;
    if (!a->config_path) {
        init_name(a->init, name, sizeof name);
        snprintf(out, size, "runs/%s-tuned", name);
        return PA_OK;
    }
    const char *slash = strrchr(a->config_path, '/');
    snprintf(name, sizeof name, "%s", slash ? slash + 1 : a->config_path);
    size_t length = strlen(name);
    if (length >= 4 && !strcmp(name + length - 4, ".ini")) name[length - 4] = 0;
    bool is_file = !stat(a->config_path, &info) && S_ISREG(info.st_mode) && strncmp(a->config_path, "/dev/", 5);
    if (!is_file || !*name || !strcmp(name, ".") || !strcmp(name, ".."))
        return pa_error(err, PA_USAGE, "--run-dir: expected one, since %s does not name a run", a->config_path);
    snprintf(out, size, "runs/%s", name);
    return PA_OK;
}

// The [model] of --init replaces the defaults, so that only settings that are given can contradict it.
static pa_status take_model(const arguments *a, pa_config *c, pa_err *err) {
    pa_weights w;
    pa_status s = pa_weights_open(&w, a->init, NULL, NULL, err);
    if (!s) {
        c->model = w.model;
        pa_weights_close(&w);
        return PA_OK;
    }
    if (!w.foreign) return s;
    if (a->config_path) return PA_OK; // which describes it; loading checks the shapes
    return pa_error(err, PA_USAGE, "%s does not store its settings: expected CONFIG.ini, whose [model] describes it",
                    a->init);
}

// Without CONFIG.ini: train.safetensors is evaluated on the validation.safetensors beside it, any other file is not
// evaluated.
static void choose_validation(pa_config *c) {
    char path[sizeof c->data.validation];
    const char *slash = strrchr(c->data.train, '/'), *name = slash ? slash + 1 : c->data.train;
    int length = snprintf(path, sizeof path, "%.*svalidation.safetensors", (int)(name - c->data.train), c->data.train);
    bool found = !strcmp(name, "train.safetensors") && length < (int)sizeof path && !access(path, F_OK);
    memset(c->data.validation, 0, sizeof c->data.validation);
    if (found) memcpy(c->data.validation, path, (size_t)length);
}

static pa_status read_settings(const arguments *a, pa_config *c, pa_err *err) {
    pa_status s = PA_OK;
    bool validation = a->config_path;
    *c = pa_config_default();
    if (a->init && (s = take_model(a, c, err))) return s;
    if (a->config_path && (s = pa_config_read(c, a->config_path, err))) return s;
    for (int i = 0; i < a->assignments; i++) {
        if ((s = pa_config_set(c, a->assignment[i], err))) return s;
        validation |= !strncmp(a->assignment[i], "data.validation", 15);
    }
    if (!validation && a->init) choose_validation(c);
    if (a->precision) {
        char text[64];
        snprintf(text, sizeof text, "train.precision=%s", a->precision);
        if ((s = pa_config_set(c, text, err))) return s;
    }
    return pa_config_check(c, err);
}

// The command line as one string, quoted for a shell where needed; NULL if out of memory.
static char *join(int argc, char **argv) {
    char *text = NULL;
    size_t length;
    FILE *f = open_memstream(&text, &length);
    for (int i = 0; f && i < argc; i++) {
        bool plain =
            *argv[i] &&
            !argv[i][strspn(argv[i], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=.,:/@%")];
        fprintf(f, "%s%s", i ? " " : "", plain ? argv[i] : "'");
        for (const char *p = plain ? "" : argv[i]; *p; p++) fputs(*p == '\'' ? "'\\''" : (char[]){*p, 0}, f);
        if (!plain) fputc('\'', f);
    }
    if (f) fclose(f);
    return text;
}

static int clamp(int64_t x) {
    return x > INT32_MAX ? INT32_MAX : x < -1 ? -1 : (int)x;
}

static pa_status start_ranks(const arguments *a, const pa_config *c, pa_comm *comm, pa_err *err) {
    if (!a->rendezvous && (a->rank >= 0 || a->world >= 0))
        return pa_error(err, PA_USAGE, "--rank and --world need --rendezvous FILE");
    pa_comm_options o = {
        .rendezvous = a->rendezvous, .rank = clamp(a->rank), .world = clamp(a->world), .timeout = c->train.timeout};
    pa_status s = pa_comm_start(comm, &o, err);
    if (!s && !a->rendezvous && !a->dry_run && !comm->rank && comm->size > 1 && getenv("OMPI_COMM_WORLD_SIZE"))
        fprintf(stderr, "to save and stop: kill -USR1 %d (Ctrl-C would kill the ranks before they save)\n",
                (int)getppid());
    return s;
}

// An error on one rank ends all. With mpirun all ranks share its output: rank 0 prints an error that every rank had,
// and other ranks print only if rank 0 has not ended the run by then.
static int end(const pa_program *p, pa_status s, const pa_err *err, pa_comm *comm, bool own_output) {
    bool failed = s && s != PA_STOPPED;
    for (unsigned left = failed && comm->rank && !own_output ? 3 : 0; left;)
        left = sleep(left); // mpirun's SIGTERM would cut it short
    int code = pa_cli_end(p, s, err);
    if (failed)
        pa_comm_abort(comm, code);
    else
        pa_comm_end(comm);
    return code;
}

static pa_status train(const arguments *a, const pa_config *c, const char *command, pa_comm *comm, pa_err *err) {
    char run_dir[4096];
    pa_train_options o = {.run_dir = a->run_dir,
                          .init = a->init,
                          .command = command,
                          .fresh = a->fresh,
                          .dry_run = a->dry_run,
                          .no_save = a->no_save,
                          .comm = comm};
    pa_status s = a->run_dir ? PA_OK : default_run_dir(a, run_dir, sizeof run_dir, err);
    if (s) return s;
    if (!a->run_dir) o.run_dir = run_dir;
    if (!a->run_dir && !a->config_path && !comm->rank) fprintf(stderr, "run directory: %s\n", run_dir);
    s = start_ranks(a, c, comm, err);
    if (!s) s = pa_backend_choose(a->device, &o.backend, err);
    return s ? s : pa_train(c, &o, err);
}

int main(int argc, char **argv) {
    arguments a = {.device = "auto", .rank = -1, .world = -1};
    const pa_option option[] = {
        {"run-dir", PA_OPT_STRING, &a.run_dir, "DIR",
         "run directory; resumes if it has a checkpoint (default: runs/<name of CONFIG>, without CONFIG runs/<name of "
         "--init>-tuned)",
         "Run"},
        {"fresh", PA_OPT_FLAG, &a.fresh, NULL, "new run; an existing run directory is renamed, not removed", NULL},
        {"init", PA_OPT_STRING, &a.init, "CHECKPOINT",
         "starting weights and [model], from a run directory, checkpoint or model file; without CONFIG other settings "
         "have their defaults, and data.validation is the validation.safetensors beside data.train",
         NULL},
        {"dry-run", PA_OPT_FLAG, &a.dry_run, NULL,
         "parameters, memory, disk use and the time of one window; writes nothing", NULL},
        {"no-save", PA_OPT_FLAG, &a.no_save, NULL, "no checkpoint, not even at the end: for measurements", NULL},
        {"print-config", PA_OPT_FLAG, &a.print_config, NULL, "all settings with meaning, range and default", NULL},
        {"device", PA_OPT_CHOICE, &a.device, "auto|cpu|cuda", "device to train on", "Device"},
        {"precision", PA_OPT_CHOICE, &a.precision, "auto|fp32|bf16|fp16",
         "compute precision (default: train.precision)", NULL},
        {"rendezvous", PA_OPT_STRING, &a.rendezvous, "FILE",
         "file or folder shared by ranks that are started without mpirun or srun", "Ranks"},
        {"rank", PA_OPT_INT, &a.rank, "K", "this rank's number, from 0 (default: $RANK, $SLURM_PROCID)", NULL},
        {"world", PA_OPT_INT, &a.world, "W", "number of ranks (default: $WORLD_SIZE, $SLURM_NTASKS)", NULL},
    };
    const pa_program program = {.name = "patrain",
                                .summary = "Trains a Perceiver AR model on token files made by paprep.",
                                .usage = "CONFIG.ini [section.key=value ...] [options]\n"
                                         "--init CHECKPOINT [section.key=value ...] [options]",
                                .note = PA_CHECKPOINT_NOTE,
                                .example =
                                    "patrain configs/demo.ini train.minutes=5 --run-dir runs/demo\n"
                                    "patrain --init runs/v1 data.train=mine/train.safetensors train.epochs=3\n"
                                    "mpirun -n 2 patrain configs/v1.ini    as root add --allow-run-as-root,\n"
                                    "                                      for more ranks than cores --oversubscribe",
                                .option = option,
                                .options = sizeof option / sizeof *option};
    pa_err err = {""};
    pa_config config;
    pa_comm comm = pa_comm_single();
    int count = 0;
    bool done = false;
    pa_cli_spin_briefly(argv);
    char *command = join(argc, argv);
    pa_status s = pa_cli_parse(&program, argc, argv, &count, &done, &err);
    if (s || done) goto end;
    if ((s = split_positionals(&a, argv, count, &err)) || (s = read_settings(&a, &config, &err))) goto end;
    if (a.print_config)
        pa_config_print(&config, true, stdout);
    else
        s = train(&a, &config, command, &comm, &err);
end:
    free(command);
    return end(&program, s, &err, &comm, a.rendezvous);
}
