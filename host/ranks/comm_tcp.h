// comm_tcp.h: carries messages between ranks over sockets, for ranks started one by one.
#ifndef PA_COMM_TCP_H
#define PA_COMM_TCP_H

#include "host/ranks/comm_carrier.h"

// Joins `world` ranks that find each other by the file `rendezvous`; rank or world below 0: from the environment.
pa_status pa_tcp_start(pa_comm *c, const char *rendezvous, int rank, int world, double timeout, pa_err *err);

#endif
