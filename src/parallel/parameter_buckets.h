#pragma once

#include "parallel/parameter.h"

namespace pimoe {

/// Parameters of equal (group, dtype, decay) laid side by side in one flat tensor: summed, updated and gathered as one.
///
///     weights    [ a a a a b b b b b b c c . . ]   dtype of the parameters; each Parameter::value is a view
///     gradients  [ a a a a b b b b b b c c . . ]   float32 (float64 in float64 runs): sums over micro-steps, then over ranks
///     slice             |--------|                 what this rank owns of it (ZeRO-1): 1/size of the padded length
///
/// The order inside does not depend on the rank count; only the padding at the end does.
struct Bucket {
  struct Entry {
    Parameter* parameter = nullptr;
    int64_t begin = 0;  ///< first element in the flat tensors
  };

  Group group = Group::kDense;
  at::ScalarType dtype = at::kFloat;
  bool decay = true;
  std::vector<Entry> entries;
  int64_t numel = 0;         ///< without padding
  int64_t padded_numel = 0;  ///< multiple of group size * kFlatAlignment
  at::Tensor weights;        ///< [padded_numel]
  at::Tensor gradients;      ///< [padded_numel], undefined where nothing is trained
  int64_t slice_begin = 0;   ///< [slice_begin, slice_end) of the padded length is this rank's
  int64_t slice_end = 0;

  at::Tensor weight_slice() const;    ///< a view
  at::Tensor gradient_slice() const;  ///< a view

  /// @returns the pieces of logical tensors that lie in this rank's slice, with where each begins, relative to the slice.
  std::vector<std::pair<Piece, int64_t>> slice_pieces() const;
};

/// Lays out and owns all buckets, and binds every Parameter::value to its view.
class ParameterBuckets {
 public:
  /// What training uses: large enough for links to run at full speed, small enough for sums to begin early in backward.
  static constexpr int64_t kBucketBytes = int64_t{64} << 20;

  /// @param bucket_bytes  a bucket is closed when its gradients pass this; a larger parameter has a bucket of its own
  /// @param trained       allocate gradients, and make the values leaves that require them
  ParameterBuckets(ParameterList& parameters, const ProcessMesh& mesh, int64_t bucket_bytes, bool trained);

  std::vector<Bucket>& buckets() { return buckets_; }
  const std::vector<Bucket>& buckets() const { return buckets_; }

  /// @returns what this rank holds, padding included
  int64_t weight_bytes() const;
  int64_t gradient_bytes() const;

  /// All ranks get the weights that each owns: all_gather of every bucket's weight slice over its group.
  /// @cost one collective a bucket.
  void gather_weights(const ProcessMesh& mesh);

 private:
  std::vector<Bucket> buckets_;
};

/// Initial values of elements [piece.begin, piece.end) on the host, float64: a function of (seed, name, global element) alone.
/// @param out  room for piece.numel() values
void initial_values(const Parameter& parameter, const Piece& piece, uint64_t seed, double* out);

}  // namespace pimoe
