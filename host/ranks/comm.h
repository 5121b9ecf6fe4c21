// comm.h: the ranks of one run: a single process, the processes of an mpirun or srun, or processes that find each other
// by a file. Sums over them, all at once, or in buckets while later numbers are still being computed. Backends see
// nothing else of other ranks.
//
// Every sum adds in the order of the ranks: ((x0 + x1) + x2) + ... The same number of ranks gives the same bits
// whatever the timing, the size of the buckets and the carrier of messages. Every wait ends: a rank that exits is an
// error at once, a silent one after the timeout.
#ifndef PA_COMM_H
#define PA_COMM_H

#include "host/base/base.h"

typedef struct pa_peers pa_peers;
typedef struct {
    int rank, size;
    int local_rank, local_size; // among the ranks on this machine
    double timeout;             // with several ranks: seconds that one waits for the others
    pa_peers *peers;            // NULL: a single process
} pa_comm;

pa_comm pa_comm_single(void); // rank 0 of 1; pa_comm_start (comm_start.h) joins several
// Leaves the run, once all ranks have called this.
void pa_comm_end(pa_comm *c);
// Leaves at once after an error; the other ranks fail too. With MPI, ends all of them and this process with exit code
// `code`.
void pa_comm_abort(pa_comm *c, int code);
// The run is about to end: if a rank is lost while this one computes, this process exits with `code`, without an error.
// For any thread.
void pa_comm_expect_end(pa_comm *c, int code);

// Sums `count` numbers over all ranks, in place; every rank gets the same result.
pa_status pa_comm_sum_f32(pa_comm *c, float *data, size_t count, pa_err *err);
pa_status pa_comm_sum_f64(pa_comm *c, double *data, size_t count, pa_err *err); // at most PA_COMM_F64 of them
enum { PA_COMM_F64 = 64 };

typedef struct {
    size_t from, to;
} pa_span;

// Collects a buffer: bytes [of[r].from, of[r].to) come from rank r; afterwards every rank has all of them.
pa_status pa_comm_gather(pa_comm *c, void *data, const pa_span *of, pa_err *err);

// Where at least one rank has failed, and all of them know it: every rank returns the status and text of the first that
// has.
pa_status pa_comm_first_error(pa_comm *c, pa_status s, pa_err *err);

// How ranks divide an array of floats: into buckets from its end to its start, and each bucket into one share per rank.
size_t pa_comm_bucket(const pa_comm *c); // floats of a bucket
// Sets that, unless PATRAIN_BUCKET does. All ranks alike, before the first sum in buckets.
pa_status pa_comm_set_bucket(pa_comm *c, size_t floats, pa_err *err);
size_t pa_comm_buckets(const pa_comm *c, size_t count);
pa_span pa_comm_share(const pa_comm *c, size_t count, size_t bucket, int rank); // begins at a multiple of 16 floats
size_t pa_comm_share_floats(const pa_comm *c, size_t count);                    // this rank's, over all buckets

// Sums such an array while it is computed, from its end to its start. After pa_comm_reduce_end every rank has the sum;
// with `scatter` each rank has only its shares, and the rest of data is undefined.
pa_status pa_comm_reduce_begin(pa_comm *c, float *data, size_t count, bool scatter, pa_err *err);
// Numbers [from, count) are final. Sends and sums what it can without waiting; call it now and then, also with the same
// `from`.
pa_status pa_comm_reduce_ready(pa_comm *c, size_t from, pa_err *err);
pa_status pa_comm_reduce_end(pa_comm *c, pa_err *err); // all numbers are final
// Collects the shares of such an array.
pa_status pa_comm_gather_shares(pa_comm *c, float *data, size_t count, pa_err *err);
// Collects only numbers [from, to) of an array whose shares each rank keeps consecutively in `own`; every rank gets
// them in `out` (own NULL: this rank's numbers are in `out` already).
pa_status pa_comm_gather_part(pa_comm *c, const float *own, size_t count, size_t from, size_t to, float *out,
                              pa_err *err);

// Call after a timeout elsewhere (for example NCCL's), on every rank: lists the ranks that don't answer within
// `seconds`, as "1, 3", or "". Nothing but pa_comm_abort may follow.
enum { PA_COMM_NAMES = 256 };
void pa_comm_silent(pa_comm *c, double seconds, char names[PA_COMM_NAMES]);

// What this rank has sent so far, and the seconds it has waited for others; for measurements.
typedef struct {
    uint64_t bytes;
    double waited;
} pa_comm_traffic;
pa_comm_traffic pa_comm_sent(const pa_comm *c);

#endif
