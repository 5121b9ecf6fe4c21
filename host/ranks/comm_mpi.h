// comm_mpi.h: carries messages between ranks over MPI, point to point.
#ifndef PA_COMM_MPI_H
#define PA_COMM_MPI_H

#include "host/ranks/comm_carrier.h"

// Fills c and *own; the caller sets the peers' timeout and carrier.
pa_status pa_mpi_start(pa_comm *c, const pa_carrier **carrier, void **own, pa_err *err);

#endif
