#pragma once

namespace pimoe {

/// A configuration that parity and drills run in float64 in a second; they need no corpus.
constexpr const char* kTinyModel = R"(mesh: {device: cpu}
model: {layers: 2, width: 16, heads: 2, kv_heads: 1, sequence_length: 8, vocabulary: 23, initial_deviation: 0.1,
        moe: {experts: 4, choices: 2, expert_width: 12}}
train: {global_batch: 5, micro_batch: 1, precision: float64, threads: 1}
)";

}  // namespace pimoe
