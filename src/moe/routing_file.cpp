#include "moe/routing_file.h"

#include "base/digest.h"
#include "base/errors.h"
#include "base/file_io.h"
#include "base/hdf5_file.h"
#include "base/text.h"

#include <algorithm>

namespace pimoe {
namespace {

const std::string kExperts = "/experts";
const std::string kWeights = "/weights";

std::filesystem::path digest_of(const std::filesystem::path& file) { return file.string() + ".sha256"; }

std::filesystem::path temporary(const std::filesystem::path& file) { return file.string() + ".tmp"; }

template <class Element>
std::vector<Element> read_all(const Hdf5Reader& reader, const std::string& name, ElementType type) {
  const Hdf5Reader::Dataset dataset = reader.describe(name);
  if (dataset.type != type) throw Error(concat(name, " is ", element_name(dataset.type), ", not ", element_name(type)));
  std::vector<Element> elements(static_cast<size_t>(dataset.count));
  reader.read(name, 0, dataset.count, elements.data());
  return elements;
}

RoutingSample parse(const Hdf5Reader& reader) {
  RoutingSample sample;
  const auto step = read_all<int64_t>(reader, "step", ElementType::kInt64);
  if (step.size() != 1) throw Error("step must be one number");
  sample.step = step[0];
  sample.tokens = read_all<int64_t>(reader, "token", ElementType::kInt64);
  sample.token_ids = read_all<int64_t>(reader, "token_id", ElementType::kInt64);
  for (const std::string& name : reader.names()) {
    if (!name.ends_with(kExperts)) continue;
    const std::string router = name.substr(0, name.size() - kExperts.size());
    RoutingDecisions decisions = {.choices = 0,
                                  .experts = read_all<int32_t>(reader, name, ElementType::kInt32),
                                  .weights = read_all<double>(reader, router + kWeights, ElementType::kFloat64)};
    const size_t tokens = sample.tokens.size();
    if (tokens == 0 || decisions.experts.size() % tokens != 0 || decisions.weights.size() != decisions.experts.size()) {
      throw Error(concat(name, " has ", decisions.experts.size(), " elements for ", tokens, " tokens"));
    }
    decisions.choices = static_cast<int64_t>(decisions.experts.size() / tokens);
    sample.routers.emplace(router, std::move(decisions));
  }
  return sample;
}

}  // namespace

void write_routing(const std::filesystem::path& file, const RoutingSample& sample) {
  const auto count = static_cast<int64_t>(sample.tokens.size());
  Hdf5Writer writer;
  writer.add("step", ElementType::kInt64, &sample.step, 1);
  writer.add("token", ElementType::kInt64, sample.tokens.data(), count);
  writer.add("token_id", ElementType::kInt64, sample.token_ids.data(), count);
  for (const auto& [router, decisions] : sample.routers) {
    const Hdf5Attributes shape = {{"global_shape", {count, decisions.choices}}};
    writer.add(router + kExperts, ElementType::kInt32, decisions.experts.data(), count * decisions.choices, shape);
    writer.add(router + kWeights, ElementType::kFloat64, decisions.weights.data(), count * decisions.choices, shape);
  }
  const std::vector<std::byte> image = writer.finish();
  // The digest first: a file that is there always has one.
  replace_file(digest_of(file), concat(sha256(image.data(), image.size()), "  ", file.filename().string(), "\n"));
  write_durably(temporary(file), image.data(), image.size());
  rename_durably(temporary(file), file);
}

RoutingSample read_routing(const std::filesystem::path& file) {
  const std::vector<std::byte> bytes = read_bytes(file);
  if (!std::filesystem::exists(digest_of(file))) {
    throw DataError(
        concat(file.string(), " has no ", digest_of(file).filename().string(), " beside it: a recording is read only with its digest"));
  }
  const std::string digest = split(read_file(digest_of(file), 4096), ' ')[0];
  if (sha256(bytes.data(), bytes.size()) != digest) {
    throw DataError(concat(file.string(), " is not what its digest says: it is damaged, or was changed"));
  }
  try {
    return parse(Hdf5Reader(bytes.data(), bytes.size(), file.string()));
  } catch (const DataError&) {
    throw;
  } catch (const Error& error) {
    throw DataError(concat(file.string(), " is no recording of routing decisions: ", error.what()));
  }
}

RoutingReplay::RoutingReplay(const std::filesystem::path& path) : name_(path.string()) {
  std::vector<std::filesystem::path> files = {path};
  if (std::filesystem::is_directory(path)) {
    files.clear();
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      if (entry.path().extension() == ".h5") files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
  }
  if (files.empty()) throw DataError(concat("model.moe.router.replay: ", name_, " has no .h5 file"));
  for (const std::filesystem::path& file : files) {
    RoutingSample sample = read_routing(file);
    steps_[sample.step - 1].push_back(std::move(sample));
  }
}

at::Tensor RoutingReplay::apply(const std::string& router, int64_t step, int64_t first_token, int64_t expert_count,
                                const at::Tensor& experts) const {
  const auto recorded = steps_.find(step);
  if (recorded == steps_.end() || experts.size(0) == 0) return experts;
  const int64_t choices = experts.size(1);
  at::Tensor replayed = experts.cpu().clone();
  int32_t* rows = replayed.mutable_data_ptr<int32_t>();
  for (const RoutingSample& sample : recorded->second) {
    const auto found = sample.routers.find(router);
    if (found == sample.routers.end()) continue;
    const RoutingDecisions& decisions = found->second;
    if (decisions.choices != choices) {
      throw DataError(
          concat(name_, ": ", router, " was recorded with ", decisions.choices, " experts a token, and model.moe.choices is ", choices));
    }
    for (size_t index = 0; index < sample.tokens.size(); ++index) {
      const int64_t row = sample.tokens[index] - first_token;
      if (row < 0 || row >= experts.size(0)) continue;
      const int32_t* chosen = decisions.experts.data() + static_cast<int64_t>(index) * choices;
      for (int64_t choice = 0; choice < choices; ++choice) {
        if (chosen[choice] < -1 || chosen[choice] >= expert_count) {
          throw DataError(
              concat(name_, ": ", router, " was recorded with expert ", chosen[choice], ", and model.moe.experts is ", expert_count));
        }
      }
      std::copy(chosen, chosen + choices, rows + row * choices);
    }
  }
  return replayed.to(experts.device());
}

}  // namespace pimoe
