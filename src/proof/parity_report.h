#pragma once

/// What runs that should be equal have to say, and how far they are apart.

#include <ATen/core/Tensor.h>

#include <nlohmann/json_fwd.hpp>

#include <array>
#include <string>
#include <vector>

namespace pimoe {

/// One tensor (or number) of a run: "gradient" of "layers.0.attention.qkv.weight".
struct Fact {
  std::string quantity;
  std::string tensor;
  at::Tensor values;  ///< float64, any shape
  /// How far values may lie apart for reasons that another quantity answers for (parity_facts.cpp, on weights); undefined: not at all
  at::Tensor slack;
  bool exact = false;  ///< counts: every difference is one
};

/// A run's facts in the order in which a step computes them, the same list for all runs that are compared.
using Facts = std::vector<Fact>;

/// A tensor this far below the largest of its quantity is the rounding noise of sums that cancel, as a router's gradient where its gates are
/// renormalised and K is 1: it is measured by this share of the quantity's largest.
constexpr double kNoiseFloor = 1e-3;
/// @returns the largest absolute value; 0 of none
double largest(const at::Tensor& values);

/// Worst difference of one quantity over its tensors, each relative to its tensor's largest value or noise floor.
struct Difference {
  bool compared = false;
  double worst = 0.0;  ///< NaN where one run has a number that is not finite
  std::string tensor;  ///< with the worst
  bool agrees = true;
};

/// The pairs of runs, columns of the table.
enum Pair { kLayoutOneRank, kLayoutLoop, kOneRankLoop, kPairs };
extern const std::array<const char*, kPairs> kPairNames;

struct ParityRow {
  std::string quantity;
  std::array<Difference, kPairs> pairs;
};

class ParityReport {
 public:
  explicit ParityReport(double tolerance) : tolerance_(tolerance) {}

  /// Compares each quantity of `ours` with the same of `theirs`, in their order. @throws ShapeError where there are more on one side
  void compare(Pair pair, const Facts& ours, const Facts& theirs);
  void note(const std::string& line) { notes_.push_back(line); }

  bool agrees() const { return first_.empty(); }
  /// "gradient of embedding.weight: layout and one rank differ by 1.0e-02, more than 1.0e-09"; "" if all agree. The first in the order of the
  /// facts.
  const std::string& first_disagreement() const { return first_; }
  /// What was noted, and where numbers stopped being finite, if they did.
  std::vector<std::string> notes() const;
  std::string table() const;
  nlohmann::ordered_json json() const;

 private:
  double tolerance_;
  std::vector<ParityRow> rows_;
  std::vector<std::string> notes_;
  std::string first_;
  size_t first_index_ = 0;  ///< among the facts, of the first disagreement
  std::string not_finite_;  ///< quantity, tensor and run where numbers are not finite first; "": nowhere
  size_t not_finite_index_ = 0;
};

}  // namespace pimoe
