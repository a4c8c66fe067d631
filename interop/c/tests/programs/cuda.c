/* A card from C99, by the driver API: values against the definition, what streams and contexts are left with, what is
 * refused. A program of yours includes cuda.h or cuda_runtime.h; this one is to compile without NVIDIA's headers. */
#include "cases.h"

typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;
typedef unsigned long long CUdeviceptr;
int cuInit(unsigned flags);
int cuDeviceGetAttribute(int *value, int attribute, int device);
int cuDevicePrimaryCtxRetain(CUcontext *context, int device);
int cuCtxSetCurrent(CUcontext context);
int cuCtxGetCurrent(CUcontext *context);
int cuStreamCreate(CUstream *stream, unsigned flags);
int cuStreamDestroy_v2(CUstream stream);
int cuStreamSynchronize(CUstream stream);
int cuStreamBeginCapture_v2(CUstream stream, int mode);
int cuStreamEndCapture(CUstream stream, CUgraph *graph);
int cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags);
int cuGraphLaunch(CUgraphExec exec, CUstream stream);
int cuGraphExecDestroy(CUgraphExec exec);
int cuGraphDestroy(CUgraph graph);
int cuMemAlloc_v2(CUdeviceptr *address, size_t bytes);
int cuMemFree_v2(CUdeviceptr address);
int cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes);
int cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes);

#define CU(call) REQUIRE((call) == 0)

static CUcontext context;
static onekv_kernels *kernels;
static onekv_queue *queue;
static CUstream stream;
static onekv_plan_options options; /* of all plans below, 0: the library chooses */
static uint32_t flags;

/* No context is current where onekv is called, nor afterwards: it needs none, and leaves none. */
static void without_context(void) {
    CU(cuCtxSetCurrent(NULL));
}

static void with_context(void) {
    CUcontext current = context;
    CU(cuCtxGetCurrent(&current));
    REQUIRE(current == NULL);
    CU(cuCtxSetCurrent(context));
}

/* New device memory with a copy of the host's. */
static onekv_view_mut upload(const void *data, size_t len, size_t size, onekv_strides strides) {
    CUdeviceptr address;
    CU(cuMemAlloc_v2(&address, len * size + 1));
    CU(cuMemcpyHtoD_v2(address, data, len * size));
    onekv_view_mut v = {(void *)(uintptr_t)address, len, strides};
    return v;
}

static onekv_view to_read(onekv_view_mut v) {
    onekv_view r = {v.data, v.len, v.strides};
    return r;
}

static void download(const onekv_view_mut *to, onekv_view_mut from, size_t size) {
    CU(cuMemcpyDtoH_v2(to->data, (CUdeviceptr)(uintptr_t)from.data, from.len * size));
}

static void release(onekv_view_mut v) {
    CU(cuMemFree_v2((CUdeviceptr)(uintptr_t)v.data));
}

/* Operands on the device. */
typedef struct operands {
    onekv_view_mut q, k, v, out, lse;
} operands;

static operands upload_all(onekv_dtype dtype, const onekv_view *q, const onekv_view *k, const onekv_view *v,
                           const onekv_view_mut *out, const onekv_view_mut *lse) {
    const size_t size = size_of(dtype);
    operands o;
    o.q = upload(q->data, q->len, size, q->strides);
    o.k = upload(k->data, k->len, size, k->strides);
    o.v = upload(v->data, v->len, size, v->strides);
    o.out = upload(out->data, out->len, size, out->strides);
    if (lse) o.lse = upload(lse->data, lse->len, 4, lse->strides);
    return o;
}

static void release_all(operands o, int with_lse) {
    release(o.q), release(o.k), release(o.v), release(o.out);
    if (with_lse) release(o.lse);
}

static onekv_status run(const onekv_prepared *prepared, const operands *o, int with_lse) {
    onekv_view q = to_read(o->q), k = to_read(o->k), v = to_read(o->v);
    return onekv_prepared_run(prepared, &q, &k, &v, &o->out, with_lse ? &o->lse : NULL, flags);
}

/* onekv_cpu_attend on the device, by way of copies. */
static onekv_status attend(const onekv_problem *problem, onekv_dtype dtype, const onekv_view *q, const onekv_view *k,
                           const onekv_view *v, const onekv_view_mut *out, const onekv_view_mut *lse) {
    operands o = upload_all(dtype, q, k, v, out, lse);
    onekv_plan *plan;
    onekv_prepared *prepared;
    without_context();
    OK(onekv_plan_new(kernels, problem, dtype, dtype, &options, &plan));
    OK(onekv_prepared_new(queue, plan, &prepared));
    onekv_plan_free(plan);
    const onekv_status status = run(prepared, &o, lse != NULL);
    onekv_prepared_free(prepared);
    with_context();
    CU(cuStreamSynchronize(stream));
    download(out, o.out, size_of(dtype));
    if (lse) download(lse, o.lse, 4);
    release_all(o, lse != NULL);
    return status;
}

