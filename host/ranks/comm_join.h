// comm_join.h: how ranks started one by one find each other.
#ifndef PA_COMM_JOIN_H
#define PA_COMM_JOIN_H

#include "host/ranks/comm_carrier.h"

// Connects to all ranks: a socket each in fd[world], -1 for this rank.
pa_status pa_tcp_join(pa_comm *c, const char *path, double timeout, int *fd, pa_err *err);

#endif
