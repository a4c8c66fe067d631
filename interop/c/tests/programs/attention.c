/* The CPU from C99: values against the definition, and what is refused. */
#include "cases.h"

static void check_problems(void) {
    const size_t rows[] = {0, 2}, keys[] = {0, 3}, late[] = {3, 3}, lengths[] = {4};
    onekv_problem_spec good = {0}, bad;
    good.heads = good.kv_heads = 2;
    good.head_dim = 8;
    good.scale = 1;
    good.inputs = 1;
    good.row_offsets = rows;
    good.key_offsets = keys;
    onekv_problem *problem = (onekv_problem *)&bad;

#define BAD(field, value, text)                                                                              \
    do {                                                                                                     \
        bad = good;                                                                                          \
        bad.field = value;                                                                                   \
        REFUSED(ONEKV_INVALID, text, onekv_problem_new(&bad, &problem));                                     \
        REQUIRE(problem == NULL);                                                                            \
    } while (0)

    BAD(head_dim, 513, "head_dim is 513, allowed: at most 512");
    BAD(heads, 0, "heads is 0, allowed: 1 or more");
    BAD(kv_heads, 3, "heads is 2, allowed: a multiple of kv_heads, which is 3");
    BAD(scale, 0, "scale is 0, allowed: a finite number above 0");
    BAD(softcap, -1, "softcap is -1, allowed: a finite number above 0");
    BAD(max_keys, 3, "max_keys is 3, allowed: 0 with key_offsets");
    BAD(key_lengths, lengths, "key_offsets and key_lengths are both given, allowed: one of them");
    BAD(key_offsets, NULL, "key_offsets and key_lengths are both NULL, allowed: one of them");
    BAD(row_offsets, NULL, "row_offsets is NULL, allowed: a valid pointer");
    BAD(row_offsets, late, "row_offsets[0] is 3, allowed: 0");
    BAD(inputs, (size_t)-1, "inputs overflows the address space");
    BAD(inputs, (size_t)-1 / 8, "key_offsets overflows the address space");
    good.key_offsets = NULL;
    good.max_keys = 3;
    BAD(key_lengths, lengths, "keys.lengths[0] is 4, allowed: at most keys.max_keys, which is 3");
    REFUSED(ONEKV_INVALID, "spec is NULL, allowed: a valid pointer", onekv_problem_new(NULL, &problem));
    REFUSED(ONEKV_INVALID, "problem is NULL, allowed: a valid pointer", onekv_problem_new(&good, NULL));

    good.key_lengths = lengths;
    good.max_keys = 5;
    OK(onekv_problem_new(&good, &problem));
    onekv_shapes shapes;
    OK(onekv_problem_shapes(problem, &shapes));
    REQUIRE(shapes.query.inputs == 1 && shapes.query.tokens == 2 && shapes.query.heads == 2 && shapes.query.vector == 8);
    REQUIRE(shapes.kv.inputs == 1 && shapes.kv.tokens == 5 && shapes.kv.heads == 2 && shapes.kv.vector == 8);
    REQUIRE(shapes.lse.inputs == 1 && shapes.lse.tokens == 2 && shapes.lse.heads == 2 && shapes.lse.vector == 1);
    onekv_strides strides = onekv_shape_strides(shapes.kv);
    REQUIRE(strides.input == 5 * 2 * 8 && strides.row == 2 * 8 && strides.head == 8);
    REFUSED(ONEKV_INVALID, "problem is NULL", onekv_problem_shapes(NULL, &shapes));
    REFUSED(ONEKV_INVALID, "shapes is NULL", onekv_problem_shapes(problem, NULL));
    onekv_problem_free(problem);
    onekv_problem_free(NULL);
}

