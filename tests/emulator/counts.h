// counts.h: what has been asked of the emulated runtime so far, for tests in C.
#ifndef PA_EMULATOR_COUNTS_H
#define PA_EMULATOR_COUNTS_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    size_t allocations; // of device and pinned memory
    size_t waits;    // calls that wait for the device: synchronisations and plain copies; of events, for those not yet
                     // reached
    size_t launches; // kernels, copies and events put into streams one by one
    size_t graphs;   // launched; what is in them is not counted above
} emulator_counts;
emulator_counts emulator_count(void);

#ifdef __cplusplus
}
#endif
#endif
