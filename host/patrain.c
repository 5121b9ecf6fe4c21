// patrain.c: the trainer's command line.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/base/cli.h"
#include "host/files/config_read.h"
#include "host/train/train.h"

// configs/v4.ini -> runs/v4
static void default_run(const char *config, char *run, size_t size) {
    const char *name = strrchr(config, '/');
    name = name ? name + 1 : config;
    size_t length = strlen(name);
    if (length > 4 && !strcmp(name + length - 4, ".ini")) length -= 4;
    snprintf(run, size, "runs/%.*s", (int)length, name);
}

static pa_status parse_precision(const char *name, pa_config *c, pa_err *err) {
    char text[64];
    snprintf(text, sizeof text, "train.precision=%s", name);
    return pa_config_set(c, text, err);
}

// An error of one rank ends all. Of ranks that share mpirun's output rank 0 tells what every rank saw; another speaks where rank 0 has not
// ended the run by then.
static int end(const pa_program *p, pa_status s, const pa_err *err, pa_comm *comm, bool alone) {
    bool failed = s && s != PA_STOPPED;
    for (unsigned left = failed && comm->rank && !alone ? 3 : 0; left;) left = sleep(left); // mpirun's SIGTERM would cut it short
    int code = pa_cli_end(p, s, err);
    if (failed)
        pa_comm_abort(comm, code);
    else
        pa_comm_end(comm);
    return code;
}

static int clamp(int64_t x) {
    return x > INT32_MAX ? INT32_MAX : x < -1 ? -1 : (int)x;
}

int main(int argc, char **argv) {
    const char *device = "auto", *precision = NULL, *run = NULL, *init = NULL, *rendezvous = NULL;
    int64_t rank = -1, world = -1;
    bool fresh = false, dry_run = false, print = false, done = false;
    char default_dir[4096];
    const pa_option option[] = {
        {"run-dir", PA_OPT_STRING, &run, "DIR", "where the run lives (default: runs/<name of CONFIG>); resumed where it has a checkpoint",
         "Run"},
        {"fresh", PA_OPT_FLAG, &fresh, NULL, "start anew: an existing run directory is moved aside, not removed", NULL},
        {"init", PA_OPT_STRING, &init, "FILE", "weights to start from: a checkpoint of ours or of perceiver_ar_pytorch", NULL},
        {"dry-run", PA_OPT_FLAG, &dry_run, NULL, "print parameters and the memory plan, run one step, write nothing", NULL},
        {"print-config", PA_OPT_FLAG, &print, NULL, "print the configuration, every key with its range and meaning, and end", NULL},
        {"device", PA_OPT_CHOICE, &device, "auto|cpu|cuda", "where to compute", "Device"},
        {"precision", PA_OPT_CHOICE, &precision, "auto|fp32|bf16|fp16", "of products and attention (default: train.precision)", NULL},
        {"rendezvous", PA_OPT_STRING, &rendezvous, "FILE",
         "of ranks that are not started by mpirun or srun: a file, or folder, that all can see", "Ranks"},
        {"rank", PA_OPT_INT, &rank, "K", "with --rendezvous: which one this is, from 0 (default: $RANK, $SLURM_PROCID)", NULL},
        {"world", PA_OPT_INT, &world, "W", "with --rendezvous: how many there are (default: $WORLD_SIZE, $SLURM_NTASKS)", NULL},
    };
    const pa_program program = {.name = "patrain",
                                .summary = "Trains a Perceiver AR model on token files made by paprep.",
                                .usage = "CONFIG.ini [section.key=value ...] [options]",
                                .example = "patrain configs/demo.ini train.minutes=5 --run-dir runs/demo",
                                .option = option,
                                .options = sizeof option / sizeof *option};
    pa_err err = {""};
    pa_config config = pa_config_default();
    int count = 0;
    pa_cli_spin_briefly(argv);
    pa_status s = pa_cli_parse(&program, argc, argv, &count, &done, &err);
    if (s || done) return pa_cli_end(&program, s, &err);
    if (!count && !print) s = pa_error(&err, PA_USAGE, "expected a configuration, CONFIG.ini, found none");
    int first = 1;
    if (!s && count && (!strchr(argv[1], '=') || !access(argv[1], F_OK))) s = pa_config_read(&config, argv[first++], &err);
    for (int i = first; !s && i <= count; i++) s = pa_config_set(&config, argv[i], &err);
    if (!s && first == 1 && !print) s = pa_error(&err, PA_USAGE, "expected a configuration, CONFIG.ini, first, found %s", argv[1]);
    if (!s && precision) s = parse_precision(precision, &config, &err);
    if (!s) s = pa_config_check(&config, &err);
    if (!s && print) {
        pa_config_print(&config, true, stdout);
        return pa_cli_end(&program, PA_OK, &err);
    }
    if (!s && !run) {
        default_run(argv[1], default_dir, sizeof default_dir);
        run = default_dir;
    }
    pa_train_options o = {.run = run, .init = init, .fresh = fresh, .dry_run = dry_run};
    o.comm = pa_comm_single();
    if (!s && !rendezvous && (rank >= 0 || world >= 0))
        s = pa_error(&err, PA_USAGE, "--rank, --world: expected --rendezvous FILE beside them, found none");
    pa_comm_options ranks = {.rendezvous = rendezvous, .rank = clamp(rank), .world = clamp(world), .timeout = config.train.timeout};
    if (!s) s = pa_comm_start(&o.comm, &ranks, &err);
    if (!s && !rendezvous && !dry_run && !o.comm.rank && o.comm.size > 1 && getenv("OMPI_COMM_WORLD_SIZE"))
        fprintf(stderr, "kill -USR1 %d saves and stops this run; Ctrl-C would end its ranks before that\n", (int)getppid());
    if (!s) s = pa_backend_choose(device, &o.backend, &err);
    if (!s) s = pa_train(&config, &o, &err);
    return end(&program, s, &err, &o.comm, rendezvous);
}
