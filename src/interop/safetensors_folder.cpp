#include "interop/safetensors_folder.h"

#include "base/box.h"
#include "base/errors.h"
#include "base/file_io.h"
#include "base/strict_json.h"
#include "base/text.h"
#include "base/utf8.h"

#include <algorithm>
#include <set>

namespace pimoe {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr uint64_t kLargestIndexBytes = 100'000'000;
constexpr int kShardDigits = 5;

bool is_plain_shard_name(const std::string& name) {
  return name.size() <= 255 && name.ends_with(".safetensors") && name[0] != '.' &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) { return c > ' ' && c < 0x7f && c != '/' && c != '\\'; });
}

/// @returns the tensors of each file
std::map<std::string, std::vector<std::string>> read_index(const fs::path& file) {
  const Json index = read_strict_json(file, kLargestIndexBytes);
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object()) throw DataError(concat(file.string(), ": has no weight_map"));
  std::map<std::string, std::vector<std::string>> files;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string() || !is_plain_shard_name(shard.get<std::string>())) {
      throw DataError(concat(file.string(), ": weight_map has ", printable(shard.dump()), " for '", printable(tensor),
                             "'; it must be the plain name of a .safetensors file in this folder"));
    }
    files[shard.get<std::string>()].push_back(tensor);
  }
  if (files.empty()) throw DataError(concat(file.string(), ": its weight_map is empty"));
  return files;
}

}  // namespace

SafetensorsFolder::SafetensorsFolder(const fs::path& folder) {
  const bool sharded = is_there(folder / kIndex);
  const bool single = is_there(folder / kSingle);
  if (!sharded && !single) {
    throw DataError(concat(folder.string(), " has neither ", kSingle, " nor ", kIndex, ": weights are read from safetensors files alone"));
  }
  if (!sharded) {
    files_.push_back(std::make_unique<SafetensorsFile>(folder / kSingle));
    for (const auto& [tensor, entry] : files_.back()->tensors()) file_of_[tensor] = files_.back().get();
    return;
  }
  const auto index = read_index(folder / kIndex);
  if (single && !index.contains(kSingle)) {
    throw DataError(concat(folder.string(), " has both ", kSingle, " and ", kIndex, ", which does not list it: remove one of them"));
  }
  for (const auto& [shard, tensors] : index) {
    if (!is_there(folder / shard)) {
      throw DataError(concat((folder / shard).string(), " is not there, and ", kIndex, " has '", printable(tensors.front()), "'",
                             tensors.size() > 1 ? concat(" and ", tensors.size() - 1, " more") : "",
                             " in it: was the model fetched whole?"));
    }
    files_.push_back(std::make_unique<SafetensorsFile>(folder / shard));
    const SafetensorsFile& file = *files_.back();
    for (const std::string& tensor : tensors) {
      if (!file.tensors().contains(tensor)) {
        throw DataError(
            concat((folder / kIndex).string(), ": '", printable(tensor), "' is said to be in ", shard, ", which does not have it"));
      }
      file_of_[tensor] = &file;  // the index has each name once
    }
    const std::set<std::string> listed(tensors.begin(), tensors.end());
    for (const auto& [tensor, entry] : file.tensors()) {
      if (!listed.contains(tensor)) {
        throw DataError(concat(file.path().string(), ": has '", printable(tensor), "', which ", kIndex, " does not say is there"));
      }
    }
  }
}

at::Tensor SafetensorsFolder::read(const std::string& tensor, int64_t begin, int64_t count) const {
  at::Tensor elements = file_of_.at(tensor)->read(tensor, begin, count);
  bytes_read_ += static_cast<int64_t>(elements.nbytes());
  return elements;
}

std::vector<std::string> SafetensorsFolder::names() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : file_of_) names.push_back(name);
  return names;
}

int64_t SafetensorsFolder::bytes() const {
  int64_t sum = 0;
  for (const auto& [name, file] : file_of_) sum += static_cast<int64_t>(entry(name).end - entry(name).begin);
  return sum;
}

std::vector<std::string> write_safetensors_folder(const fs::path& folder, const std::vector<SafetensorsTensor>& tensors,
                                                  at::ScalarType dtype, int64_t shard_bytes,
                                                  const std::function<at::Tensor(size_t index, int64_t begin, int64_t count)>& elements) {
  std::vector<std::vector<SafetensorsTensor>> shards(1);
  int64_t room = shard_bytes;
  int64_t total = 0;
  int64_t parameters = 0;
  for (const SafetensorsTensor& tensor : tensors) {
    const int64_t bytes = tensor.bytes(dtype);
    if (bytes > room && !shards.back().empty()) {
      shards.emplace_back();
      room = shard_bytes;
    }
    shards.back().push_back(tensor);
    room -= bytes;
    total += bytes;
    parameters += Box::whole(tensor.shape).numel();
  }
  std::vector<std::string> files;
  Json weight_map = Json::object();
  size_t first = 0;
  for (size_t shard = 0; shard < shards.size(); ++shard) {
    const auto number = [](size_t of) { return padded(static_cast<int64_t>(of), kShardDigits); };
    files.push_back(shards.size() == 1 ? kSingle : concat("model-", number(shard + 1), "-of-", number(shards.size()), ".safetensors"));
    write_safetensors(folder / files.back(), shards[shard], dtype,
                      [&](size_t index, int64_t begin, int64_t count) { return elements(first + index, begin, count); });
    for (const SafetensorsTensor& tensor : shards[shard]) weight_map[tensor.name] = files.back();
    first += shards[shard].size();
  }
  if (shards.size() == 1) return files;
  const Json index = {{"metadata", {{"total_parameters", parameters}, {"total_size", total}}}, {"weight_map", std::move(weight_map)}};
  const std::string text = index.dump(2) + "\n";
  write_durably(folder / kIndex, text.data(), text.size());
  files.emplace_back(kIndex);
  return files;
}

}  // namespace pimoe
