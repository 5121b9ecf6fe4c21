// runtime.cpp: the runtime API of the stand-in cuda_runtime.h, on plain memory. What a stream is asked for is done at
// once, in order, or (PA_EMULATOR_SEED odd, as it is unless set) only when someone waits for it: a host that reads too
// early, or writes what is still to be read, is found out by one of the two.
#include <cuda_runtime.h>

#include "tests/emulator/counts.h"
#include "tests/emulator/emulator.h"
#include "tests/emulator/gpus.h"

#include <map>
#include <memory>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

typedef std::function<bool()> work; // false: not yet, to be asked again

struct CUgraph_st {
    std::vector<work> nodes;
};
struct CUgraphExec_st {
    std::shared_ptr<const std::vector<work>> nodes;
};
struct CUstream_st {
    std::vector<work> queue;
    CUgraph_st *capture = nullptr;
    CUstream_st *origin = nullptr; // whose capture it has joined
    bool loose = false;            // and has not come back to
    bool invalid = false;          // the capture
    bool blocking = false;         // the null stream waits for it
    bool running = false;
};
struct CUevent_st {
    cudaStream_t on = nullptr;
    double when = 0;              // seconds
    uint64_t asked = 0, done = 0; // records
    bool captured = false;
    bool pending() const {
        return done < asked;
    }
};

namespace emulator {

static cudaError_t last = cudaSuccess;
static std::map<char *, size_t> device, pinned;
static size_t used;
static std::map<const void *, int> dynamic_limit; // by kernel
static CUstream_st null_stream;
static std::vector<cudaStream_t> streams = {&null_stream};

static emulator_counts counts;
static uint64_t stream_waits;
static cudaError_t broken = cudaSuccess; // once set, nothing works any more

cudaError_t failed(cudaError_t e) {
    if (e) last = e;
    return e;
}

static CUstream_st *real(cudaStream_t s) {
    return s ? s : &null_stream;
}

// Does what can be done; false where something must be waited for.
static bool progress(CUstream_st *s) {
    if (s->running) return false;
    s->running = true;
    size_t done = 0;
    while (done < s->queue.size() && s->queue[done]()) done++;
    s->queue.erase(s->queue.begin(), s->queue.begin() + (ptrdiff_t)done);
    s->running = false;
    return s->queue.empty();
}
static void finish(CUstream_st *s) {
    while (!progress(s) && !s->running) usleep(50);
}
static void finish_all() {
    for (cudaStream_t s : streams) finish(s);
}
static void finish_null() {
    for (cudaStream_t s : streams)
        if (s == &null_stream || s->blocking) finish(s);
}

// A wait that was asked to fail does, and leaves the device as a fault does.
static cudaError_t waited() {
    counts.waits++;
    if (settings.error && ++stream_waits == settings.error_at) broken = (cudaError_t)settings.error;
    return broken ? failed(broken) : cudaSuccess;
}

void enqueue_waiting(cudaStream_t stream, work w) {
    CUstream_st *s = real(stream);
    if (broken) return;
    counts.launches += !s->capture;
    s->loose = s->origin;
    if (s->capture) {
        s->capture->nodes.push_back(std::move(w));
        return;
    }
    if (s->blocking) finish(&null_stream); // which such a stream waits for
    s->queue.push_back(std::move(w));
    if (seed() % 2 == 0) progress(s);
}
void enqueue(cudaStream_t stream, std::function<void()> w) {
    enqueue_waiting(stream, [w = std::move(w)] { return w(), true; });
}

// Calls that may not be made while this thread captures: they fail, and so does the capture.
static bool forbidden() {
    bool any = false;
    for (cudaStream_t s : streams)
        if (s->capture) any = s->invalid = true;
    return any;
}
#define NOT_WHILE_CAPTURING                                                                                            \
    if (forbidden()) return failed(cudaErrorStreamCaptureUnsupported)

static bool within(const std::map<char *, size_t> &of, const void *p, size_t bytes) {
    char *c = (char *)p;
    auto after = of.upper_bound(c);
    if (after == of.begin()) return false;
    --after;
    return c + bytes <= after->first + after->second;
}

// Whether memory is where the kind says.
static cudaError_t check_copy(const void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    if (!bytes) return cudaSuccess;
    if (!to || !from) return cudaErrorInvalidValue;
    const bool to_device = within(device, to, bytes), from_device = within(device, from, bytes);
    const bool wants_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool wants_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind != cudaMemcpyDefault && (wants_to != to_device || wants_from != from_device)) return cudaErrorInvalidValue;
    return cudaSuccess;
}

cudaError_t function_attributes(cudaFuncAttributes *a, const void *kernel) {
    if (!usable()) return failed(absent());
    const auto limit = dynamic_limit.find(kernel);
    *a = {};
    a->maxThreadsPerBlock = 1024, a->ptxVersion = a->binaryVersion = architecture();
    a->maxDynamicSharedSizeBytes = limit == dynamic_limit.end() ? 48 << 10 : limit->second;
    return cudaSuccess;
}

