#include <onekv.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(call) do { if ((call) != ONEKV_OK) { fprintf(stderr, "%s\n", onekv_last_error()); return 1; } } while (0)

int main(void) {
    /* 30 query rows (prompts x beams x tokens) over one input of 512 keys, 12 heads of 64. */
    const size_t row_offsets[] = {0, 30}, key_offsets[] = {0, 512};
    const onekv_problem_spec spec = {
        .heads = 12, .kv_heads = 12, .head_dim = 64, .scale = 1.0f,
        .inputs = 1, .row_offsets = row_offsets, .key_offsets = key_offsets,
    };
    onekv_problem *problem;
    CHECK(onekv_problem_new(&spec, &problem));

    const size_t rows = 30 * 12 * 64, keys = 512 * 12 * 64;
    float *memory = malloc((2 * rows + 2 * keys) * sizeof *memory);
    if (memory == NULL) return 1;
    for (size_t i = 0; i < 2 * rows + 2 * keys; i++) memory[i] = 0.25f;

    const onekv_strides strides = {.row = 12 * 64, .head = 64}; /* in elements */
    const onekv_view q = {memory, rows, strides};
    const onekv_view k = {memory + rows, keys, strides}, v = {memory + rows + keys, keys, strides};
    const onekv_view_mut out = {memory + rows + 2 * keys, rows, strides};
    CHECK(onekv_cpu_attend(problem, ONEKV_F32, &q, &k, &v, &out, NULL));
    printf("%.2f\n", ((float *)out.data)[0]); /* the mean of the values: 0.25 */

    free(memory);
    onekv_problem_free(problem);
    return 0;
}
