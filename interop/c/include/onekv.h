/*
 * onekv: shared cross-attention, one encoder K/V and many query rows, on the CPU and on NVIDIA cards. For C99 and C++.
 * Generated from interop/c/api/src by `cargo xtask bindings`; do not edit.
 *
 * Calls. Every function that can fail returns a status, ONEKV_OK or why not; onekv_last_error() says what was wrong: which
 * field, its value, what is allowed. A NULL argument is an error, but where NULL is said to be good. Where a call fails,
 * nothing was written to its operands or queued, and a handle that it should have made is NULL; but for ONEKV_CUDA_ERROR and worse,
 * which may come in the middle.
 *
 * Handles. Structures of which no fields are seen are handles: a function that ends in _new makes one, which is the caller's,
 * the one that ends in _free frees it. Nothing may use it meanwhile or afterwards. What a handle was made of may be freed
 * before it.
 *
 * Memory. Pointers are valid for as many elements as is said. What the library is given it reads, or writes, during the call,
 * and keeps nothing; device memory it uses in the order of the queue's stream, after the call has returned
 * (onekv_prepared_run).
 *
 * Threads. Any thread may call any function, with any handle, at any time until it is freed. onekv_last_error() is of the
 * thread that calls it. The current CUDA context, and so cudaGetDevice(), is after every call what it was before.
 *
 * A library that was built without CUDA has all functions. onekv_kernels_new returns ONEKV_UNAVAILABLE there, and
 * nothing else of CUDA can be had without what it makes.
 */


#ifndef ONEKV_H
#define ONEKV_H


#include <stddef.h>
#include <stdint.h>


// The most states that one merge on the device joins.
#define ONEKV_MAX_STATES 8

// Kernels for compute capability 8.0 and all that came after it.
#define ONEKV_SM80 80

// For 9.0 and newer, with the shared memory of data-centre cards.
#define ONEKV_SM90 90

// For Hopper, 9.0, alone.
#define ONEKV_SM90A 901

// For 12.0 and newer.
#define ONEKV_SM120 120

// K and V were written before anything that may still run on the stream when the run begins, as those of an encoder are: on
// cards from 9.0 on the run fetches them while what was queued before it still runs. A flag of onekv_prepared_run.
#define ONEKV_KV_SETTLED 1

// How a call ended. What went wrong, onekv_last_error() says.
typedef enum onekv_status {
  // As asked.
  ONEKV_OK = 0,
  // An argument was refused. Nothing was written or queued.
  ONEKV_INVALID = 1,
  // There is no such device, no driver, a driver that is too old, or no CUDA in this build of the library.
  ONEKV_UNAVAILABLE = 2,
  // The device's memory ran out: the same may succeed with less of it in use.
  ONEKV_OUT_OF_MEMORY = 3,
  // The CUDA driver refused a call.
  ONEKV_CUDA_ERROR = 4,
  // The CUDA context is lost, as after a kernel's fault: every later call fails, too.
  ONEKV_CONTEXT_LOST = 5,
  // A mistake in this library. The handles of the call can only be freed.
  ONEKV_PANIC = 6,
} onekv_status;

// The library's kernels in the primary context of a device. Any number of threads may use it.
typedef struct onekv_kernels onekv_kernels;

// A problem made ready for a card: which kernel, which tiles, how the keys are split. Immutable: any number of threads may use
// it.
typedef struct onekv_plan onekv_plan;

// A plan made ready on a queue. Any number of threads may use it; a run or replan is whole before another begins.
typedef struct onekv_prepared onekv_prepared;

// A shared cross-attention problem: which query rows read which keys. Immutable: any number of threads may use it.
//
// For every query row r of input b and every query head h, with the K/V head g = h / (heads / kv_heads) and j over the keys
// of b:
//
//   s[j]      = softcap(scale * q[r, h] . k[j, g])
//   out[r, h] = sum_j softmax(s)[j] * v[j, g]
//   lse[r, h] = ln sum_j exp(s[j])            natural logarithm
//
// A row with no keys has out = 0 and lse = -inf. There is no causal mask.
typedef struct onekv_problem onekv_problem;

// A stream, in whose order everything that is prepared on it runs, and a workspace that these runs share. Any number of
// threads may use it.
typedef struct onekv_queue onekv_queue;

// Distances between neighbours, in elements, not bytes. The elements of a head are contiguous; all else may lie in any order
// and with gaps. The stride of a dimension of one element may be anything.
typedef struct onekv_strides {
  // From an input's slot to the next; read for K and V of padded keys alone.
  size_t input;
  // From a row (of K and V: a key) to the next.
  size_t row;
  // From a head to the next.
  size_t head;
} onekv_strides;