cudaError_t set_function_attribute(const void *kernel, cudaFuncAttribute attribute, int value) {
    if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        if (value < 0 || value > most_shared()) return failed(cudaErrorInvalidValue);
        dynamic_limit[kernel] = value;
    }
    return cudaSuccess;
}

cudaError_t check_launch(const void *kernel, dim3 grid, dim3 block, size_t shared) {
    const auto limit = dynamic_limit.find(kernel);
    if (broken) return failed(broken);
    const uint64_t threads = (uint64_t)block.x * block.y * block.z;
    if (!architecture()) return failed(absent());
    if (!threads || threads > 1024 || block.z > 64 || !grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff ||
        grid.y > 65535 || grid.z > 65535)
        return failed(cudaErrorInvalidConfiguration);
    if (shared > (size_t)(limit == dynamic_limit.end() ? 48 << 10 : limit->second))
        return failed(cudaErrorInvalidValue);
    return cudaSuccess;
}

static cudaError_t allocate(std::map<char *, size_t> &in, void **p, size_t bytes) {
    NOT_WHILE_CAPTURING;
    if (!usable()) return failed(absent());
    *p = nullptr;
    if (!bytes) return cudaSuccess;
    if (broken) return failed(broken);
    if (&in == &device && bytes > memory() - used) return failed(cudaErrorMemoryAllocation);
    // Exactly as many as asked for, so that the address sanitizer sees what lies beyond; no number until something is
    // written.
    counts.allocations++;
    if (posix_memalign(p, 256, bytes)) return failed(cudaErrorMemoryAllocation);
    memset(*p, 0xff, bytes);
    in[(char *)*p] = bytes;
    if (&in == &device) used += bytes;
    return cudaSuccess;
}

static cudaError_t release(std::map<char *, size_t> &from, void *p) {
    NOT_WHILE_CAPTURING;
    if (!p) return cudaSuccess;
    const auto at = from.find((char *)p);
    if (at == from.end()) return failed(cudaErrorInvalidValue);
    finish_all(); // cudaFree waits for the device
    if (&from == &device) used -= at->second;
    from.erase(at);
    free(p);
    return cudaSuccess;
}

double ahead;
static double now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec + ahead;
}

} // namespace emulator

using namespace emulator;

extern "C" {

emulator_counts emulator_count(void) {
    return counts;
}

cudaError_t cudaGetLastError(void) {
    const cudaError_t e = last;
    last = cudaSuccess;
    return e;
}
cudaError_t cudaPeekAtLastError(void) {
    return last;
}

cudaError_t cudaDeviceSynchronize(void) {
    NOT_WHILE_CAPTURING;
    finish_all();
    return waited();
}

cudaError_t cudaMalloc(void **p, size_t bytes) {
    return allocate(device, p, bytes);
}
cudaError_t cudaFree(void *p) {
    return release(device, p);
}
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned) {
    return allocate(pinned, p, bytes);
}
cudaError_t cudaMallocHost(void **p, size_t bytes) {
    return allocate(pinned, p, bytes);
}
cudaError_t cudaFreeHost(void *p) {
    return release(pinned, p);
}
cudaError_t cudaMemGetInfo(size_t *left, size_t *all) {
    *left = memory() - used, *all = memory();
    return cudaSuccess;
}

