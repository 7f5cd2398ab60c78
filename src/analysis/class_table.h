#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pimoe {

/// How many slots of each class of tokens each expert received, and what the two tell about each other. All information is in bits.
///
/// A class is a number below `classes`; what it means is the caller's. A token's K slots count as K observations of one class.
class ClassTable {
 public:
  ClassTable(int64_t experts, int64_t classes);

  void add(int64_t expert, int64_t token_class, int64_t slots = 1) { counts_[index(expert, token_class)] += slots; }

  int64_t experts() const { return experts_; }
  int64_t classes() const { return classes_; }
  int64_t slots(int64_t expert, int64_t token_class) const { return counts_[index(expert, token_class)]; }
  int64_t slots_of_expert(int64_t expert) const;
  int64_t slots_of_class(int64_t token_class) const;
  int64_t total() const;

  /// @returns the class' share of all slots: its base rate. 0 of an empty table.
  double base_rate(int64_t token_class) const;
  /// @returns the class' share of an expert's slots; 0 for an expert without slots.
  double share(int64_t expert, int64_t token_class) const;
  /// @returns share / base rate: 1 where the expert gets the class as often as all experts together; NaN where either has no slots.
  double lift(int64_t expert, int64_t token_class) const;

  /// @returns H(class), at most log2(classes).
  double class_entropy() const;
  /// @returns I(class; expert) = sum p(c,e) log2(p(c,e) / (p(c) p(e))): 0 where they are independent, H(class) where the expert tells the
  ///          class. Finite samples of independent ones give more than 0.
  double mutual_information() const;
  /// @returns the same with the first order of its bias taken off, (cells - rows - columns + 1) / (2 N ln 2) over those that are not empty;
  ///          may fall below 0. As if slots were drawn independently, which neighbours in a text are not.
  /// @source Miller, "Note on the bias of information estimates", 1955; for mutual information Roulston, Physica D 125, 1999.
  double corrected_information() const;

  /// @param group_of  [experts] the group of each, below `groups`  @returns the table of groups instead of experts
  ClassTable merged(const std::vector<int64_t>& group_of, int64_t groups) const;

 private:
  size_t index(int64_t expert, int64_t token_class) const { return static_cast<size_t>(expert * classes_ + token_class); }

  int64_t experts_;
  int64_t classes_;
  std::vector<int64_t> counts_;
};

/// One layer's routing of a text.
struct ClassedRouting {
  int64_t experts = 0;  ///< E
  int64_t choices = 0;  ///< slots of each token
  int64_t classes = 0;
  std::vector<int8_t> class_of;    ///< [T] each token's class; below 0: does not count
  std::vector<int32_t> expert_of;  ///< [T, choices]; below 0: none

  ClassTable table() const;
};

/// What mutual information a text and a routing of this size show that have nothing to do with each other.
struct ChanceLevel {
  double shuffled = 0.0;  ///< mean with the classes in random order: the bias of a finite sample
  double shifted = 0.0;   ///< mean with the classes moved along the text: runs of equal classes and of equal experts stay what they are
  double shifted_most = 0.0;
  double p_value = 1.0;  ///< (1 + shifts with at least the mutual information that was measured) / (1 + shifts)
};

/// @param group_of  [E] to judge groups of experts; empty: the experts
/// @param rounds    shuffles, and as many shifts
/// @param distance  no shift moves a class by fewer tokens, so that it is out of reach of the text that it came from; in a text shorter than
///                  twice that, shifts are by any number
/// @cost 2 rounds over all slots.
ChanceLevel chance_level(const ClassedRouting& routing, const std::vector<int64_t>& group_of, int64_t rounds, int64_t distance,
                         uint64_t seed);

}  // namespace pimoe
