// cudnn.cpp: see cudnn.h. The only C++ on the host's side: cuDNN's graphs are built by its frontend, which is a C++
// header.
#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include <cudnn_frontend.h>

#include <cstring>
#include <dlfcn.h>

#include "cuda/cudnn.h"

namespace fe = cudnn_frontend;
namespace cudnn_frontend {
void *cudnn_dlhandle = nullptr; // that the frontend takes cuDNN's functions from
}

namespace {
enum { Q = 1, K, V, O, LSE, DO, DQ, DK, DV };

struct plan {
    pa_attn key;
    cuda_cudnn_pass pass;
    bool good;
    std::shared_ptr<fe::graph::Graph> graph;
    int64_t work;
};

bool load() {
    setenv("CUDNN_FRONTEND_CUDART_LIB_NAME", "libcudart.so.13",
           0); // else the frontend warns where it finds an older one beside it
    if (!fe::cudnn_dlhandle) fe::cudnn_dlhandle = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_GLOBAL);
    return fe::cudnn_dlhandle != nullptr;
}

bool same(const pa_attn &x, const pa_attn &y) {
    return x.type == y.type && x.batch == y.batch && x.latents == y.latents && x.kept == y.kept && x.heads == y.heads &&
           x.dim_head == y.dim_head && x.scale == y.scale && x.ldq == y.ldq && x.ldkv == y.ldkv && x.ldo == y.ldo;
}

// Rows of all heads beside each other, ld apart: (B, H, rows, D).
std::shared_ptr<fe::graph::Tensor_attributes> tensor(const pa_attn &a, int64_t uid, const char *name, int64_t rows,
                                                     int64_t ld) {
    fe::graph::Tensor_attributes t;
    t.set_name(name)
        .set_uid(uid)
        .set_dim({a.batch, a.heads, rows, a.dim_head})
        .set_stride({rows * ld, a.dim_head, ld, 1});
    return std::make_shared<fe::graph::Tensor_attributes>(t);
}

void result(const std::shared_ptr<fe::graph::Tensor_attributes> &made, const pa_attn &a, int64_t uid, int64_t rows,
            int64_t ld) {
    made->set_output(true)
        .set_uid(uid)
        .set_dim({a.batch, a.heads, rows, a.dim_head})
        .set_stride({rows * ld, a.dim_head, ld, 1});
}

template <typename Attributes> Attributes masked(const pa_attn &a) {
    Attributes s;
    s.set_attn_scale(a.scale);
    if (a.kept)
        s.set_causal_mask_bottom_right(true);
    else
        s.set_causal_mask(true);
    return s;
}

// architecture: 0 where there is a GPU to ask.
std::shared_ptr<fe::graph::Graph> describe(const pa_attn &a, cuda_cudnn_pass pass, int architecture) {
    auto g = std::make_shared<fe::graph::Graph>();
    if (architecture) g->set_sm_version(architecture); // nodes copy it when they are added
    const int64_t N = a.latents, M = N + a.kept;
    g->set_io_data_type(a.type == PA_TYPE_BF16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::HALF);
    g->set_intermediate_data_type(fe::DataType_t::FLOAT).set_compute_data_type(fe::DataType_t::FLOAT);
    auto q = g->tensor(*tensor(a, Q, "q", N, a.ldq)), k = g->tensor(*tensor(a, K, "k", M, a.ldkv)),
         v = g->tensor(*tensor(a, V, "v", M, a.ldkv));
    if (pass == CUDA_CUDNN_FORWARD) {
        auto [o, lse] = g->sdpa(q, k, v, masked<fe::graph::SDPA_attributes>(a).set_generate_stats(true));
        result(o, a, O, N, a.ldo);
        lse->set_output(true).set_uid(LSE).set_data_type(fe::DataType_t::FLOAT).set_dim({a.batch, a.heads, N, 1});
        lse->set_stride({a.heads * N, N, 1, 1});
        return g;
    }
    auto o = g->tensor(*tensor(a, O, "o", N, a.ldo)), dout = g->tensor(*tensor(a, DO, "do", N, a.ldo));
    auto lse = g->tensor(fe::graph::Tensor_attributes()
                             .set_name("lse")
                             .set_uid(LSE)
                             .set_data_type(fe::DataType_t::FLOAT)
                             .set_dim({a.batch, a.heads, N, 1})
                             .set_stride({a.heads * N, N, 1, 1}));
    auto how = masked<fe::graph::SDPA_backward_attributes>(a);
    how.set_deterministic_algorithm(pass == CUDA_CUDNN_DETERMINISTIC);
    auto [dq, dk, dv] = g->sdpa_backward(q, k, v, o, dout, lse, how);
    result(dq, a, DQ, N, a.ldq), result(dk, a, DK, M, a.ldkv), result(dv, a, DV, M, a.ldkv);
    return g;
}

// What a GPU of this kind says of itself, for graphs that are built where there is none: the fields that cuDNN 9.19
// asks for, with the figures of an A100 and an H100.
std::shared_ptr<fe::DeviceProperties> properties(int architecture) {
    const bool hopper = architecture >= 90;
    const int shared = hopper ? 232448 : 166912;
    char text[1024];
    snprintf(text, sizeof text,
             "{\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":65536,"
             "\"multiProcessorCount\":%d,"
             "\"warpSize\":32,\"maxSharedMemoryPerBlock\":49152,\"maxSharedMemoryPerBlockOptin\":%d,"
             "\"reservedSharedMemoryPerBlock\":1024,"
             "\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":32,\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,"
             "\"pciDeviceId\":0,"
             "\"isTccDriver\":0,\"supportCoopLaunch\":1,\"totalGlobalMem\":85899345920,\"smClockRateKHz\":1410000,"
             "\"memClockRateKHz\":1512000,\"l2CacheSize\":%d,\"cudaDeviceId\":0,\"deviceVer\":%d,\"driverVer\":13000,"
             "\"deviceName\":\"%s\"}",
             hopper ? 132 : 108, shared, hopper ? 52428800 : 41943040, architecture * 10,
             hopper ? "NVIDIA H100" : "NVIDIA A100");
    auto p = std::make_shared<fe::DeviceProperties>();
    if (p->deserialize(std::vector<uint8_t>(text, text + strlen(text))).is_bad()) return nullptr;
    return p;
}
} // namespace

