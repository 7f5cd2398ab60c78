/// The properties of every operation once more, on a GPU: the same tests against the same references.

#define PIMOE_TEST_DEVICE at::kCUDA

#include "ops/adamw_test.cpp"
#include "ops/causal_attention_test.cpp"
#include "ops/cross_entropy_test.cpp"
#include "ops/gradient_sink_test.cpp"
#include "ops/grouped_product_test.cpp"
#include "ops/int8_product_test.cpp"
#include "ops/keyed_noise_test.cpp"
#include "ops/normed_rotary_test.cpp"
#include "ops/paged_attention_test.cpp"
#include "ops/rms_norm_test.cpp"
#include "ops/rotary_test.cpp"
#include "ops/routed_mlp_test.cpp"
#include "ops/row_moves_test.cpp"
#include "ops/slot_order_test.cpp"
#include "ops/softmax_top_k_test.cpp"
#include "ops/sum_of_squares_test.cpp"
#include "ops/swiglu_test.cpp"
#include "ops/top_k_test.cpp"
#include "ops/wide_linear_test.cpp"
