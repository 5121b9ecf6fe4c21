// comm_tcp.h: messages between ranks over sockets, for ranks that were started one by one.
#ifndef PA_COMM_TCP_H
#define PA_COMM_TCP_H

#include "host/ranks/comm_link.h"

// On success c and *own are filled; the caller sets the links' timeout and carrier.
pa_status pa_tcp_start(pa_comm *c, const pa_comm_options *o, const pa_carrier **carrier, void **own, pa_err *err);

#endif
