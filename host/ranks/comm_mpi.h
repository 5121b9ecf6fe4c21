// comm_mpi.h: carries messages between ranks over MPI, point to point.
#ifndef PA_COMM_MPI_H
#define PA_COMM_MPI_H

#include "host/ranks/comm_carrier.h"

// Joins the ranks that mpirun or srun started.
pa_status pa_mpi_start(pa_comm *c, double timeout, pa_err *err);

#endif
