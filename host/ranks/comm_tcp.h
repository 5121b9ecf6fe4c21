// comm_tcp.h: carries messages between ranks over sockets, for ranks started one by one.
#ifndef PA_COMM_TCP_H
#define PA_COMM_TCP_H

#include "host/ranks/comm_carrier.h"

// Fills c and *own; the caller sets the peers' timeout and carrier.
pa_status pa_tcp_start(pa_comm *c, const pa_comm_options *o, const pa_carrier **carrier, void **own, pa_err *err);

#endif