struct cuda_cudnn {
    cudnnHandle_t handle;
    std::vector<plan> plans;
    std::string why;
};

static plan *find(cuda_cudnn *d, const pa_attn &a, cuda_cudnn_pass pass) {
    for (plan &p : d->plans)
        if (p.pass == pass && same(p.key, a)) return &p;
    return nullptr;
}

static bool execute(cuda_cudnn *d, cudaStream_t stream, const plan *p, std::unordered_map<int64_t, void *> &at,
                    void *work) {
    if (!p || !p->good || fe::detail::set_stream(d->handle, stream) != CUDNN_STATUS_SUCCESS) return false;
    fe::error_t e = p->graph->execute(d->handle, at, work);
    if (e.is_bad()) d->why = e.get_message();
    return e.is_good();
}

extern "C" {

cuda_cudnn *cuda_cudnn_create(char *why, size_t size) {
    snprintf(why, size, "libcudnn.so.9 is not found");
    if (!load()) return nullptr;
    try {
        auto d = std::make_unique<cuda_cudnn>();
        if (fe::detail::create_handle(&d->handle) == CUDNN_STATUS_SUCCESS) return d.release();
        snprintf(why, size, "cudnnCreate failed");
    } catch (const std::exception &e) {
        snprintf(why, size, "%s", e.what());
    }
    return nullptr;
}

void cuda_cudnn_destroy(cuda_cudnn *d) {
    if (!d) return;
    d->plans.clear();
    fe::detail::destroy_handle(d->handle);
    delete d;
}

bool cuda_cudnn_expresses(const pa_attn *a) {
    const size_t prefix = (size_t)a->batch * (size_t)a->kept * (size_t)a->ldkv * pa_size(a->type);
    return a->type != PA_TYPE_F32 && !(a->dropout.p > 0) && a->dim_head % 8 == 0 && a->ldq % 8 == 0 &&
           a->ldkv % 8 == 0 && a->ldo % 8 == 0 && (a->kept == 0 || a->batch == 1) &&
           (const char *)a->kp + prefix == a->kn && (const char *)a->vp + prefix == a->vn;
}

size_t cuda_cudnn_work(cuda_cudnn *d, const pa_attn *a, cuda_cudnn_pass pass) {
    plan *p = find(d, *a, pass);
    if (!p) {
        plan made = {*a, pass, false, nullptr, 0};
        try {
            made.graph = describe(*a, pass, 0);
            fe::error_t e = made.graph->build(d->handle, {fe::HeurMode_t::A});
            if (e.is_good()) e = made.graph->get_workspace_size(made.work);
            made.good = e.is_good();
            if (!made.good) d->why = e.get_message();
        } catch (const std::exception &e) {
            d->why = e.what();
        }
        d->plans.push_back(made);
        p = &d->plans.back();
    }
    return p->good ? (size_t)p->work : SIZE_MAX;
}

bool cuda_cudnn_fwd(cuda_cudnn *d, cudaStream_t stream, const pa_attn *a, void *o, float *lse, void *work) {
    std::unordered_map<int64_t, void *> at = {
        {Q, (void *)a->q}, {K, (void *)a->kp}, {V, (void *)a->vp}, {O, o}, {LSE, lse}};
    return execute(d, stream, find(d, *a, CUDA_CUDNN_FORWARD), at, work);
}

bool cuda_cudnn_bwd(cuda_cudnn *d, cudaStream_t stream, const pa_attn *a, const pa_attn_grads *g, cuda_cudnn_pass pass,
                    void *work) {
    std::unordered_map<int64_t, void *> at = {{Q, (void *)a->q},     {K, (void *)a->kp},    {V, (void *)a->vp},
                                              {O, (void *)g->o},     {LSE, (void *)g->lse}, {DQ, g->dq},
                                              {DO, (void *)g->dout}, {DK, g->dkp},          {DV, g->dvp}};
    return execute(d, stream, find(d, *a, pass), at, work);
}

const char *cuda_cudnn_why(const cuda_cudnn *d) {
    return d->why.c_str();
}

bool cuda_cudnn_supports(int architecture, const pa_attn *a, cuda_cudnn_pass pass, char *why, size_t size) {
    std::string said = "libcudnn.so.9 is not found";
    bool good = false;
    try {
        auto p = load() ? properties(architecture) : nullptr;
        if (p) {
            auto g = describe(*a, pass, architecture);
            g->set_device_properties(p);
            fe::error_t e = g->validate();
            if (e.is_good()) e = g->build_operation_graph();
            if (e.is_good()) e = g->create_execution_plans({fe::HeurMode_t::A});
            if (e.is_good()) e = g->check_support();
            good = e.is_good(), said = e.get_message();
        } else if (fe::cudnn_dlhandle) {
            said = "cuDNN takes no description of a GPU";
        }
    } catch (const std::exception &e) {
        said = e.what();
    }
    snprintf(why, size, "%s", said.c_str());
    return good;
}
}
