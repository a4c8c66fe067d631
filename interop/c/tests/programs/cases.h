/* Problems that every backend runs. */
#ifndef CASES_H
#define CASES_H

#include "common.h"

static onekv_view view(const tensor *t) {
    onekv_view v = {t->data, t->len, t->strides};
    return v;
}

/* A backend: onekv_cpu_attend, or on a device what does the same with memory of the host. */
typedef onekv_status attend_fn(const onekv_problem *problem, onekv_dtype dtype, const onekv_view *q,
                               const onekv_view *k, const onekv_view *v, const onekv_view_mut *out,
                               const onekv_view_mut *lse);

/* Runs one problem, with LSE and without, and compares with the definition. */
static void check_case(attend_fn *attend, const onekv_problem_spec *spec, onekv_dtype dtype, int heads_first) {
    onekv_problem *problem;
    onekv_shapes shapes;
    OK(onekv_problem_new(spec, &problem));
    OK(onekv_problem_shapes(problem, &shapes));
    REQUIRE(shapes.query.tokens == spec->row_offsets[spec->inputs]);
    tensor q = new_tensor(dtype, shapes.query, heads_first), out = new_tensor(dtype, shapes.query, heads_first);
    tensor k = new_tensor(dtype, shapes.kv, heads_first), v = new_tensor(dtype, shapes.kv, !heads_first);
    tensor lse = new_tensor(ONEKV_F32, shapes.lse, 0);
    fill_rows(&q);
    fill_keys(spec, &k);
    fill_keys(spec, &v);
    onekv_view q_view = view(&q), k_view = view(&k), v_view = view(&v);
    onekv_view_mut out_view = view_mut(&out), lse_view = view_mut(&lse);
    OK(attend(problem, dtype, &q_view, &k_view, &v_view, &out_view, &lse_view));
    double apart = distance(spec, &q, &k, &v, &out, &lse);
    if (!(apart < tolerance(dtype))) {
        fprintf(stderr, "dtype %u, heads first %d: %g from the definition\n", (unsigned)dtype, heads_first, apart);
        exit(1);
    }
    memset(out.data, 0xff, out.len * size_of(dtype));
    OK(attend(problem, dtype, &q_view, &k_view, &v_view, &out_view, NULL));
    REQUIRE(distance(spec, &q, &k, &v, &out, NULL) < tolerance(dtype));
    free(q.data), free(k.data), free(v.data), free(out.data), free(lse.data);
    onekv_problem_free(problem);
}

/* Packed and padded keys, inputs of different lengths, grouped heads, a softcap, every type, both layouts. */
static void check_cases(attend_fn *attend) {
    static const size_t rows[] = {0, 3, 4, 4, 22}, packed[] = {0, 70, 70, 71, 120}, lengths[] = {5, 0, 1, 67};
    onekv_problem_spec spec = {0};
    spec.heads = 4;
    spec.kv_heads = 2;
    spec.head_dim = 64;
    spec.scale = 0.125f;
    spec.inputs = 4;
    spec.row_offsets = rows;
    for (onekv_dtype dtype = ONEKV_F32; dtype <= ONEKV_BF16; dtype++) {
        for (int heads_first = 0; heads_first < 2; heads_first++) {
            spec.softcap = 0;
            spec.key_offsets = packed, spec.max_keys = 0, spec.key_lengths = NULL;
            check_case(attend, &spec, dtype, heads_first);
            spec.softcap = 0.5f;
            spec.key_offsets = NULL, spec.max_keys = 72, spec.key_lengths = lengths;
            check_case(attend, &spec, dtype, heads_first);
        }
    }
}

/* Merges states into one. */
typedef onekv_status merge_fn(onekv_dtype states_dtype, const onekv_state *states, size_t count,
                              onekv_dtype dtype, size_t rows, size_t heads, size_t head_dim,
                              const onekv_view_mut *out, const onekv_view_mut *lse);

