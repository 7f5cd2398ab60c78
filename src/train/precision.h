#pragma once

#include "parallel/process_mesh.h"

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

namespace pimoe {

/// `train.precision`: of weights and activations in the products.
enum class Precision { kFloat64, kFloat32, kBfloat16, kFloat16, kAuto };

/// @returns the compute dtype: what `precision` says, for auto bfloat16 where the device is fast at it, else float32
at::ScalarType compute_dtype(Precision precision, c10::Device device);

/// The run's compute dtype. For `auto` what the slowest rank's device is fast at: ranks of different machines must not train in different
/// dtypes. Collective over the world.
at::ScalarType agreed_dtype(Precision precision, const ProcessMesh& mesh);

/// @returns a compute dtype as the configuration spells it; libtorch says BFloat16 and Half
const char* dtype_name(at::ScalarType dtype);

}  // namespace pimoe