static onekv_status merge(onekv_dtype states_dtype, const onekv_state *states, size_t count, onekv_dtype dtype,
                          size_t rows, size_t heads, size_t head_dim, const onekv_view_mut *out,
                          const onekv_view_mut *lse) {
    onekv_view_mut memory[2 * 3 + 2];
    onekv_state on_device[3];
    const size_t there = states ? count : 0;
    for (size_t i = 0; i < there; i++) {
        memory[2 * i] = upload(states[i].out.data, states[i].out.len, size_of(states_dtype), states[i].out.strides);
        memory[2 * i + 1] = upload(states[i].lse.data, states[i].lse.len, 4, states[i].lse.strides);
        on_device[i].out = to_read(memory[2 * i]);
        on_device[i].lse = to_read(memory[2 * i + 1]);
    }
    memory[2 * there] = upload(out->data, out->len, size_of(dtype), out->strides);
    if (lse) memory[2 * there + 1] = upload(lse->data, lse->len, 4, lse->strides);
    without_context();
    const onekv_status status =
        onekv_queue_merge_states(queue, states_dtype, states ? on_device : NULL, count, dtype, rows, heads, head_dim,
                                 &memory[2 * there], lse ? &memory[2 * there + 1] : NULL);
    with_context();
    CU(cuStreamSynchronize(stream));
    download(out, memory[2 * there], size_of(dtype));
    if (lse) download(lse, memory[2 * there + 1], 4);
    for (size_t i = 0; i < 2 * there + (lse ? 2 : 1); i++) release(memory[i]);
    return status;
}

/* One input of `rows` query rows and `keys` keys in a slot of 200, 2 heads of 64. */
static onekv_problem *problem_of(onekv_problem_spec *spec, size_t *rows, size_t *keys) {
    memset(spec, 0, sizeof *spec);
    spec->heads = spec->kv_heads = 2;
    spec->head_dim = 64;
    spec->scale = 0.125f;
    spec->inputs = 1;
    spec->row_offsets = rows;
    spec->max_keys = 200;
    spec->key_lengths = keys;
    onekv_problem *problem;
    OK(onekv_problem_new(spec, &problem));
    return problem;
}

#define CHECK OK

/* What the README shows, word for word: c_programs.rs compares. */
static void first(onekv_problem *problem, CUstream stream, onekv_view q, onekv_view k, onekv_view v, onekv_view_mut out) {
    onekv_kernels *kernels;
    onekv_queue *queue;
    onekv_plan *plan;
    onekv_prepared *prepared;
    CHECK(onekv_kernels_new(0, &kernels));           /* once per device */
    CHECK(onekv_queue_new(kernels, stream, &queue)); /* once per cudaStream_t */
    CHECK(onekv_plan_new(kernels, problem, ONEKV_F16, ONEKV_F16, NULL, &plan));
    CHECK(onekv_prepared_new(queue, plan, &prepared));              /* once per kind of batch */
    CHECK(onekv_prepared_run(prepared, &q, &k, &v, &out, NULL, 0)); /* every layer, every step */
    onekv_prepared_free(prepared);
    onekv_plan_free(plan);
    onekv_queue_free(queue);
    onekv_kernels_free(kernels);
}

