/// A folder of Hugging Face's as `pimoe import` opens it: config.json, and weights in one safetensors file or in shards with their index.
///
/// Input: u16 bytes of config.json | u16 bytes of the index; 0: none | u16 bytes of the second shard; 0: none | these three one after the other | the first
/// shard, or model.safetensors where there is no index

#include "fuzz/fuzz_target.h"

#include "base/errors.h"
#include "base/utf8.h"
#include "interop/hf_import.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string_view>

namespace {

using namespace pimoe;

void use_weights(const SafetensorsFolder& weights) {
  int64_t bytes = 0;
  for (const std::string& name : weights.names()) {
    const SafetensorsEntry& entry = weights.entry(name);
    bytes += static_cast<int64_t>(entry.end - entry.begin);
    if (!weight_dtype(entry.dtype)) continue;
    const int64_t count = entry.numel();
    const at::Tensor values = weights.read(name, 0, count);
    require(values.numel() == count && values.nbytes() == entry.end - entry.begin, "all of a tensor is read", printable(name));
    if (count > 1) require(weights.read(name, count - 1, 1).numel() == 1, "its last element is read", printable(name));
  }
  require(bytes == weights.bytes(), "the folder's bytes are its tensors'");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  static const ScratchFolder scratch;
  uint16_t lengths[3];
  if (count < sizeof lengths) return 0;
  std::memcpy(lengths, bytes, sizeof lengths);
  std::string_view rest(reinterpret_cast<const char*>(bytes) + sizeof lengths, count - sizeof lengths);
  std::string_view parts[3];
  for (size_t i = 0; i < 3; ++i) {
    parts[i] = rest.substr(0, lengths[i]);
    rest.remove_prefix(parts[i].size());
  }
  const bool sharded = lengths[1] > 0;
  for (const auto& entry : std::filesystem::directory_iterator(scratch.path())) std::filesystem::remove(entry.path());
  scratch.put("config.json", parts[0].data(), parts[0].size());
  if (sharded) scratch.put("model.safetensors.index.json", parts[1].data(), parts[1].size());
  if (lengths[2] > 0) scratch.put("model-00002-of-00002.safetensors", parts[2].data(), parts[2].size());
  scratch.put(sharded ? "model-00001-of-00002.safetensors" : "model.safetensors", rest.data(), rest.size());
  try {
    use_weights(SafetensorsFolder(scratch.path()));
  } catch (const DataError&) {
  }
  try {
    const HfImport imported(scratch.path(), 0);
    Violations violations;
    imported.model().validate(violations);
    require(violations.empty(), "a model that was read is one that can be built");
    require(imported.parameters() > 0 && imported.parameters() <= imported.weights().bytes(), "every parameter has weights");
  } catch (const DataError&) {
  }
  return 0;
}