// On the null stream, which waits for all but non-blocking ones.
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    NOT_WHILE_CAPTURING;
    const cudaError_t e = broken ? broken : check_copy(to, from, bytes, kind);
    counts.waits++;
    finish_null();
    if (e || !bytes) return failed(e);
    if (!within(device, to, bytes) || within(pinned, from, bytes)) return memmove(to, from, bytes), cudaSuccess;
    // From pageable memory it returns once the bytes are staged; they arrive later, and non-blocking streams do not
    // wait for that.
    auto staged = std::make_shared<std::vector<char>>((const char *)from, (const char *)from + bytes);
    enqueue(nullptr, [=] { memcpy(to, staged->data(), staged->size()); });
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
    return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, enum cudaMemcpyKind kind, cudaStream_t stream) {
    if (!width || !height) return cudaSuccess;
    if (width > to_pitch || width > from_pitch) return failed(cudaErrorInvalidValue);
    for (size_t last_row = 0; last_row<height; last_row += height> 1 ? height - 1 : 1) {
        const cudaError_t e =
            check_copy((char *)to + last_row * to_pitch, (const char *)from + last_row * from_pitch, width, kind);
        if (e) return failed(e);
    }
    enqueue(stream, [=] {
        for (size_t row = 0; row < height; row++)
            memmove((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width);
    });
    return cudaSuccess;
}
cudaError_t cudaMemset(void *p, int value, size_t bytes) {
    NOT_WHILE_CAPTURING;
    for (cudaStream_t s : streams)
        if (s->blocking) finish(s);
    return cudaMemsetAsync(p, value, bytes, nullptr); // of device memory: nobody waits for it
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream) {
    if (!bytes) return cudaSuccess;
    if (!within(device, p, bytes)) return failed(cudaErrorInvalidValue);
    enqueue(stream, [=] { memset(p, value, bytes); });
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    if (!usable()) return failed(absent());
    streams.push_back(*stream = new CUstream_st);
    (*stream)->blocking = !(flags & cudaStreamNonBlocking);
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t *stream) {
    return cudaStreamCreateWithFlags(stream, 0);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    if (!stream) return failed(cudaErrorInvalidResourceHandle);
    finish(stream);
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    if (!stream->origin) delete stream->capture;
    delete stream;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    CUstream_st *s = real(stream);
    if (s->capture) return s->invalid = true, failed(cudaErrorStreamCaptureUnsupported);
    finish(s);
    return waited();
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    CUstream_st *s = real(stream);
    if (s->capture) return s->invalid = true, failed(cudaErrorStreamCaptureUnsupported);
    if (broken) return failed(broken);
    return progress(s) ? cudaSuccess : failed(cudaErrorNotReady);
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode) {
    if (!stream) return failed(cudaErrorStreamCaptureUnsupported); // the null stream can't be captured
    if (stream->capture) return failed(cudaErrorIllegalState);
    stream->capture = new CUgraph_st, stream->invalid = false;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    *graph = nullptr;
    if (!stream || !stream->capture) return failed(cudaErrorIllegalState);
    if (stream->origin) return failed(cudaErrorStreamCaptureUnmatched);
    CUgraph_st *made = stream->capture;
    stream->capture = nullptr;
    bool loose = false;
    for (cudaStream_t s : streams)
        if (s->origin == stream) loose |= s->loose, s->origin = nullptr, s->capture = nullptr, s->loose = false;
    if (loose) return delete made, failed(cudaErrorStreamCaptureUnjoined);
    if (stream->invalid) return delete made, failed(cudaErrorStreamCaptureInvalidated);
    *graph = made;
    return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    CUstream_st *s = real(stream);
    *status = !s->capture  ? cudaStreamCaptureStatusNone
              : s->invalid ? cudaStreamCaptureStatusInvalidated
                           : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    CUstream_st *other = event->on, *s = real(stream);
    if (event->captured) { // a graph's nodes are done in the order in which they were asked for: nothing to add
        if (!other->capture) return failed(cudaErrorCapturedEvent);
        CUstream_st *origin = other->origin ? other->origin : other;
        if (s == origin)
            other->loose = false;
        else if (!s->capture)
            s->capture = other->capture, s->origin = origin, s->loose = true;
        return cudaSuccess;
    }
    if (s->capture) return failed(cudaErrorStreamCaptureIsolation);
    if (other && other != s)
        enqueue_waiting(stream, [=, asked = event->asked] {
            if (event->done < asked) progress(other);
            return event->done >= asked;
        });
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    *event = new CUevent_st;
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event) {
    return cudaEventCreateWithFlags(event, 0);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    finish_all();
    delete event;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    event->on = real(stream), event->captured = event->on->capture;
    if (event->captured) return cudaSuccess;
    event->asked++;
    enqueue(stream, [=] { event->when = now(), event->done++; });
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (event->captured) return forbidden(), failed(cudaErrorCapturedEvent);
    counts.waits += event->pending();
    while (event->on && event->pending() && !progress(event->on)) usleep(50);
    return broken ? failed(broken) : cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t stop) {
    if (!start->asked || !stop->asked) return failed(cudaErrorInvalidResourceHandle);
    if (start->captured || stop->captured) return failed(cudaErrorCapturedEvent);
    if (!start->on->queue.empty() || !stop->on->queue.empty()) return failed(cudaErrorNotReady);
    *milliseconds = (float)(1e3 * (stop->when - start->when));
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *run, cudaGraph_t graph, unsigned long long) {
    if (!graph) return failed(cudaErrorInvalidValue);
    *run = new CUgraphExec_st{std::make_shared<const std::vector<work>>(graph->nodes)};
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t run, cudaStream_t stream) {
    if (!run) return failed(cudaErrorInvalidValue);
    counts.graphs++, counts.launches--; // all of it is one
    enqueue_waiting(stream, [nodes = run->nodes, at = std::make_shared<size_t>(0)] {
        while (*at < nodes->size() && (*nodes)[*at]()) ++*at;
        return *at == nodes->size();
    });
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t run) {
    delete run;
    return cudaSuccess;
}
}
