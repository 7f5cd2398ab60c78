#include "model/latent_config.h"

#include "base/text.h"

namespace pimoe {

void LatentConfig::fields(FieldVisitor& visit) {
  visit.integer("kv_rank", kv_rank, {.at_least = 0, .at_most = 1 << 20},
                "latent attention (DeepSeek-V3: 512): width of the latent that keys and values come from; 0: grouped queries");
  visit.integer("query_rank", query_rank, {.at_least = 0, .at_most = 1 << 20},
                "width of the latent that queries come from (DeepSeek-V3: 1536); 0: straight from the stream");
  visit.integer("plain_width", plain_width, {.at_least = 1, .at_most = 1 << 16}, "of a query's and key's head, without positions");
  visit.integer("rotary_width", rotary_width, {.at_least = 2, .at_most = 1 << 16},
                "of the same, turned by positions; a key's are shared by all heads");
  visit.integer("value_width", value_width, {.at_least = 1, .at_most = 1 << 16}, "of a value's head");
  visit.flag("interleaved", interleaved, "positions turn neighbours, as in DeepSeek's weights; false: each half with the other");
  visit.number("norm_epsilon", norm_epsilon, {.above = 0, .at_most = 1}, "epsilon of the latents' RMSNorms");
}

void LatentConfig::validate(Violations& violations) const {
  if (kv_rank > 0 && rotary_width % 2 != 0) {
    violations.add("model.latent.rotary_width", concat("(", rotary_width, ") must be even: rotary positions turn pairs"));
  }
}

}  // namespace pimoe
