/* Views of ggml's tensors: permuted, and of a cache. ggml itself is not needed: what is read of a tensor is declared here. */
#include <assert.h>

#include "common.h"

struct ggml_tensor {
    int64_t ne[4];
    size_t nb[4];
    void *data;
};

static size_t ggml_nbytes(const struct ggml_tensor *t) {
    size_t bytes = t->nb[0];
    for (int i = 0; i < 4; i++) bytes += (size_t)(t->ne[i] - 1) * t->nb[i];
    return bytes;
}

static void swap_1_2(struct ggml_tensor *t) {
    const int64_t ne = t->ne[1];
    const size_t nb = t->nb[1];
    t->ne[1] = t->ne[2], t->ne[2] = ne;
    t->nb[1] = t->nb[2], t->nb[2] = nb;
}

static onekv_view view_of(const struct ggml_tensor *t, size_t type_size) { /* [head_dim, tokens, heads, inputs] */
    assert(t->nb[0] == type_size);                                         /* not a transposed V */
    onekv_view view;
    view.data = t->data;
    view.len = ggml_nbytes(t) / type_size;
    view.strides.input = t->nb[3] / type_size;
    view.strides.row = t->nb[1] / type_size;
    view.strides.head = t->nb[2] / type_size;
    return view;
}

int main(void) {
    /* 2 inputs of 2 and 5 tokens, 3 heads of 8; K and V of 6 and 4 keys, in slots of 7. */
    static const size_t rows[] = {0, 2, 7}, lengths[] = {6, 4};
    onekv_problem_spec spec = {0};
    spec.heads = spec.kv_heads = 3;
    spec.head_dim = 8;
    spec.scale = 0.5f;
    spec.inputs = 2;
    spec.row_offsets = rows;
    spec.max_keys = 7;
    spec.key_lengths = lengths;
    onekv_problem *problem;
    onekv_shapes shapes;
    OK(onekv_problem_new(&spec, &problem));
    OK(onekv_problem_shapes(problem, &shapes));
    tensor q = new_tensor(ONEKV_F16, shapes.query, 0), out = new_tensor(ONEKV_F16, shapes.query, 0);
    tensor k = new_tensor(ONEKV_F16, shapes.kv, 0), v = new_tensor(ONEKV_F16, shapes.kv, 0);
    fill_rows(&q);
    fill_keys(&spec, &k);
    fill_keys(&spec, &v);
    /* As a projection leaves them, [head_dim, heads, tokens], then ggml_permute(0, 2, 1, 3). */
    struct ggml_tensor gq = {{8, 3, 7, 1}, {2, 2 * 8, 2 * 24, 2 * 24 * 7}, q.data};
    struct ggml_tensor gk = {{8, 3, 7, 2}, {2, 2 * 8, 2 * 24, 2 * 24 * 7}, k.data};
    struct ggml_tensor gv = gk;
    gv.data = v.data;
    swap_1_2(&gq), swap_1_2(&gk), swap_1_2(&gv);
    const onekv_view q_view = view_of(&gq, 2), k_view = view_of(&gk, 2), v_view = view_of(&gv, 2);
    REQUIRE(k_view.len == 7 * 3 * 8 * 2 && q_view.strides.row == 24 && q_view.strides.head == 8);
    const onekv_view_mut out_view = view_mut(&out);
    OK(onekv_cpu_attend(problem, ONEKV_F16, &q_view, &k_view, &v_view, &out_view, NULL));
    REQUIRE(distance(&spec, &q, &k, &v, &out, NULL) < tolerance(ONEKV_F16));
    free(q.data), free(k.data), free(v.data), free(out.data);
    onekv_problem_free(problem);
    puts("ggml.c: all as it should be");
    return 0;
}