/* A plan is explained, and its lengths change in place; runs are captured, and follow; what does not fit is refused. */
static void check_plans(onekv_dtype dtype) {
    size_t rows[] = {0, 9}, keys[] = {190}, fewer_rows[] = {0, 5}, fewer_keys[] = {40}, more_rows[] = {0, 2000};
    onekv_problem_spec spec, fewer_spec, more_spec;
    onekv_problem *problem = problem_of(&spec, rows, keys), *fewer = problem_of(&fewer_spec, fewer_rows, fewer_keys);
    onekv_problem *more = problem_of(&more_spec, more_rows, keys);
    onekv_shapes shapes;
    OK(onekv_problem_shapes(problem, &shapes));
    tensor q = new_tensor(dtype, shapes.query, 0), out = new_tensor(dtype, shapes.query, 0);
    tensor k = new_tensor(dtype, shapes.kv, 1), v = new_tensor(dtype, shapes.kv, 1);
    fill_rows(&q);
    fill_keys(&spec, &k);
    fill_keys(&spec, &v);
    onekv_view q_view = view(&q), k_view = view(&k), v_view = view(&v);
    onekv_view_mut out_view = view_mut(&out);
    operands o = upload_all(dtype, &q_view, &k_view, &v_view, &out_view, NULL);

    onekv_plan_options wished = {0};
    wished.tile_rows = 16;
    wished.split_keys = 64;
    wished.split_cluster = 1;
    wished.architecture = 7;
    onekv_plan *plan, *other;
    REFUSED(ONEKV_INVALID, "options.architecture is 7, allowed: 0, ONEKV_SM80 (80)",
            onekv_plan_new(kernels, problem, dtype, dtype, &wished, &plan));
    wished.architecture = ONEKV_SM80;
    OK(onekv_plan_new(kernels, problem, dtype, dtype, &wished, &plan));
    const char *text;
    size_t bytes;
    OK(onekv_plan_explain(plan, &text));
    REQUIRE(strstr(text, "tiles of 16 rows") && strstr(text, "splits of 64 keys in clusters of 1"));
    OK(onekv_plan_workspace_bytes(plan, &bytes));
    /* 2 heads x 3 splits: partial outputs of 16 x 64 f32, and their LSE. */
    REQUIRE(bytes == 2 * 3 * 16 * 65 * 4);
    OK(onekv_queue_reserve(queue, bytes));

    onekv_plan_options like;
    OK(onekv_plan_like(plan, &like));
    REQUIRE(like.tile_rows == 16 && like.split_keys == 64 && like.cluster == 1 && like.split_cluster == 1);
    REQUIRE(like.architecture == ONEKV_SM80);

    onekv_prepared *prepared;
    OK(onekv_prepared_new(queue, plan, &prepared));
    onekv_plan_free(plan);
    if (dtype == ONEKV_F16) first(problem, stream, to_read(o.q), to_read(o.k), to_read(o.v), o.out);
    else OK(run(prepared, &o, 0));
    CU(cuStreamSynchronize(stream));
    download(&out_view, o.out, size_of(dtype));
    REQUIRE(distance(&spec, &q, &k, &v, &out, NULL) < tolerance(dtype));

    CUgraph graph;
    CUgraphExec exec;
    CU(cuStreamBeginCapture_v2(stream, 0));
    OK(run(prepared, &o, 0));
    /* In a graph operands are as large as those of the plan that was prepared. */
    onekv_view_mut whole = o.out;
    o.out.len = 9 * 128 - 1;
    REFUSED(ONEKV_INVALID, "out has 1151 elements, allowed: 1152 or more", run(prepared, &o, 0));
    o.out = whole;
    CU(cuStreamEndCapture(stream, &graph));
    CU(cuGraphInstantiateWithFlags(&exec, graph, 0));

    /* Fewer rows and keys: at once and by the graph. What lies behind them stays. */
    OK(onekv_plan_new(kernels, fewer, dtype, dtype, &like, &other));
    OK(onekv_prepared_replan(prepared, other));
    onekv_plan_free(other);
    for (int replayed = 0; replayed < 2; replayed++) {
        memset(out.data, 0xff, out.len * size_of(dtype));
        CU(cuMemcpyHtoD_v2((CUdeviceptr)(uintptr_t)o.out.data, out.data, out.len * size_of(dtype)));
        if (replayed) CU(cuGraphLaunch(exec, stream));
        else OK(run(prepared, &o, 0));
        CU(cuStreamSynchronize(stream));
        download(&out_view, o.out, size_of(dtype));
        REQUIRE(distance(&fewer_spec, &q, &k, &v, &out, NULL) < tolerance(dtype));
        REQUIRE(isnan(get(&out, at(&out, 0, 5, 0))));
    }
    CU(cuGraphExecDestroy(exec));
    CU(cuGraphDestroy(graph));

    OK(onekv_plan_new(kernels, more, dtype, dtype, &like, &other));
    REFUSED(ONEKV_INVALID, "the plan has 2000 rows, allowed: at most 9, as prepared", onekv_prepared_replan(prepared, other));
    onekv_plan_free(other);

    /* Operands: five rows now. */
    flags = 2;
    REFUSED(ONEKV_INVALID, "flags is 2, allowed: 0 or ONEKV_KV_SETTLED (1)", run(prepared, &o, 0));
    flags = ONEKV_KV_SETTLED;
    o.q.len = 5 * 128;
    OK(run(prepared, &o, 0));
    flags = 0;
    o.q.len = 5 * 128 - 1;
    REFUSED(ONEKV_INVALID, "q has 639 elements, allowed: 640 or more", run(prepared, &o, 0));
    o.q.len = 9 * 128;
    whole = o.k;
    o.k.data = NULL;
    REFUSED(ONEKV_INVALID, "the address of k is 0", run(prepared, &o, 0));
    o.k = whole;
    o.k.strides.head += 4;
    REFUSED(ONEKV_INVALID, "k.strides.head is", run(prepared, &o, 0));
    o.k = whole;
    whole = o.out;
    o.out = o.q;
    REFUSED(ONEKV_INVALID, "out overlaps q; allowed: memory of its own", run(prepared, &o, 0));
    o.out = whole;
    o.lse = whole;
    o.lse.data = NULL;
    REFUSED(ONEKV_INVALID, "the address of lse is 0", run(prepared, &o, 1));
    onekv_view as_view = to_read(o.q);
    REFUSED(ONEKV_INVALID, "v is NULL, allowed: a valid pointer",
            onekv_prepared_run(prepared, &as_view, &as_view, NULL, &o.out, NULL, 0));
    REFUSED(ONEKV_INVALID, "prepared is NULL", run(NULL, &o, 0));
    REFUSED(ONEKV_INVALID, "K and V are e4m3, allowed: in the type of q (onekv_prepared_run)",
            onekv_prepared_run_e4m3(prepared, &as_view, &as_view, &as_view, NULL, NULL, &o.out, NULL, 0));
    CU(cuStreamSynchronize(stream));
    release_all(o, 0);
    onekv_prepared_free(prepared);
    onekv_problem_free(problem), onekv_problem_free(fewer), onekv_problem_free(more);
    free(q.data), free(k.data), free(v.data), free(out.data);
}

