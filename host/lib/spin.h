// spin.h: how long OpenMP threads spin before they sleep, in a process that is not ours.
#ifndef PA_SPIN_H
#define PA_SPIN_H

// Shortens it, once per process, unless OMP_WAIT_POLICY or GOMP_SPINCOUNT is set. Does nothing with another OpenMP than
// GCC's.
void pa_spin_briefly(void);

#endif