static void check_operands(void) {
    const size_t rows[] = {0, 2}, keys[] = {0, 3};
    onekv_problem_spec spec = {0};
    spec.heads = spec.kv_heads = 2;
    spec.head_dim = 8;
    spec.scale = 1;
    spec.inputs = 1;
    spec.row_offsets = rows;
    spec.key_offsets = keys;
    onekv_problem *p;
    OK(onekv_problem_new(&spec, &p));
    float *memory = (float *)calloc(256, sizeof(float));
    const onekv_strides strides = {0, 16, 8};
    onekv_view q = {memory, 32, strides}, k = {memory + 32, 48, strides}, v = {memory + 80, 48, strides};
    onekv_view_mut out = {memory + 128, 32, strides}, lse = {memory + 160, 4, {0, 2, 1}};
    OK(onekv_cpu_attend(p, ONEKV_F32, &q, &k, &v, &out, &lse));

    REFUSED(ONEKV_INVALID, "problem is NULL", onekv_cpu_attend(NULL, ONEKV_F32, &q, &k, &v, &out, &lse));
    REFUSED(ONEKV_INVALID, "q is NULL", onekv_cpu_attend(p, ONEKV_F32, NULL, &k, &v, &out, &lse));
    REFUSED(ONEKV_INVALID, "k is NULL", onekv_cpu_attend(p, ONEKV_F32, &q, NULL, &v, &out, &lse));
    REFUSED(ONEKV_INVALID, "v is NULL", onekv_cpu_attend(p, ONEKV_F32, &q, &k, NULL, &out, &lse));
    REFUSED(ONEKV_INVALID, "out is NULL", onekv_cpu_attend(p, ONEKV_F32, &q, &k, &v, NULL, &lse));
    REFUSED(ONEKV_INVALID, "dtype is 4, allowed: ONEKV_F32 (1), ONEKV_F16 (2), ONEKV_BF16 (3)",
            onekv_cpu_attend(p, ONEKV_E4M3, &q, &k, &v, &out, &lse));

    onekv_view bad = k;
    bad.data = NULL;
    REFUSED(ONEKV_INVALID, "k.data is NULL", onekv_cpu_attend(p, ONEKV_F32, &q, &bad, &v, &out, NULL));
    bad = k;
    bad.len = 47;
    REFUSED(ONEKV_INVALID, "k has 47 elements, allowed: 48 or more for its shape and strides",
            onekv_cpu_attend(p, ONEKV_F32, &q, &bad, &v, &out, NULL));
    bad.len = (size_t)-1 / 4;
    REFUSED(ONEKV_INVALID, "k overflows the address space", onekv_cpu_attend(p, ONEKV_F32, &q, &bad, &v, &out, NULL));
    bad = k;
    bad.strides.head = 7;
    REFUSED(ONEKV_INVALID, "k.strides.head is 7, allowed: 8 or more",
            onekv_cpu_attend(p, ONEKV_F32, &q, &bad, &v, &out, NULL));
    bad = k;
    bad.data = (const char *)k.data + 2;
    REFUSED(ONEKV_INVALID, "k.data is", onekv_cpu_attend(p, ONEKV_F32, &q, &bad, &v, &out, NULL));
    onekv_view_mut over = out;
    over.data = memory + 100;
    REFUSED(ONEKV_INVALID, "out overlaps v; allowed: memory of its own",
            onekv_cpu_attend(p, ONEKV_F32, &q, &k, &v, &over, NULL));
    lse.data = memory + 128;
    REFUSED(ONEKV_INVALID, "lse overlaps out; allowed: memory of its own",
            onekv_cpu_attend(p, ONEKV_F32, &q, &k, &v, &out, &lse));
    /* K and V may be the same memory. */
    OK(onekv_cpu_attend(p, ONEKV_F32, &q, &k, &k, &out, NULL));
    free(memory);
    onekv_problem_free(p);
}

/* A library without CUDA has every function, and says that it has no CUDA. */
static void check_without_cuda(void) {
    onekv_kernels *kernels = (onekv_kernels *)&kernels;
    const onekv_status status = onekv_kernels_new(0, &kernels);
    if (status != ONEKV_OK) {
        REQUIRE(status == ONEKV_UNAVAILABLE && kernels == NULL && strncmp(onekv_last_error(), "CUDA: ", 6) == 0);
        onekv_plan *plan;
        REQUIRE(onekv_plan_new(NULL, NULL, ONEKV_F16, ONEKV_F16, NULL, &plan) != ONEKV_OK && plan == NULL);
    }
    onekv_kernels_free(kernels);
    onekv_queue_free(NULL);
    onekv_plan_free(NULL);
    onekv_prepared_free(NULL);
}

int main(void) {
    REQUIRE(strcmp(onekv_last_error(), "") == 0);
    REQUIRE(strcmp(onekv_version(), VERSION) == 0);
    check_cases(onekv_cpu_attend);
    check_merge(onekv_cpu_attend, onekv_cpu_merge_states);
    check_problems();
    check_operands();
    check_without_cuda();
    puts("attention.c: all as it should be");
    return 0;
}
