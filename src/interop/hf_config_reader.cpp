#include "interop/hf_config_reader.h"

#include "base/errors.h"
#include "base/text.h"
#include "base/utf8.h"

#include <cmath>

namespace pimoe {
namespace {

using Json = nlohmann::ordered_json;

/// Keys that say nothing of what a forward pass computes, or only in training.
const std::set<std::string> kWithoutMeaning = {"_name_or_path",
                                               "architectures",
                                               "aux_loss_alpha",
                                               "bos_token_id",
                                               "chunk_size_feed_forward",
                                               "dtype",
                                               "eos_token_id",
                                               "ep_size",
                                               "initializer_range",
                                               "max_window_layers",
                                               "output_attentions",
                                               "output_hidden_states",
                                               "pad_token_id",
                                               "output_router_logits",
                                               "pretraining_tp",
                                               "return_dict",
                                               "router_aux_loss_coef",
                                               "seq_aux",
                                               "torch_dtype",
                                               "transformers_version",
                                               "use_cache",
                                               "use_return_dict"};

}  // namespace

void HfConfigReader::refuse(const std::string& key, const std::string& why) const {
  const Json* value = find(key);
  throw DataError(concat(name_, ": ", key, value == nullptr ? " (missing) " : concat(" (", printable(value->dump()), ") "), why));
}

const Json* HfConfigReader::find(const std::string& key) const {
  const Json* at = &json_;
  for (const std::string& part : split(key, '.')) {
    if (!at->is_object() || !at->contains(part)) return nullptr;
    at = &(*at)[part];
  }
  return at->is_null() ? nullptr : at;
}

const Json* HfConfigReader::look(const std::string& key) {
  seen_.insert(split(key, '.')[0]);
  return find(key);
}

std::optional<int64_t> HfConfigReader::maybe_integer(const std::string& key, int64_t least, int64_t most) {
  const Json* value = look(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number_integer() || (value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) ||
      value->get<int64_t>() < least || value->get<int64_t>() > most) {
    refuse(key, concat("must be a whole number from ", least, " to ", most));
  }
  return value->get<int64_t>();
}

int64_t HfConfigReader::integer(const std::string& key, int64_t least, int64_t most) {
  const std::optional<int64_t> value = maybe_integer(key, least, most);
  if (!value) refuse(key, concat("must be a whole number from ", least, " to ", most));
  return *value;
}

std::optional<double> HfConfigReader::maybe_number(const std::string& key) {
  const Json* value = look(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number() || !std::isfinite(value->get<double>()) || value->get<double>() < 0) {
    refuse(key, "must be a number, not below 0");
  }
  return value->get<double>();
}

double HfConfigReader::positive(const std::string& key, std::optional<double> fallback) {
  const std::optional<double> value = maybe_number(key);
  if (!value && fallback) return *fallback;
  if (!value || *value <= 0) refuse(key, "must be a number above 0");
  return *value;
}

bool HfConfigReader::flag(const std::string& key, bool fallback) {
  const Json* value = look(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) refuse(key, "must be true or false");
  return value->get<bool>();
}

std::string HfConfigReader::word(const std::string& key) {
  const Json* value = look(key);
  if (value == nullptr) return "";
  if (!value->is_string()) refuse(key, "must be text");
  return value->get<std::string>();
}

std::vector<std::string> HfConfigReader::unseen() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : json_.items()) {
    if (!seen_.contains(key) && !kWithoutMeaning.contains(key) && !value.is_null()) keys.push_back(printable(key));
  }
  return keys;
}

}  // namespace pimoe
