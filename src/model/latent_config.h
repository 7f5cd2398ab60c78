#pragma once

#include "base/config_fields.h"

#include <cstdint>

namespace pimoe {

/// `model.latent:` multi-head latent attention in place of grouped queries; latent_attention.h has what it computes.
struct LatentConfig {
  int64_t kv_rank = 0;         ///< R, width of the latent that keys and values come from; 0: no latent attention
  int64_t query_rank = 0;      ///< Q, the same of queries; 0: they come straight from the stream
  int64_t plain_width = 128;   ///< n, of a query's and key's head: numbers without positions
  int64_t rotary_width = 64;   ///< r, numbers that positions turn; a key's are shared by all heads
  int64_t value_width = 128;   ///< v, of a value's head
  bool interleaved = true;     ///< pairs are (2i, 2i + 1), as DeepSeek's weights have them; false: (i, i + r/2)
  double norm_epsilon = 1e-6;  ///< of the latents' norms

  void fields(FieldVisitor& visit);
  void validate(Violations& violations) const;
};

}  // namespace pimoe
