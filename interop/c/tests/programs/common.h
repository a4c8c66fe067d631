/* What the test programs share: tensors in any layout, the definition of attention in double, comparisons. */
#ifndef COMMON_H
#define COMMON_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "onekv.h"

#define REQUIRE(condition)                                                                                   \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: not so: %s; onekv: %s\n", __FILE__, __LINE__, #condition, onekv_last_error()); \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

#define OK(call) REQUIRE((call) == ONEKV_OK)

/* The call is refused with this status, and a message that contains this. */
#define REFUSED(status, text, call)                                                                          \
    do {                                                                                                     \
        REQUIRE((call) == (status));                                                                         \
        REQUIRE(strstr(onekv_last_error(), text) != NULL);                                                   \
    } while (0)

typedef struct tensor {
    onekv_dtype dtype;
    onekv_shape shape;
    onekv_strides strides;
    size_t len;
    void *data;
} tensor;

static size_t size_of(onekv_dtype dtype) {
    return dtype == ONEKV_F32 ? 4 : dtype == ONEKV_E4M3 ? 1 : 2;
}

static size_t at(const tensor *t, size_t input, size_t token, size_t head) {
    return input * t->strides.input + token * t->strides.row + head * t->strides.head;
}

/* For values that every type has exactly, as small multiples of 1/32 are: it does not round. */
static void set(tensor *t, size_t i, double value) {
    float narrow = (float)value;
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    if (t->dtype == ONEKV_F32) {
        ((float *)t->data)[i] = narrow;
    } else if (t->dtype == ONEKV_BF16) {
        ((uint16_t *)t->data)[i] = (uint16_t)(bits >> 16);
    } else {
        uint32_t magnitude = bits & 0x7fffffffu;
        uint32_t half = magnitude == 0 ? 0 : (magnitude >> 13) - ((127 - 15) << 10);
        ((uint16_t *)t->data)[i] = (uint16_t)(half | (bits >> 31 << 15));
    }
}

static double get(const tensor *t, size_t i) {
    if (t->dtype == ONEKV_F32) return ((const float *)t->data)[i];
    uint16_t bits = ((const uint16_t *)t->data)[i];
    if (t->dtype == ONEKV_BF16) {
        uint32_t wide = (uint32_t)bits << 16;
        float value;
        memcpy(&value, &wide, sizeof value);
        return value;
    }
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    double value = exponent == 31 ? NAN : exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
    return bits >> 15 ? -value : value;
}

/* Full of NaN. `heads_first`: [inputs, heads, tokens, vector] with room for 3 more tokens, as caches are. */
static tensor new_tensor(onekv_dtype dtype, onekv_shape shape, int heads_first) {
    tensor t;
    t.dtype = dtype;
    t.shape = shape;
    t.strides = onekv_shape_strides(shape);
    if (heads_first) {
        t.strides.row = shape.vector;
        t.strides.head = (shape.tokens + 3) * shape.vector;
        t.strides.input = t.strides.head * shape.heads;
    }
    t.len = t.strides.input * shape.inputs;
    t.data = malloc(t.len * size_of(dtype) + 1);
    REQUIRE(t.data != NULL);
    memset(t.data, 0xff, t.len * size_of(dtype));
    return t;
}

static onekv_view_mut view_mut(const tensor *t) {
    onekv_view_mut v = {t->data, t->len, t->strides};
    return v;
}

static double noise(void) {
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return ((double)(state >> 26) - 32) / 32;
}

/* An input's keys: their slot, the first and how many. */
static void keys_of(const onekv_problem_spec *spec, size_t input, size_t *slot, size_t *first, size_t *count) {
    *slot = spec->key_offsets ? 0 : input;
    *first = spec->key_offsets ? spec->key_offsets[input] : 0;
    *count = spec->key_offsets ? spec->key_offsets[input + 1] - *first : spec->key_lengths[input];
}

/* Noise wherever there are keys; what pads them stays NaN. */
static void fill_keys(const onekv_problem_spec *spec, tensor *t) {
    for (size_t b = 0; b < spec->inputs; b++) {
        size_t slot, first, count;
        keys_of(spec, b, &slot, &first, &count);
        for (size_t j = first; j < first + count; j++)
            for (size_t h = 0; h < spec->kv_heads; h++)
                for (size_t d = 0; d < spec->head_dim; d++) set(t, at(t, slot, j, h) + d, noise());
    }
}

static void fill_rows(tensor *t) {
    for (size_t r = 0; r < t->shape.tokens; r++)
        for (size_t h = 0; h < t->shape.heads; h++)
            for (size_t d = 0; d < t->shape.vector; d++) set(t, at(t, 0, r, h) + d, noise());
}

/* The largest distance of `out` and `lse` from the definition. */
static double distance(const onekv_problem_spec *spec, const tensor *q, const tensor *k, const tensor *v,
                       const tensor *out, const tensor *lse) {
    double largest = 0;
    for (size_t b = 0; b < spec->inputs; b++) {
        size_t slot, first, count;
        keys_of(spec, b, &slot, &first, &count);
        double *scores = (double *)malloc((count + 1) * sizeof *scores);
        for (size_t r = spec->row_offsets[b]; r < spec->row_offsets[b + 1]; r++) {
            for (size_t h = 0; h < spec->heads; h++) {
                size_t g = h / (spec->heads / spec->kv_heads);
                double max = -INFINITY, sum = 0;
                for (size_t j = 0; j < count; j++) {
                    double s = 0;
                    for (size_t d = 0; d < spec->head_dim; d++)
                        s += get(q, at(q, 0, r, h) + d) * get(k, at(k, slot, first + j, g) + d);
                    s *= spec->scale;
                    if (spec->softcap > 0) s = spec->softcap * tanh(s / spec->softcap);
                    scores[j] = s;
                    max = s > max ? s : max;
                }
                for (size_t j = 0; j < count; j++) sum += scores[j] = exp(scores[j] - max);
                for (size_t d = 0; d < spec->head_dim; d++) {
                    double want = 0;
                    for (size_t j = 0; j < count; j++)
                        want += scores[j] / sum * get(v, at(v, slot, first + j, g) + d);
                    double apart = fabs(get(out, at(out, 0, r, h) + d) - want);
                    largest = apart <= largest ? largest : apart; /* NaN too */
                }
                if (lse) {
                    double got = get(lse, at(lse, 0, r, h));
                    double apart = count == 0 ? (got == -INFINITY ? 0 : INFINITY) : fabs(got - (max + log(sum)));
                    largest = apart <= largest ? largest : apart;
                }
            }
        }
        free(scores);
    }
    return largest;
}

/* For numbers below 1; LSE may be larger, but is f32 always. */
static double tolerance(onekv_dtype dtype) {
    return dtype == ONEKV_F32 ? 2e-5 : dtype == ONEKV_F16 ? 1e-3 : 8e-3;
}

#endif