/* K and V in 8 bits, on cards from 9.0 on. */
static void check_e4m3(void) {
    static const unsigned char codes[] = {0x00, 0x30, 0x38, 0x40, 0xb0, 0xb8, 0xc0, 0x34};
    static const double values[] = {0, 0.5, 1, 2, -0.5, -1, -2, 0.75};
    static const float scales[2][2] = {{0.5f, 0.25f}, {0.125f, 0.375f}};
    size_t rows[] = {0, 9}, keys[] = {190};
    onekv_problem_spec spec;
    onekv_problem *problem = problem_of(&spec, rows, keys);
    onekv_plan *plan;
    int major;
    CU(cuDeviceGetAttribute(&major, 75 /* CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR */, 0));
    REFUSED(ONEKV_INVALID, "kv_dtype is 1, allowed: 3, as dtype, or ONEKV_E4M3 (4)",
            onekv_plan_new(kernels, problem, ONEKV_BF16, ONEKV_F32, NULL, &plan));
    if (major < 9) {
        REFUSED(ONEKV_INVALID, "no kernel for bf16 with e4m3 K/V",
                onekv_plan_new(kernels, problem, ONEKV_BF16, ONEKV_E4M3, NULL, &plan));
        onekv_problem_free(problem);
        return;
    }
    OK(onekv_plan_new(kernels, problem, ONEKV_BF16, ONEKV_E4M3, NULL, &plan));
    onekv_shapes shapes;
    OK(onekv_problem_shapes(problem, &shapes));
    tensor q = new_tensor(ONEKV_BF16, shapes.query, 0), out = new_tensor(ONEKV_BF16, shapes.query, 0);
    tensor wide[2] = {new_tensor(ONEKV_F32, shapes.kv, 0), new_tensor(ONEKV_F32, shapes.kv, 0)};
    onekv_view_mut narrow[2], scale[2];
    fill_rows(&q);
    for (int which = 0; which < 2; which++) {
        unsigned char *bytes = (unsigned char *)calloc(wide[which].len, 1);
        for (size_t i = 0; i < wide[which].len; i++) {
            const int code = (int)((noise() + 1) * 32) % 8;
            bytes[i] = codes[code];
            set(&wide[which], i, values[code] * (double)scales[which][i / 64 % 2]);
        }
        narrow[which] = upload(bytes, wide[which].len, 1, wide[which].strides);
        scale[which] = upload(scales[which], 2, sizeof(float), wide[which].strides);
        free(bytes);
    }
    onekv_view_mut q_memory = upload(q.data, q.len, 2, q.strides), out_memory = upload(out.data, out.len, 2, out.strides);
    onekv_view q_view = to_read(q_memory), k_view = to_read(narrow[0]), v_view = to_read(narrow[1]);
    const float *k_scale = (const float *)scale[0].data, *v_scale = (const float *)scale[1].data;
    onekv_prepared *prepared;
    OK(onekv_prepared_new(queue, plan, &prepared));
    OK(onekv_prepared_run_e4m3(prepared, &q_view, &k_view, &v_view, k_scale, v_scale, &out_memory, NULL, 0));
    REFUSED(ONEKV_INVALID, "the address of v_scale is 0",
            onekv_prepared_run_e4m3(prepared, &q_view, &k_view, &v_view, k_scale, NULL, &out_memory, NULL, 0));
    REFUSED(ONEKV_INVALID, "K and V are in the type of q, allowed: e4m3 (onekv_prepared_run_e4m3)",
            onekv_prepared_run(prepared, &q_view, &k_view, &v_view, &out_memory, NULL, 0));
    CU(cuStreamSynchronize(stream));
    onekv_view_mut out_view = view_mut(&out);
    download(&out_view, out_memory, 2);
    REQUIRE(distance(&spec, &q, &wide[0], &wide[1], &out, NULL) < tolerance(ONEKV_BF16));
    onekv_prepared_free(prepared);
    onekv_plan_free(plan);
    onekv_problem_free(problem);
    release(q_memory), release(out_memory);
    for (int which = 0; which < 2; which++) release(narrow[which]), release(scale[which]), free(wide[which].data);
    free(q.data), free(out.data);
}