// Extents of an operand [inputs, tokens, heads, vector], outermost first.
typedef struct onekv_shape {
  // Slots, one per input; 1 where inputs are packed one after the other.
  size_t inputs;
  // Rows; of K and V: keys.
  size_t tokens;
  // Heads.
  size_t heads;
  // Elements per head; of LSE 1.
  size_t vector;
} onekv_shape;

// What a problem is made of. Exactly one of `key_offsets` and `key_lengths` is given. Fill it with zeros first: fields that a
// later version adds are then what they were.
typedef struct onekv_problem_spec {
  // Query heads, 1 to 65536.
  size_t heads;
  // K/V heads; `heads` is a multiple of it (grouped-query attention where they differ).
  size_t kv_heads;
  // Elements per head, of K and V alike: 1 to 512 on the CPU; 32, 64, 96, 128 or 256 on CUDA.
  size_t head_dim;
  // Factor on the scores, above 0. T5 has 1, most others 1 / sqrt(head_dim).
  float scale;
  // With c above 0 the scaled score s becomes c * tanh(s / c); 0: there is none.
  float softcap;
  // Inputs.
  size_t inputs;
  // [inputs + 1]: input b has the query rows row_offsets[b] .. row_offsets[b + 1], from 0, never decreasing. Rows are
  // prompts x beams x tokens: attention does not care.
  const size_t *row_offsets;
  // Packed keys, [inputs + 1]: input b has the keys key_offsets[b] .. key_offsets[b + 1] of K and V [keys, kv_heads,
  // head_dim].
  const size_t *key_offsets;
  // Padded keys: those of a slot, of K and V [inputs, max_keys, kv_heads, head_dim]. Packed: 0.
  size_t max_keys;
  // Padded keys, [inputs]: input b has the first key_lengths[b] keys of its slot. What follows them may be anything, but
  // is memory that there is: it changes no result.
  const size_t *key_lengths;
} onekv_problem_spec;

// Shapes of the operands of a problem.
typedef struct onekv_shapes {
  // Of queries and output: [1, rows of all inputs, heads, head_dim].
  struct onekv_shape query;
  // Of K and of V: [1, keys of all inputs, kv_heads, head_dim] where they are packed, else [inputs, max_keys, kv_heads,
  // head_dim].
  struct onekv_shape kv;
  // Of LSE, f32: [1, rows of all inputs, heads, 1].
  struct onekv_shape lse;
} onekv_shapes;

// An element type: ONEKV_F32, ONEKV_F16, ONEKV_BF16; of K and V on CUDA also ONEKV_E4M3.
typedef uint32_t onekv_dtype;

// An operand that is read: memory of the host, or on CUDA of the device.
typedef struct onekv_view {
  // Its first element.
  const void *data;
  // Elements that there are from `data` on, gaps included. More than strides and shape reach is good.
  size_t len;
  // Where they are.
  struct onekv_strides strides;
} onekv_view;

// An operand that is written. It overlaps no other.
typedef struct onekv_view_mut {
  // As in onekv_view.
  void *data;
  // As in onekv_view.
  size_t len;
  // As in onekv_view.
  struct onekv_strides strides;
} onekv_view_mut;

// Attention over a part of the keys: its normalised output [rows, heads, head_dim] and its natural-log LSE [rows, heads], f32.
typedef struct onekv_state {
  // The output.
  struct onekv_view out;
  // The LSE.
  struct onekv_view lse;
} onekv_state;

// Wishes about a plan; 0 lets the library choose.
typedef struct onekv_plan_options {
  // Keys of one split, rounded up to whole tiles of K and V. With this and `tile_rows` fixed an input's result has the same
  // bits whatever else is in the batch.
  size_t split_keys;
  // Rows of a tile: 16, 32, 64, 128 or 192, where the card has such kernels.
  size_t tile_rows;
  // Blocks of a cluster: 1 or 2.
  size_t cluster;
  // Blocks of a cluster that share out the keys of a tile: 1, 2, 4 or 8.
  size_t split_cluster;
  // ONEKV_SM80, ONEKV_SM90, ONEKV_SM90A or ONEKV_SM120.
  uint32_t architecture;
} onekv_plan_options;

// IEEE binary32.
#define ONEKV_F32 1

// IEEE binary16.
#define ONEKV_F16 2

// bfloat16.
#define ONEKV_BF16 3

// 8 bits, 4 of exponent and 3 of mantissa, no infinities (e4m3fn): K and V on cards of compute capability 9.0 and newer, with
// a scale per K/V head.
#define ONEKV_E4M3 4

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Why the last call of this thread that failed did: which field had which value, and what is allowed. An empty string where
// none has. It stays until the thread's next failure or end.
const char *onekv_last_error(void);

