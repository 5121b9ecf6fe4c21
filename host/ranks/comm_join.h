// comm_join.h: how ranks that were started one by one find each other.
#ifndef PA_COMM_JOIN_H
#define PA_COMM_JOIN_H

#include "host/ranks/comm_link.h"

// Sockets to all ranks, in fd[world], -1 for this one.
pa_status pa_tcp_join(pa_comm *c, const char *path, double timeout, int *fd, pa_err *err);

#endif
