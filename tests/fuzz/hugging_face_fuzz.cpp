/// What a folder of Hugging Face's hands us: a safetensors header, whose tensors must lie side by side in the data, and config.json, whose model is
/// written and read again.

#include "fuzz/fuzz_target.h"

#include "base/errors.h"
#include "base/strict_json.h"
#include "base/text.h"
#include "interop/hf_family.h"
#include "interop/safetensors.h"

#include <algorithm>
#include <string>
#include <vector>

namespace {

using namespace pimoe;

/// @param text  a header, of a file with as many bytes of data as the header's last tensor needs, or 1000
void use_header(const std::string& text) {
  for (const uint64_t data_bytes : {uint64_t{0}, uint64_t{64}, uint64_t{1000}}) {
    try {
      uint64_t sum = 0;
      for (const auto& [name, entry] : parse_safetensors_header(text, data_bytes, "m.safetensors")) {
        require(entry.begin <= entry.end && entry.end <= data_bytes, "a tensor lies in the file", name);
        require(entry.numel() >= 0, "a tensor has a size", name);
        sum += entry.end - entry.begin;
      }
      require(sum == data_bytes, "every byte is one tensor's", text);
    } catch (const DataError&) {
    }
  }
}

void use_config(const std::string& text) {
  const HfModel read = model_of_config(parse_strict_json(text, "config.json"), "config.json", 0);
  Violations violations;
  read.model.validate(violations);
  require(violations.empty(), "a model that was read is one that can be built", text);
  const auto written = config_of_model(read.model, nlohmann::ordered_json::object(), "float32");
  const HfModel again = model_of_config(written, "written", 0);
  require(config_of_model(again.model, nlohmann::ordered_json::object(), "float32") == written, "what is written is read as the same",
          text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  const std::string text(reinterpret_cast<const char*>(bytes), count);
  use_header(text);
  try {
    use_config(text);
  } catch (const DataError&) {
  }
  return 0;
}
