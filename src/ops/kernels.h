#pragma once

/// The kernels behind this folder's operations, by raw pointer. Seen by ops/*.cpp and *.cu alone.
///
/// No libtorch here: the CPU kernels are compiled with flags of their own, and a header that they share with the rest of the program would
/// bring inline functions compiled both ways. Every tensor is contiguous but for HeadRows; shapes are checked by the caller. A CPU kernel takes
/// the rows [begin, end), so that the caller shares them out over threads; a CUDA kernel takes all rows and runs on the current stream.
/// "Arithmetic type": double for float64, float for every other dtype.

#include <cstdint>

namespace pimoe {

enum class Dtype { kFloat64, kFloat32, kBFloat16, kFloat16 };

struct SwigluArguments {
  Dtype dtype;
  int64_t width;            ///< F
  const void* gate_up;      ///< [R, 2F]
  void* hidden;             ///< [R, F]; backward: written again
  const void* grad_hidden;  ///< [R, F]; backward
  void* grad_gate_up;       ///< [R, 2F]; backward
};

struct RmsNormArguments {
  Dtype dtype;
  int64_t width;  ///< D
  double epsilon;
  const void* input;          ///< [R, D]; in backward the sum, where there was an update
  const void* update;         ///< [R, D]: forward, may be null
  void* sum;                  ///< [R, D]: forward, input and update; null without one
  const void* weight;         ///< [D] arithmetic type
  void* inverse_rms;          ///< [R] arithmetic type; written forward, read backward
  void* output;               ///< [R, D]
  const void* grad_output;    ///< [R, D]; backward
  const void* grad_sum;       ///< [R, D]: backward, added to the input's gradient; may be null
  void* grad_input;           ///< [R, D]; backward, may be null
  void* grad_weight_partial;  ///< [ceil(R / kRmsNormChunk), D] arithmetic type; backward, may be null
};

/// Rows whose part of the weight gradient is summed before the parts are added up: fixed, so that the bits are those of any thread count.
constexpr int64_t kRmsNormChunk = 64;

/// [B, S, n, d] of which the n heads of a position lie side by side; strides count numbers.
struct HeadRows {
  const void* data;
  int64_t sequence_stride, position_stride;
};

/// Of attention: H, KV and KV heads.
struct HeadParts {
  HeadRows queries, keys, values;
};

struct RotaryArguments {
  Dtype dtype;
  int64_t positions, queries, kv_heads, half_width;  ///< S, H, KV, d/2
  bool backward;                                     ///< turns the other way
  HeadParts input;
  const void* cosine;  ///< [S, d/2] arithmetic type
  const void* sine;
  void* output;  ///< [B*S, H + 2 KV, d]
};

struct NormedRotaryArguments {
  Dtype dtype;
  int64_t positions, queries, kv_heads, half_width;  ///< S, H, KV, d/2
  double epsilon;
  const void* input;         ///< [B*S, H + 2 KV, d]
  const void* query_weight;  ///< [d] arithmetic type
  const void* key_weight;
  const void* cosine;  ///< [S, d/2] arithmetic type
  const void* sine;
  void* inverse_rms;          ///< [B*S, H + KV] arithmetic type; written forward, read backward
  void* output;               ///< [B*S, H + 2 KV, d]; forward
  HeadParts grad_output;      ///< backward
  void* grad_input;           ///< [B*S, H + 2 KV, d]; backward
  void* grad_weight_partial;  ///< [ceil(B*S / kRmsNormChunk), 2, d] arithmetic type, of queries and of keys; backward
};

struct GatherArguments {
  int64_t row_bytes;
  const void* source;
  const int32_t* index;  ///< [R]
  int64_t divisor;       ///< out[r] = source[index[r] / divisor]
  void* output;
};

struct CombineArguments {
  Dtype dtype;
  int64_t width, choices;    ///< D, K
  const void* rows;          ///< [R, D]; null in backward when weights need no gradient
  const void* weights;       ///< [T, K] arithmetic type; null: all one
  const int32_t* positions;  ///< [T*K], -1 where dropped
  void* output;              ///< [T, D]; forward
  const void* grad_output;   ///< [T, D]; backward
  void* grad_rows;           ///< [R, D]; backward, may be null
  void* grad_weights;        ///< [T, K] arithmetic type; backward, may be null
};

struct TopKArguments {
  Dtype dtype;               ///< kFloat32 or kFloat64
  int64_t experts, choices;  ///< E, K
  const void* scores;        ///< [T, E]
  int32_t* chosen;           ///< [T, K]
};

/// Numbers of a token that a warp holds in registers.
constexpr int64_t kMostExpertsOfWarp = 512;

struct SoftmaxTopKArguments {
  Dtype dtype;               ///< kFloat32 or kFloat64
  int64_t experts, choices;  ///< E, at most kMostExpertsOfWarp; K, at most 32
  bool renormalize;          ///< gates are divided by their sum, at least `tiny`
  bool chooses;              ///< else `chosen` is read
  double tiny;
  const void* logits;  ///< [T, E]
  const void* bias;    ///< [E]
  void* scores;        ///< [T, E]
  void* log_sum;       ///< [T]
  int32_t* chosen;     ///< [T, K]
  void* gates;         ///< [T, K]
};

struct SoftmaxTopKGradients {
  Dtype dtype;
  int64_t experts, choices;
  bool renormalize;
  double tiny;
  const void* scores;        ///< [T, E]
  const int32_t* chosen;     ///< [T, K]
  const void* of_scores;     ///< [T, E], or one row for all; null: zeros, as the next two
  int64_t of_scores_stride;  ///< E or 0
  const void* of_log_sum;    ///< [T]
  const void* of_gates;      ///< [T, K]
  void* of_logits;           ///< [T, E]
};

/// A gated network in groups, in bfloat16: h = silu(W_gate x) (W_up x), y = W_down h. Rows of group g are [ends[g-1], ends[g]).
struct GroupedMlpArguments {
  int64_t rows, groups, width, hidden_width;  ///< R, G, D, F; D and F multiples of 8
  const int32_t* ends;                        ///< [G]
  const int32_t* row_tokens;                  ///< [R]: row r of `input` and `grad_output` is their row row_tokens[r]; null: they are [R, D]
  const float* weights;                       ///< of rows: by slots[r], or by r where slots are null; null: one
  const int32_t* slots;
  bool weigh_hidden;        ///< forward: weights count there, and not in what comes after
  const void* input;        ///< [T or R, D]
  const void* gate_up;      ///< [G, 2F, D]
  const void* down;         ///< [G, D, F]
  void* gate_up_rows;       ///< [R, 2F]; forward writes, backward reads
  void* hidden;             ///< [R, F]; both write: the hidden rows, weighed in backward
  void* output;             ///< [R, D]; forward
  const void* grad_output;  ///< [T or R, D]; backward
  void* grad_gate_up_rows;  ///< [R, 2F]; backward
  float* weight_dots;       ///< [weight_dot_parts(F), R]: parts of the weights' gradients; backward, may be null
  void* grad_rows;          ///< [R, D]; backward, may be null
  void* turns;              ///< [2, turn_bytes(G)], at a multiple of 16: who computes what of the weights' gradients; backward writes
};

/// Clusters of blocks that share out the tiles of a weights' gradient.
constexpr int64_t kMostClusters = 128;
/// Of gate and up's gradient, and of down's: each cluster has 16 bytes for each group, its part there (GroupTurn).
constexpr int64_t turn_bytes(int64_t groups) { return groups * kMostClusters * 16; }

/// Where a gradient of weights goes.
struct GradientOutput {
  void* data = nullptr;  ///< bfloat16, or float32 where it is a sum
  bool is_sum = false;
  bool adds = false;  ///< to the sum that is there; else it is overwritten
};

/// Columns of hidden rows whose part of a weight's gradient is summed in one place.
constexpr int64_t weight_dot_parts(int64_t hidden_width) { return (hidden_width + 127) / 128; }

struct Int8RowsArguments {
  Dtype dtype;
  int64_t columns;             ///< A
  const void* values;          ///< [R, A]
  const float* static_scales;  ///< [G] of groups; null: each row's own
  const int32_t* ends;         ///< [G]; with static_scales
  int64_t groups;
  int8_t* numbers;  ///< [R, A]
  float* scales;    ///< [R]
};

/// Products of rows with int8 matrices, one for each group; rows of group g are [ends[g-1], ends[g]).
struct Int8ProductArguments {
  int64_t row_count, groups, channels, terms;  ///< R, G, B, A
  const int32_t* ends;                         ///< [G]
  const void* rows;                            ///< [R, A] int8, or bfloat16 or float16 where row_scales are null
  Dtype rows_dtype;
  const float* row_scales;  ///< [R]
  const int8_t* numbers;    ///< [G, B, A]
  const float* scales;      ///< [G, B]
  Dtype output_dtype;
  void* output;  ///< [R, B]; rows past the last end are not written
};

struct SlotOrderArguments {
  int64_t slots_count, experts_count;  ///< N, E
  const int32_t* experts;              ///< [N], -1 for none
  int32_t* slots;                      ///< [N]; what no slot takes is left as it was
  int32_t* positions;                  ///< [N]; that of a slot of no expert is left as it was
  int64_t* counts;                     ///< [E]
};

struct KeyedNoiseArguments {
  Dtype dtype;           ///< kFloat32 or kFloat64
  uint64_t key;          ///< of the stream
  uint64_t first_index;  ///< of the stream's number that output[0] is
  double amplitude;
  void* output;  ///< [N]
};

struct CrossEntropyArguments {
  Dtype dtype;
  int64_t vocabulary;      ///< V
  const void* logits;      ///< [T, V]; CPU: in dtype, CUDA: in the arithmetic type
  const int64_t* targets;  ///< [T], -1 where a position does not count
  void* losses;            ///< [T] arithmetic type
  void* grad_logits;       ///< [T, V] in dtype: softmax - onehot; null: none; may be logits where the types are one
};

/// The formula and its names: ops/adamw.h.
struct AdamwArguments {
  Dtype dtype;           ///< kFloat32 or kFloat64
  Dtype weight_dtype;    ///< of weights; dtype where there are none
  const void* gradient;  ///< [N]; null: nothing is updated, sums alone
  void* master;          ///< [N]
  void* exp_avg;         ///< [N]
  void* exp_avg_sq;      ///< [N]
  void* weights;         ///< [N], may be null
  double gradient_factor;
  double kept;        ///< part of a master that decay leaves
  double first_rate;  ///< 1 - beta1
  double second_kept, second_rate;
  double root_scale;  ///< 1 / sqrt(1 - beta2^t)
  double epsilon;
  double step_size;           ///< learning rate / (1 - beta1^t)
  const int64_t* begins;      ///< [C + 1] multiples of 64 but for the last; no chunk is longer than kAdamwChunk
  uint64_t* sums;             ///< [C, 3]
  uint8_t* changed;           ///< [C]
  unsigned long long* found;  ///< CUDA's type for atomic sums
};

/// Elements of which one sum is kept, by one block or thread: sums take a thousandth of the state's memory, and few enough elements that the
/// last blocks of a grid wait for none.
constexpr int64_t kAdamwChunk = 4096;

struct SquaresArguments {
  Dtype dtype;  ///< kFloat32 or kFloat64
  int64_t count;
  const void* values;  ///< [count], at a multiple of 16 bytes
  double* parts;       ///< [kSquaresBlocks]
};

/// Blocks of which each sums its part: enough for the largest GPUs.
constexpr int64_t kSquaresBlocks = 1056;

namespace cpu {

void swiglu(const SwigluArguments& arguments, int64_t begin, int64_t end);
void swiglu_backward(const SwigluArguments& arguments, int64_t begin, int64_t end);
void rms_norm(const RmsNormArguments& arguments, int64_t begin, int64_t end);
/// Rows [begin, end) lie in one chunk when a weight gradient is asked for, and begin it.
void rms_norm_backward(const RmsNormArguments& arguments, int64_t begin, int64_t end);
/// sum [D] = the partial weight gradients of `chunks` chunks, in their order.
void sum_rms_norm_partial(const RmsNormArguments& arguments, int64_t chunks, void* sum);
void rotary(const RotaryArguments& arguments, int64_t begin, int64_t end);
void normed_rotary(const NormedRotaryArguments& arguments, int64_t begin, int64_t end);
/// Rows [begin, end) lie in one chunk, and begin it.
void normed_rotary_backward(const NormedRotaryArguments& arguments, int64_t begin, int64_t end);
void gather_rows(const GatherArguments& arguments, int64_t begin, int64_t end);
void combine_rows(const CombineArguments& arguments, int64_t begin, int64_t end);           ///< begin, end count tokens
void combine_rows_backward(const CombineArguments& arguments, int64_t begin, int64_t end);  ///< begin, end count tokens
void top_k(const TopKArguments& arguments, int64_t begin, int64_t end);
/// @returns the first slot whose expert is outside [0, E), or -1; nothing else is written then.
int64_t order_by_expert(const SlotOrderArguments& arguments);
void cross_entropy(const CrossEntropyArguments& arguments, int64_t begin, int64_t end);
void adamw(const AdamwArguments& arguments, int64_t begin, int64_t end);  ///< begin, end count chunks

}  // namespace cpu

namespace cuda {

void swiglu(const SwigluArguments& arguments, int64_t rows);
void swiglu_backward(const SwigluArguments& arguments, int64_t rows);
void rms_norm(const RmsNormArguments& arguments, int64_t rows);
void rms_norm_backward(const RmsNormArguments& arguments, int64_t rows);
void rotary(const RotaryArguments& arguments, int64_t rows);
void normed_rotary(const NormedRotaryArguments& arguments, int64_t rows);
void normed_rotary_backward(const NormedRotaryArguments& arguments, int64_t rows);
void gather_rows(const GatherArguments& arguments, int64_t rows);
void combine_rows(const CombineArguments& arguments, int64_t tokens);
void combine_rows_backward(const CombineArguments& arguments, int64_t tokens);
void top_k(const TopKArguments& arguments, int64_t tokens);
void softmax_top_k(const SoftmaxTopKArguments& arguments, int64_t tokens);
void softmax_top_k_backward(const SoftmaxTopKGradients& arguments, int64_t tokens);
void cross_entropy(const CrossEntropyArguments& arguments, int64_t tokens);
void keyed_noise(const KeyedNoiseArguments& arguments, int64_t count);
void adamw(const AdamwArguments& arguments, int64_t chunks);
void sum_of_squares(const SquaresArguments& arguments);
void int8_rows(const Int8RowsArguments& arguments, int64_t rows);
/// Whether int8_products has a kernel for these. @param wide  rows are not int8
bool has_int8_products(int64_t terms, Dtype rows, bool wide, Dtype output);
void int8_products(const Int8ProductArguments& arguments);

/// Whether the current device has what grouped_mlp needs: Hopper's tensor cores (compute capability 9).
bool has_grouped_mlp();
/// Rows past the last end are not written, nor looked at.
void grouped_mlp(const GroupedMlpArguments& arguments);
/// grad_gate_up_rows, hidden, weight_dots and grad_rows.
void grouped_mlp_backward(const GroupedMlpArguments& arguments);
/// [G, 2F, D] from grad_gate_up_rows and input, which is [R, D] here.
void grouped_mlp_gate_up_gradient(const GroupedMlpArguments& arguments, const GradientOutput& output);
/// [G, D, F] from grad_output and hidden.
void grouped_mlp_down_gradient(const GroupedMlpArguments& arguments, const GradientOutput& output);
/// tokens[r] = slots[r] / choices
void tokens_of_slots(const int32_t* slots, int32_t* tokens, int64_t choices, int64_t rows);
/// sums[s] = the parts of row positions[s] added up, 0 where that is -1; null positions: of row s.
void sum_weight_dots(const float* dots, const int32_t* positions, float* sums, int64_t hidden_width, int64_t rows, int64_t slots);

/// Slots that one block of the counting sort takes; the two halves of the sort agree on it.
constexpr int64_t kSlotTile = 512;
/// tile_counts[e * tiles + t] = slots of expert e in tile t.
void count_slot_tiles(const SlotOrderArguments& arguments, int32_t* tile_counts);
/// The places and totals, from the inclusive running sum of tile_counts.
void place_slots(const SlotOrderArguments& arguments, const int32_t* running_sum);

/// Zeroes the rows from *first on, where `first` is on the device: for grouped_product; in row_moves_cuda.cu.
void zero_rows_from(void* data, int64_t row_bytes, int64_t rows, const int32_t* first);

}  // namespace cuda
}  // namespace pimoe