/* Attention over 30 and over 40 of the keys, and over none, merged: attention over all 70. */
static void check_merge(attend_fn *attend, merge_fn *merge) {
    static const size_t rows[] = {0, 6}, all[] = {0, 70}, counts[] = {30, 40, 0};
    onekv_problem_spec spec = {0};
    spec.heads = spec.kv_heads = 2;
    spec.head_dim = 64;
    spec.scale = 0.25f;
    spec.inputs = 1;
    spec.row_offsets = rows;
    spec.key_offsets = all;
    onekv_problem *problem;
    onekv_shapes shapes;
    OK(onekv_problem_new(&spec, &problem));
    OK(onekv_problem_shapes(problem, &shapes));
    onekv_problem_free(problem);
    tensor q = new_tensor(ONEKV_F32, shapes.query, 0);
    tensor k = new_tensor(ONEKV_F32, shapes.kv, 0), v = new_tensor(ONEKV_F32, shapes.kv, 0);
    fill_rows(&q);
    fill_keys(&spec, &k);
    fill_keys(&spec, &v);
    onekv_view q_view = view(&q);
    tensor outs[3], lses[3];
    onekv_state states[3];
    for (size_t part = 0, first = 0; part < 3; first += counts[part++]) {
        const size_t keys[] = {0, counts[part]};
        spec.key_offsets = keys;
        OK(onekv_problem_new(&spec, &problem));
        outs[part] = new_tensor(ONEKV_F32, shapes.query, 0);
        lses[part] = new_tensor(ONEKV_F32, shapes.lse, 0);
        onekv_view k_view = view(&k), v_view = view(&v);
        k_view.data = (const float *)k_view.data + at(&k, 0, first, 0);
        v_view.data = (const float *)v_view.data + at(&v, 0, first, 0);
        k_view.len -= at(&k, 0, first, 0);
        v_view.len -= at(&v, 0, first, 0);
        onekv_view_mut out_view = view_mut(&outs[part]), lse_view = view_mut(&lses[part]);
        OK(attend(problem, ONEKV_F32, &q_view, &k_view, &v_view, &out_view, &lse_view));
        onekv_problem_free(problem);
        states[part].out = view(&outs[part]);
        states[part].lse = view(&lses[part]);
    }
    /* Of a part without keys the output is not read. */
    memset(outs[2].data, 0xff, outs[2].len * sizeof(float));
    spec.key_offsets = all;
    for (onekv_dtype dtype = ONEKV_F32; dtype <= ONEKV_BF16; dtype++) {
        tensor out = new_tensor(dtype, shapes.query, 1), lse = new_tensor(ONEKV_F32, shapes.lse, 0);
        onekv_view_mut out_view = view_mut(&out), lse_view = view_mut(&lse);
        OK(merge(ONEKV_F32, states, 3, dtype, 6, 2, 64, &out_view, &lse_view));
        REQUIRE(distance(&spec, &q, &k, &v, &out, &lse) < tolerance(dtype));
        memset(out.data, 0xff, out.len * size_of(dtype));
        OK(merge(ONEKV_F32, states, 3, dtype, 6, 2, 64, &out_view, NULL));
        REQUIRE(distance(&spec, &q, &k, &v, &out, NULL) < tolerance(dtype));
        free(out.data), free(lse.data);
    }
    REFUSED(ONEKV_INVALID, "states is empty, allowed: at least one partial state",
            merge(ONEKV_F32, NULL, 0, ONEKV_F32, 6, 2, 64, &(onekv_view_mut){0}, NULL));
    REFUSED(ONEKV_INVALID, "states is NULL, allowed: a valid pointer",
            merge(ONEKV_F32, NULL, 2, ONEKV_F32, 6, 2, 64, &(onekv_view_mut){0}, NULL));
    for (int part = 0; part < 3; part++) free(outs[part].data), free(lses[part].data);
    free(q.data), free(k.data), free(v.data);
}

#endif
