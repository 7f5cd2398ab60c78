#pragma once

#include "base/box.h"
#include "parallel/process_mesh.h"

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace pimoe {

/// How a parameter's initial values come from the counter (seed, logical name, element).
struct Initializer {
  enum class Kind { kNormal, kConstant, kFirstElement } kind = Kind::kNormal;
  double scale = 0.02;  ///< standard deviation, or the constant, or the first element of a tensor of zeros
};

/// One weight of the model as this rank holds it. Its master weight and moments live in the optimizer's flat slices.
struct Parameter {
  std::string name;                   ///< logical name, the same in every layout: "layers.3.moe.experts.gate_up"
  Box box;                            ///< global shape, and the block that this rank holds
  Group copies = Group::kDense;       ///< ranks with a copy of the same block: kDense or kExpertReplica
  at::ScalarType dtype = at::kFloat;  ///< of `value`: the run's compute dtype, or at least float32 for norms and the router
  bool decay = true;                  ///< weight decay applies (not to norms and biases)
  Initializer initializer;
  bool gradient_in_parts = false;  ///< one backward brings its gradient in several parts, as of a leaf that several
                                   ///< operations use where one has a sink: its sum over ranks waits for the end

  /// Told of what this matrix multiplies: rows [R, A], and where each expert's end, undefined of one matrix for all. Null: nobody; set, no fused
  /// network passes it by (moe/matrix.h).
  std::function<void(const at::Tensor& rows, const at::Tensor& ends)> watch = {};

  at::Tensor value;  ///< [box.shape], a leaf that views its bucket's flat weights; defined once ParameterBuckets exists
};

/// A model's parameters in the order of declaration, which is the same on every rank. Addresses stay valid.
class ParameterList {
 public:
  /// @throws ShapeError if the name is taken.
  Parameter& declare(Parameter parameter);

  size_t size() const { return parameters_.size(); }
  Parameter& operator[](size_t index) const { return *parameters_[index]; }
  /// @throws ShapeError if there is none.
  Parameter& at(const std::string& name) const;
  auto begin() const { return parameters_.begin(); }
  auto end() const { return parameters_.end(); }

 private:
  std::vector<std::unique_ptr<Parameter>> parameters_;
  std::unordered_map<std::string, size_t> indices_;  // by name
};

}  // namespace pimoe
