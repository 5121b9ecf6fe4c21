// comm_link.h: what carries messages between ranks, for the files that make up comm.h and no others: MPI (comm_mpi.c) or sockets
// (comm_tcp.c). Between two ranks messages come in the order in which they were sent, and both know their sizes.
#ifndef PA_COMM_LINK_H
#define PA_COMM_LINK_H

#include "host/ranks/comm.h"

enum { PA_LINK_OUT, PA_LINK_IN };

// One message on its way, to a rank or from it.
typedef struct {
    char *at;
    size_t left;
    uint64_t request; // the carrier's own
} pa_move;

typedef struct {
    const char *name;
    pa_status (*begin)(pa_links *l, int peer, int way, pa_move *m, pa_err *err); // m->left > 0
    // Moves what it can without waiting: *moved says whether it did. The message is done once left is 0.
    pa_status (*advance)(pa_links *l, int peer, int way, pa_move *m, bool *moved, pa_err *err);
    void (*idle)(pa_links *l, double waited); // a short pause, while nothing moves
    void (*end)(pa_links *l);                 // all ranks are here
    void (*abort)(pa_links *l, int code);     // after an error of this rank
} pa_carrier;

enum { PA_QUEUE = 8 }; // messages on their way to a rank, or from it, at most
typedef struct {
    pa_move move[PA_QUEUE];
    uint64_t done, begun; // counts since the start
} pa_queue;

struct pa_links {
    const pa_carrier *carrier;
    void *own; // the carrier's
    int rank, size;
    double timeout;
    size_t bucket;        // floats
    pa_queue (*queue)[2]; // a rank: out, in
    uint64_t posted;      // exchanges; each is one message to every rank and one from it, some of them empty
    pa_comm_traffic sent;
    pa_span *span; // (size) of a sum of a few numbers

    float *data, *staging; // of the reduction that goes on: (bucket) the others' shares of what is being summed
    size_t count, ready, next;
    bool busy, reducing, scatter; // between begin and end; a bucket is on its way
    uint64_t reduction;
    double small[]; // (size, PA_COMM_F64)
};

pa_status pa_rank_gone(int rank, const char *why, pa_err *err);

#endif