int main(void) {
    REFUSED(ONEKV_INVALID, "device is -1, allowed: 0 or more", onekv_kernels_new(-1, &kernels));
    REFUSED(ONEKV_UNAVAILABLE, "device 99, allowed: below", onekv_kernels_new(99, &kernels));
    REQUIRE(kernels == NULL);
    OK(onekv_kernels_new(0, &kernels));
    CU(cuInit(0));
    CU(cuDevicePrimaryCtxRetain(&context, 0));
    with_context();
    CU(cuStreamCreate(&stream, 1));
    REFUSED(ONEKV_INVALID, "which is another stream in every thread", onekv_queue_new(kernels, (void *)2, &queue));
    REFUSED(ONEKV_INVALID, "kernels is NULL", onekv_queue_new(NULL, stream, &queue));
    REFUSED(ONEKV_INVALID, "dtype is 0, allowed: ONEKV_F32 (1)", onekv_kernels_preload(kernels, 0));
    OK(onekv_kernels_preload(kernels, ONEKV_F16));

    OK(onekv_queue_new(kernels, stream, &queue));
    check_cases(attend);
    check_merge(attend, merge);
    check_plans(ONEKV_F16);
    check_plans(ONEKV_BF16);
    check_e4m3();
    REFUSED(ONEKV_INVALID, "states is 9, allowed: at most 8",
            onekv_queue_merge_states(queue, ONEKV_F32, (onekv_state[ONEKV_MAX_STATES + 1]){{{0}, {0}}},
                                     ONEKV_MAX_STATES + 1, ONEKV_F32, 1, 1, 8, &(onekv_view_mut){0}, NULL));
    REFUSED(ONEKV_INVALID, "the address of states.out is 0",
            onekv_queue_merge_states(queue, ONEKV_F32, &(onekv_state){{0}, {0}}, 1, ONEKV_F32, 1, 1, 8,
                                     &(onekv_view_mut){0}, NULL));
    REFUSED(ONEKV_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", onekv_queue_reserve(queue, (size_t)1 << 47));
    onekv_queue_free(queue);

    /* On the default stream, with a tile and a split of ours. What is freed first is kept by what needs it. */
    CU(cuStreamDestroy_v2(stream));
    stream = NULL;
    options.tile_rows = 16;
    options.split_keys = 64;
    OK(onekv_queue_new(kernels, NULL, &queue));
    check_cases(attend);
    size_t rows[] = {0, 1}, keys[] = {1};
    onekv_problem_spec spec;
    onekv_problem *problem = problem_of(&spec, rows, keys);
    onekv_plan *plan;
    onekv_prepared *prepared;
    OK(onekv_plan_new(kernels, problem, ONEKV_F16, ONEKV_F16, NULL, &plan));
    onekv_problem_free(problem);
    onekv_kernels_free(kernels);
    OK(onekv_prepared_new(queue, plan, &prepared));
    onekv_queue_free(queue);
    without_context();
    onekv_prepared_free(prepared);
    with_context();
    onekv_plan_free(plan);
    puts("cuda.c: all as it should be");
    return 0;
}
