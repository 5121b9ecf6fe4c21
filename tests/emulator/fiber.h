// fiber.h: stacks to switch between, for the emulator's threads. Knows nothing of CUDA.
#ifndef PA_EMULATOR_FIBER_H
#define PA_EMULATOR_FIBER_H

#include <stddef.h>

namespace emulator {

struct fiber;

// A fiber that begins in `main` (which never returns) when it is first switched to. Fibers live until the program ends.
fiber *fiber_create(void (*main)());
// From the fiber that runs now to `to`; NULL: to where the first switch came from. Returns when something switches
// back.
void fiber_switch(fiber *to);
fiber *fiber_self(); // NULL outside of all fibers

} // namespace emulator
#endif
