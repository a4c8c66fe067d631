// From C++17: handles that free themselves, failures as exceptions.
#include <cmath>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "onekv.h"

struct Free {
    void operator()(onekv_problem *problem) const { onekv_problem_free(problem); }
};
using Problem = std::unique_ptr<onekv_problem, Free>;

static void check(onekv_status status) {
    if (status != ONEKV_OK) throw std::runtime_error(onekv_last_error());
}

static Problem make_problem(const onekv_problem_spec &spec) {
    onekv_problem *problem = nullptr;
    check(onekv_problem_new(&spec, &problem));
    return Problem(problem);
}

template <class Call>
static std::string refused(Call call) {
    try {
        call();
    } catch (const std::runtime_error &error) {
        return error.what();
    }
    return "not refused";
}

static int failures = 0;

static void require(bool good, const char *what) {
    if (!good) std::fprintf(stderr, "attention.cpp: not so: %s\n", what), ++failures;
}

int main() {
    // Two inputs of 2 and 1 rows and 3 and 2 keys; K is 0, so that each row has the mean of its input's values.
    const std::vector<std::size_t> rows{0, 2, 3}, keys{0, 3, 5};
    onekv_problem_spec spec{};
    spec.heads = spec.kv_heads = 2;
    spec.head_dim = 8;
    spec.scale = 1;
    spec.inputs = rows.size() - 1;
    spec.row_offsets = rows.data();
    spec.key_offsets = keys.data();
    const Problem problem = make_problem(spec);

    onekv_shapes shapes{};
    check(onekv_problem_shapes(problem.get(), &shapes));
    const onekv_strides query = onekv_shape_strides(shapes.query), kv = onekv_shape_strides(shapes.kv);
    std::vector<float> q(3 * 16, 1), k(5 * 16, 0), v, out(3 * 16), lse(3 * 2);
    for (int key = 0; key < 5; ++key) v.insert(v.end(), 16, float(key));
    const onekv_view q_view{q.data(), q.size(), query}, k_view{k.data(), k.size(), kv}, v_view{v.data(), v.size(), kv};
    const onekv_view_mut out_view{out.data(), out.size(), query};
    const onekv_view_mut lse_view{lse.data(), lse.size(), onekv_shape_strides(shapes.lse)};
    check(onekv_cpu_attend(problem.get(), ONEKV_F32, &q_view, &k_view, &v_view, &out_view, &lse_view));
    require(std::fabs(out[0] - 1) < 1e-6f && std::fabs(out[2 * 16] - 3.5f) < 1e-6f, "means of the values");
    require(std::fabs(lse[0] - std::log(3.0f)) < 1e-6f && std::fabs(lse[4] - std::log(2.0f)) < 1e-6f, "LSE of zeros");

    spec.head_dim = 1000;
    const std::string said = refused([&] { make_problem(spec); });
    require(said == "head_dim is 1000, allowed: at most 512", said.c_str());
    if (failures == 0) std::puts("attention.cpp: all as it should be");
    return failures != 0;
}