// The version of the library, "major.minor.patch".
const char *onekv_version(void);

// Strides of a tensor of this shape without gaps, in the order of its dimensions.
struct onekv_strides onekv_shape_strides(struct onekv_shape shape);

// Checks `spec`, copies it, and writes a new problem to `problem`.
enum onekv_status onekv_problem_new(const struct onekv_problem_spec *spec, struct onekv_problem **problem);

// Writes the shapes of a problem's operands to `shapes`.
enum onekv_status onekv_problem_shapes(const struct onekv_problem *problem, struct onekv_shapes *shapes);

// Frees a problem; NULL is good. Plans have a copy of it.
void onekv_problem_free(struct onekv_problem *problem);

// Attention on the CPU: `q`, `k`, `v` and `out` are of type `dtype` and of the problem's shapes (onekv_problem_shapes), `lse`
// is f32, or NULL where it is not wanted. Arithmetic is f32, rounded once at the end.
//
// Runs on a pool of threads of the library's own, one per core, or as many as RAYON_NUM_THREADS says, and returns when it is
// done. Strides are multiples of 16 bytes, or of the largest power of two that divides a head's bytes; addresses of an element.
enum onekv_status onekv_cpu_attend(const struct onekv_problem *problem,
                                   onekv_dtype dtype,
                                   const struct onekv_view *q,
                                   const struct onekv_view *k,
                                   const struct onekv_view *v,
                                   const struct onekv_view_mut *out,
                                   const struct onekv_view_mut *lse);

// Joins attention over disjoint parts of the keys into attention over all of them, on the CPU: `count` states, whose outputs
// are of type `states_dtype`, f32 so that nothing is rounded twice, into `out` [rows, heads, head_dim] of type `dtype` and,
// where it is not NULL, `lse` [rows, heads], f32.
//
// With lse = ln sum_i exp(lse_i) the result is sum_i exp(lse_i - lse) * out_i. A part with lse_i = -inf (no keys) has no
// weight, and its output is not read; where all parts are so, out = 0 and lse = -inf.
enum onekv_status onekv_cpu_merge_states(onekv_dtype states_dtype,
                                         const struct onekv_state *states,
                                         size_t count,
                                         onekv_dtype dtype,
                                         size_t rows,
                                         size_t heads,
                                         size_t head_dim,
                                         const struct onekv_view_mut *out,
                                         const struct onekv_view_mut *lse);

// Opens device number `device` and writes its kernels to `kernels`. Each is loaded when a plan first needs it.
//
// The context is the device's primary one, which is that of the CUDA runtime API (cudaMalloc, cudaStreamCreate); memory and
// streams of a context of cuCtxCreate are not for these kernels. ONEKV_UNAVAILABLE where there is no driver, no such device,
// or no CUDA in this build of the library.
enum onekv_status onekv_kernels_new(int device,
                                    struct onekv_kernels **kernels);

// Loads every kernel that plans of this type may choose on this card, and those that merge its states: before a stream is
// captured, or before the first call that is to be quick.
enum onekv_status onekv_kernels_preload(const struct onekv_kernels *kernels,
                                        onekv_dtype dtype);

// Frees the kernels; NULL is good. Queues keep what they need of it.
void onekv_kernels_free(struct onekv_kernels *kernels);

// Writes a new queue on `stream`, a cudaStream_t or CUstream of the kernels' device, to `queue`; NULL is the default stream.
// The default stream per thread (cudaStreamPerThread) is refused: nobody could say when its work is done.
//
// The stream outlives the queue and all that is prepared on it. Its workspace grows to what the largest plan needs and never
// shrinks.
enum onekv_status onekv_queue_new(const struct onekv_kernels *kernels,
                                  void *stream,
                                  struct onekv_queue **queue);

// Has the workspace hold `bytes` (onekv_plan_workspace_bytes), so that no later onekv_prepared_new has it grow. What was
// prepared before keeps the one that it has.
enum onekv_status onekv_queue_reserve(const struct onekv_queue *queue,
                                      size_t bytes);

// onekv_cpu_merge_states on the device: operands are device memory. Allocates nothing and waits for nothing once its kernel is
// loaded (onekv_kernels_preload).
//
// At most ONEKV_MAX_STATES states, of type `dtype` or ONEKV_F32. Memory is as for onekv_prepared_run.
enum onekv_status onekv_queue_merge_states(const struct onekv_queue *queue,
                                           onekv_dtype states_dtype,
                                           const struct onekv_state *states,
                                           size_t count,
                                           onekv_dtype dtype,
                                           size_t rows,
                                           size_t heads,
                                           size_t head_dim,
                                           const struct onekv_view_mut *out,
                                           const struct onekv_view_mut *lse);

