#pragma once

#include "base/config_fields.h"
#include "ops/int8_product.h"

#include <optional>
#include <string>

namespace pimoe {

/// How the matrices of a model are kept and multiplied.
enum class QuantizationKind {
  kNone,        ///< as numbers of train.precision
  kWeightOnly,  ///< int8 with a scale for each channel; what they multiply stays as it is
  kDynamic,     ///< and so are the rows that they multiply, each with a scale of its own
  kStatic,      ///< with one scale for all rows of a matrix, from calibration
};

/// `model.quantization:` of a model that `pimoe quantize` wrote (docs/compress.md); no model with it can be trained.
struct QuantizationConfig {
  QuantizationKind kind = QuantizationKind::kNone;
  bool experts = true;    ///< routed experts
  bool attention = true;  ///< projections into and out of attention
  bool dense = true;      ///< networks that every token passes: dense layers, shared and fallback experts
  bool router = false;    ///< scores
  bool head = false;      ///< the last matrix, where it is not the embedding
  bool allow_slow = false;

  void fields(FieldVisitor& visit);

  bool exists() const { return kind != QuantizationKind::kNone; }
  /// The word of `kind`.
  const char* word() const;
  /// This for a part that is quantized or not.
  QuantizationConfig of(bool part) const;
  Int8Activations activations() const;
};

}  // namespace pimoe
