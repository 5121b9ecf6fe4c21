// comm.h: the ranks of one run: one process alone, as many as mpirun or srun started, or as many as find each other by a file. Sums over
// them, all at once or in buckets while the numbers are still being made. The backends see nothing else of the other ranks.
//
// Every sum is taken in the order of the ranks: ((x0 + x1) + x2) + ... Same ranks, same bits: whatever the timing, the size of the
// buckets, and what carries the messages. Every wait ends, by what was waited for or by an error: a rank that is gone is told at once, one
// that is silent after the timeout.
#ifndef PA_COMM_H
#define PA_COMM_H

#include "host/base/base.h"

typedef struct pa_links pa_links;
typedef struct {
    int rank, size;
    int local_rank, local_size; // among the ranks on this machine
    double timeout;             // of several: seconds that a rank waits for the others
    pa_links *links;            // to the others; NULL: alone
} pa_comm;

typedef struct {
    const char *rendezvous; // file, or folder, by which ranks find each other that were started one by one; NULL: mpirun or srun, or alone
    int rank, world;        // with rendezvous; below 0: as RANK and WORLD_SIZE, or Slurm, have it in the environment
    double timeout;         // seconds that a rank waits for the others
} pa_comm_options;

pa_comm pa_comm_single(void);
// Joins the ranks of this run. A process that was started alone is rank 0 of 1, and MPI is not touched. Without OMP_NUM_THREADS the cores
// of a machine are divided among its ranks. PA_USAGE where this build has no MPI and was started as one of several by it.
pa_status pa_comm_start(pa_comm *c, const pa_comm_options *o, pa_err *err);
// Leaves them, after all have come here.
void pa_comm_end(pa_comm *c);
// Leaves at once, after an error: the others end with one too. With MPI it ends them, and this process, with exit code `code`.
void pa_comm_abort(pa_comm *c, int code);

// Sums `count` numbers over all ranks, in place, the same on every rank.
pa_status pa_comm_sum_f32(pa_comm *c, float *data, size_t count, pa_err *err);
pa_status pa_comm_sum_f64(pa_comm *c, double *data, size_t count, pa_err *err); // at most PA_COMM_F64 of them
enum { PA_COMM_F64 = 64 };

typedef struct {
    size_t from, to;
} pa_span;

// Brings together what each rank has of a buffer: bytes [of[r].from, of[r].to) are rank r's, and are everyone's afterwards.
pa_status pa_comm_gather(pa_comm *c, void *data, const pa_span *of, pa_err *err);

// An array of floats that ranks share out among each other: cut into buckets from its end to its start, each bucket into as many shares.
size_t pa_comm_buckets(const pa_comm *c, size_t count);
pa_span pa_comm_share(const pa_comm *c, size_t count, size_t bucket, int rank); // whole multiples of 16 floats but at the end of all
size_t pa_comm_share_floats(const pa_comm *c, size_t count);                    // of this rank, over all buckets

// The sum of such an array while it is made, from its end to its start. After pa_comm_reduce_end it is there on every rank, or with
// `scatter` this rank's shares alone are, and the rest is spoilt.
pa_status pa_comm_reduce_begin(pa_comm *c, float *data, size_t count, bool scatter, pa_err *err);
// Numbers [from, count) are final. Sends and sums what it can without waiting; worth a call now and then with the same `from`.
pa_status pa_comm_reduce_ready(pa_comm *c, size_t from, pa_err *err);
pa_status pa_comm_reduce_end(pa_comm *c, pa_err *err); // all are final
// Brings the shares of such an array together.
pa_status pa_comm_gather_shares(pa_comm *c, float *data, size_t count, pa_err *err);
// The same of numbers [from, to) alone, of an array of which each rank keeps its shares only, one after the other in `own`; `out` is
// everyone's afterwards (own NULL: this rank's numbers are in `out` already). And its opposite, in which nothing is sent.
pa_status pa_comm_gather_part(pa_comm *c, const float *own, size_t count, size_t from, size_t to, float *out, pa_err *err);
void pa_comm_keep_part(const pa_comm *c, float *own, size_t count, size_t from, size_t to, const float *in);

// After a wait for the others by other means has come to nothing: names those that do not answer here either within `seconds`, "1, 3", or
// none. All that did not fall silent come here, and then end.
enum { PA_COMM_NAMES = 256 };
void pa_comm_silent(pa_comm *c, double seconds, char names[PA_COMM_NAMES]);

// Sent by this rank so far, and the seconds it waited for others; for measurements.
typedef struct {
    uint64_t bytes;
    double waited;
} pa_comm_traffic;
pa_comm_traffic pa_comm_sent(const pa_comm *c);

#endif
