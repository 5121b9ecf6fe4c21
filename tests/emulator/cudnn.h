// cudnn.h: what the stand-in for cuDNN is to be, and how often it was asked to run.
#ifndef PA_EMULATOR_CUDNN_H
#define PA_EMULATOR_CUDNN_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { CUDNN_RIGHT, CUDNN_MISSING, CUDNN_REFUSES, CUDNN_FAILS, CUDNN_WRONG, CUDNN_NAN };
typedef struct {
    int is;
    size_t more_work; // that it wants than our kernels
    size_t once_work; // and for the deterministic pass
    int timed;        // calls that are timed, after the first one
    bool slow;        // those take 1,000 seconds by the events, otherwise no time
    int calls, pass;  // pass: of the last backward one
} emulator_cudnn_state;
extern emulator_cudnn_state emulator_cudnn;

#ifdef __cplusplus
}
#endif
#endif
