// ranks.c: how fast ranks sum: an array of floats in buckets, as a backward pass has its gradients summed, with nothing
// computed meanwhile. Rank 0 prints, for each size: seconds (the least of a few), bus bandwidth (bytes that had to be
// sent / seconds), bytes sent against the least that any algorithm can send. Started as patrain is: by mpirun, or with
// --rendezvous FILE --rank K --world W.
#include <math.h>
#include <stdlib.h>

#include "host/base/cli.h"
#include "host/ranks/comm_start.h"

static pa_status measure(pa_comm *c, size_t floats, pa_err *err) {
    float *data = pa_alloc(floats * sizeof *data);
    pa_status s = data ? PA_OK : pa_error(err, PA_FAIL, "no memory for %zu floats", floats);
    double best = INFINITY, least = 2.0 * (c->size - 1) / c->size * (double)floats * sizeof *data;
    uint64_t sent = 0;
    for (int i = 0; i < 7 && !s; i++) {
        double here = 0;
        s = pa_comm_sum_f64(c, &here, 1, err); // all begin together
        uint64_t before = pa_comm_sent(c).bytes;
        double began = pa_clock();
        if (!s) s = pa_comm_sum_f32(c, data, floats, err);
        if (pa_clock() - began < best) best = pa_clock() - began;
        sent = pa_comm_sent(c).bytes - before;
    }
    free(data);
    if (!s && !c->rank)
        printf("%zu %.6f %.3f %.6f\n", floats * sizeof *data, best, least / best / 1e9,
               least ? (double)sent / least : 0.0);
    return s;
}

int main(int argc, char **argv) {
    const char *rendezvous = NULL;
    int64_t rank = -1, world = -1;
    int count;
    bool done;
    pa_err err = {""};
    const pa_option option[] = {
        {"rendezvous", PA_OPT_STRING, &rendezvous, "FILE", "as patrain's", "Ranks"},
        {"rank", PA_OPT_INT, &rank, "K", "as patrain's", NULL},
        {"world", PA_OPT_INT, &world, "W", "as patrain's", NULL},
    };
    const pa_program program = {.name = "pabench_ranks",
                                .summary = "Measures sums over ranks: bytes, seconds, GB/s, bytes sent / least.",
                                .usage = "FLOATS... [options]",
                                .example = "mpirun -n 2 pabench_ranks 1048576 16777216",
                                .option = option,
                                .options = sizeof option / sizeof *option};
    pa_status s = pa_cli_parse(&program, argc, argv, &count, &done, &err);
    if (s || done) return pa_cli_end(&program, s, &err);
    pa_comm c;
    s = pa_comm_start(
        &c, &(pa_comm_options){.rendezvous = rendezvous, .rank = (int)rank, .world = (int)world, .timeout = 60}, &err);
    for (int i = 1; i <= count && !s; i++) s = measure(&c, (size_t)strtoull(argv[i], NULL, 10), &err);
    int code = pa_cli_end(&program, s, &err);
    if (s)
        pa_comm_abort(&c, code);
    else
        pa_comm_end(&c);
    return code;
}