// Frees a queue; NULL is good. The last of a queue and of all that was prepared on it to be freed waits for the stream.
void onekv_queue_free(struct onekv_queue *queue);

// Plans `problem` for the card of `kernels`, on Q and an output of type `dtype`, and writes the plan to `plan`. K and V are of
// type `kv_dtype`: `dtype` too, or ONEKV_E4M3. `options` may be NULL, which leaves every choice to the library. No device
// memory is touched.
enum onekv_status onekv_plan_new(const struct onekv_kernels *kernels,
                                 const struct onekv_problem *problem,
                                 onekv_dtype dtype,
                                 onekv_dtype kv_dtype,
                                 const struct onekv_plan_options *options,
                                 struct onekv_plan **plan);

// Writes the options with which a plan of other lengths is one that onekv_prepared_replan takes: the kernel and the split of
// `plan`, and nothing left to choose.
enum onekv_status onekv_plan_like(const struct onekv_plan *plan,
                                  struct onekv_plan_options *options);

// Writes to `text` what was chosen and why, in one line, which is the plan's: it stays until the plan is freed.
enum onekv_status onekv_plan_explain(const struct onekv_plan *plan,
                                     const char **text);

// Writes the bytes of workspace that a run needs to `bytes`.
enum onekv_status onekv_plan_workspace_bytes(const struct onekv_plan *plan, size_t *bytes);

// Frees a plan; NULL is good. What was prepared of it keeps what it needs.
void onekv_plan_free(struct onekv_plan *plan);

// Makes a plan ready on a queue, once per kind of batch: loads its kernels, allocates and writes its lists, has the workspace
// grow where it is too small. In the order of the stream, which is not waited for.
//
// One whose inputs have as many rows and keys as any to come at their place makes room for all that onekv_prepared_replan may
// bring.
enum onekv_status onekv_prepared_new(const struct onekv_queue *queue,
                                     const struct onekv_plan *plan,
                                     struct onekv_prepared **prepared);

// Takes another plan's lengths, in the order of the stream: runs that are queued afterwards have these, those before it the
// former. Allocates nothing, and waits only where four such lists are still on their way.
//
// `plan` was made with the options of onekv_plan_like, and is in no respect larger than the one that was prepared. Not while
// the stream is captured.
enum onekv_status onekv_prepared_replan(const struct onekv_prepared *prepared,
                                        const struct onekv_plan *plan);

// Queues attention on the stream, every layer, every step: allocates nothing and waits for nothing. Operands are device
// memory, of the plan's type and shapes; `lse` is f32, or NULL where it is not wanted. `flags` are 0 or ONEKV_KV_SETTLED.
//
// Addresses and strides are multiples of 16 bytes (those of LSE: 4). As with any launch it is the caller's that
// - operands are memory of the kernels' device with the elements that they say, and stay allocated until the stream has run
//   this;
// - nothing else writes q, k and v, or touches out and lse, meanwhile; work of other streams is ordered by events;
// - what ONEKV_KV_SETTLED says is so where it is given.
//
// The stream may be captured in a graph (cudaStreamBeginCapture). Operands have the shapes of the plan that was prepared then;
// replays run with the lengths of the last onekv_prepared_replan. `prepared` and its queue are freed after the last replay,
// and replays are on the queue's stream, none while another thread is in a call of that queue.
enum onekv_status onekv_prepared_run(const struct onekv_prepared *prepared,
                                     const struct onekv_view *q,
                                     const struct onekv_view *k,
                                     const struct onekv_view *v,
                                     const struct onekv_view_mut *out,
                                     const struct onekv_view_mut *lse,
                                     uint32_t flags);

// onekv_prepared_run of a plan whose `kv_dtype` is ONEKV_E4M3: an element of K/V head g is the value of its code in `k` times
// k_scale[g], in `v` times v_scale[g]. Scales are device memory [kv_heads], f32, finite, 0 or more.
enum onekv_status onekv_prepared_run_e4m3(const struct onekv_prepared *prepared,
                                          const struct onekv_view *q,
                                          const struct onekv_view *k,
                                          const struct onekv_view *v,
                                          const float *k_scale,
                                          const float *v_scale,
                                          const struct onekv_view_mut *out,
                                          const struct onekv_view_mut *lse,
                                          uint32_t flags);

// Frees what was prepared; NULL is good. Waits for nothing, but where it is the last of its queue: memory is freed in the order
// of the stream.
void onekv_prepared_free(struct onekv_prepared *prepared);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* ONEKV_H */

