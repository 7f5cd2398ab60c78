#include "moe/quantization_config.h"

namespace pimoe {

void QuantizationConfig::fields(FieldVisitor& visit) {
  visit.choice("kind", kind,
               {{"none", QuantizationKind::kNone},
                {"weight_only", QuantizationKind::kWeightOnly},
                {"dynamic", QuantizationKind::kDynamic},
                {"static", QuantizationKind::kStatic}},
               "int8 matrices, as pimoe quantize writes them: for generate, evaluate and serve, not to train");
  visit.flag("experts", experts, "routed experts are int8");
  visit.flag("attention", attention, "projections into and out of attention are");
  visit.flag("dense", dense, "dense layers, shared and fallback experts are");
  visit.flag("router", router, "routers are");
  visit.flag("head", head, "the head is");
  visit.flag("allow_slow", allow_slow, "plain loops where a machine has no int8 products; false: an error");
}

const char* QuantizationConfig::word() const {
  switch (kind) {
    case QuantizationKind::kNone: return "none";
    case QuantizationKind::kWeightOnly: return "weight_only";
    case QuantizationKind::kDynamic: return "dynamic";
    case QuantizationKind::kStatic: return "static";
  }
  return "";
}

QuantizationConfig QuantizationConfig::of(bool part) const {
  QuantizationConfig result = *this;
  if (!part) result.kind = QuantizationKind::kNone;
  return result;
}

Int8Activations QuantizationConfig::activations() const {
  switch (kind) {
    case QuantizationKind::kDynamic: return Int8Activations::kDynamic;
    case QuantizationKind::kStatic: return Int8Activations::kStatic;
    default: return Int8Activations::kNone;
  }
}

}  // namespace pimoe
