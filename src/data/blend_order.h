#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pimoe {

/// Which corpus each sample of a weighted blend comes from: a function of the weights and the sample's number alone, at the cost of two look-ups.
///
/// At every moment each of k corpora has had its share of the samples to within 1 - 1 / (2k - 2) of a sample: half a sample for two, always
/// less than one. No order promises less. Sample n comes, of those corpora that are at least 1 / (2k - 2) of a sample behind their share of
/// n + 1 samples, from the one that would be the first to fall 1 - 1 / (2k - 2) behind. (Megatron's build_blending_indices takes the one that is
/// furthest behind: with more than two corpora one may then fall back by more than a sample, by 1.7 with weights of 124, 1, 1, 1 and 8.)
///
/// Shares are whole numbers over a period Q: after Q samples all have had exactly their shares, and the order begins again, so that a table
/// of Q entries is all of it. Q is the least number up to 1,000,000 for which the shares are the weights' (2 and 1: Q is 3); where there is
/// none, the one that comes nearest, off by less than 1e-6 each (two corpora: about 1e-12).
///
/// @source Tijdeman, "The chairman assignment problem", Discrete Mathematics 32 (1980)
class BlendOrder {
 public:
  static constexpr size_t kMostCorpora = 256;
  static constexpr int64_t kLongestPeriod = 1'000'000;

  struct Place {
    size_t corpus;
    int64_t sample;  ///< of this corpus' own samples, over all its epochs
  };

  /// @param weights  1 to kMostCorpora, positive and finite
  /// @throws ConfigError where one is less than a millionth of their sum: it would never be read  @cost 0.02 s for 3 corpora, 0.35 s for 256
  explicit BlendOrder(const std::vector<double>& weights);

  int64_t period() const { return static_cast<int64_t>(order_.size()); }
  /// @returns of `corpus`, as it is taken: a whole number over period()
  double share(size_t corpus) const { return static_cast<double>(counts_[corpus]) / static_cast<double>(period()); }
  /// @returns where sample n >= 0 of the blend is.
  Place place_of(int64_t sample) const;
  /// @returns how many of the blend's first n >= 0 samples come from `corpus`.  @cost as many look-ups as lie between two samples of the corpus
  int64_t samples_before(int64_t sample, size_t corpus) const;
  bool operator==(const BlendOrder& other) const { return counts_ == other.counts_; }

 private:
  struct Entry {
    uint32_t corpus;
    uint32_t sample;  ///< of the corpus within the period
  };
  std::vector<int64_t> counts_;  ///< of each corpus in a period
  std::vector<Entry> order_;
};

}  // namespace pimoe
