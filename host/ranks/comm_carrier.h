// comm_carrier.h: what carries messages between ranks: MPI (comm_mpi.c) or sockets (comm_tcp.c). Private to
// host/ranks/. Two ranks' messages arrive in the order in which they were sent, and both ranks know their sizes.
#ifndef PA_COMM_CARRIER_H
#define PA_COMM_CARRIER_H

#include "host/ranks/comm.h"

enum { PA_SEND, PA_RECEIVE };

// One message in flight, to or from a rank.
typedef struct {
    char *at;
    size_t left;
    uint64_t request; // for the carrier
} pa_move;

typedef struct {
    pa_status (*begin)(pa_peers *l, int peer, int way, pa_move *m, pa_err *err); // m->left > 0; NULL: nothing to do
    // Moves what it can without waiting and sets *moved if it did. The message is complete when left is 0.
    pa_status (*advance)(pa_peers *l, int peer, int way, pa_move *m, bool *moved, pa_err *err);
    void (*idle)(pa_peers *l, double waited);  // pauses briefly when nothing moves
    void (*end)(pa_peers *l);                  // called when all ranks have arrived
    void (*abort)(pa_peers *l, int code);      // called after an error on this rank
    void (*expect_end)(pa_peers *l, int code); // pa_comm_expect_end; NULL: nothing to do
} pa_carrier;

enum { PA_QUEUE = 8 }; // messages in flight to a rank, or from it, at most
typedef struct {
    pa_move move[PA_QUEUE];
    uint64_t done, begun; // messages since the start
} pa_queue;

struct pa_peers {
    const pa_carrier *carrier;
    void *own; // the carrier's state
    int rank, size;
    double timeout;
    size_t bucket;        // floats
    pa_queue (*queue)[2]; // (size): PA_SEND, PA_RECEIVE
    uint64_t posted;      // exchanges: in each, every pair of ranks sends a message both ways, possibly empty
    pa_comm_traffic sent;
    pa_span *span; // (size) scratch for sums of a few numbers

    float *data, *staging; // of the current reduction; staging (bucket): the other ranks' parts of this rank's share
    size_t count, ready, next;
    bool busy, reducing, scatter; // busy: between begin and end; reducing: a bucket is in flight
    uint64_t reduction;
    double small[]; // (size, PA_COMM_F64)
};

// For a carrier: the messages of c->size ranks go over it from now on; own is its state.
pa_status pa_comm_carry(pa_comm *c, const pa_carrier *carrier, void *own, double timeout, pa_err *err);
// Returns the error that rank `rank` is lost.
pa_status pa_rank_lost(int rank, const char *why, pa_err *err);

#endif
