// replay.c: see replay.h.
#include "cuda/replay.h"

static bool same(const pa_step *x, const pa_step *y) {
    return x->kind == y->kind && x->B == y->B && x->M == y->M && x->N == y->N && x->K == y->K &&
           x->dropout == y->dropout && x->first == y->first;
}

// The step's graph; NULL where that is one shape too many.
static cuda_graph *graph_of(pa_device *d, const pa_step *step) {
    for (int i = 0; i < d->graphs; i++)
        if (same(&d->graph[i].step, step)) return &d->graph[i];
    if (step->kind == PA_STEP_GRADIENTS && d->shapes == CUDA_SHAPES) return NULL;
    d->shapes += step->kind == PA_STEP_GRADIENTS;
    cuda_graph *g = &d->graph[d->graphs++];
    *g = (cuda_graph){.step = *step};
    return g;
}

static pa_status capture(pa_device *d, cuda_graph *g, pa_status (*work)(void *, pa_err *), void *what, pa_err *err) {
    cudaGraph_t graph = NULL;
    pa_status e =
        cuda_check(cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal), "capturing a step", err);
    if (e) return e;
    e = work(what, err);
    cudaError_t ended = cudaStreamEndCapture(d->stream, &graph);
    if (!e) e = cuda_check(ended, "capturing a step", err);
    if (!e) e = cuda_check(cudaGraphInstantiate(&g->run, graph, 0), "making a graph of a step", err);
    if (graph) cudaGraphDestroy(graph);
    return e;
}

pa_status cuda_replay(pa_device *d, const pa_step *step, pa_status (*work)(void *, pa_err *), void *what, pa_err *err) {
    if (step->ranks) return work(what, err);
    cuda_graph *g = graph_of(d, step);
    pa_status e = PA_OK;
    if (!g || !g->seen) {
        if (g) g->seen = true;
        return work(what, err);
    }
    if (!g->run && (e = capture(d, g, work, what, err))) return e;
    return cuda_check(cudaGraphLaunch(g->run, d->stream), "starting a step", err);
}

void cuda_replay_clear(pa_device *d) {
    for (int i = 0; i < d->graphs; i++)
        if (d->graph[i].run) cudaGraphExecDestroy(d->graph[i].run);
}
