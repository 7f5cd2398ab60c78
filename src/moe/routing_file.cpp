#include "moe/routing_file.h"

#include "base/digest.h"
#include "base/errors.h"
#include "base/file_io.h"
#include "base/hdf5_file.h"
#include "base/text.h"

#include <algorithm>
#include <set>

namespace pimoe {
namespace {

const std::string kExperts = "/experts";
const std::string kWeights = "/weights";

const std::string kKey = "model.moe.router.replay";
const std::string kRouterKind = "router_kind";

std::filesystem::path digest_of(const std::filesystem::path& file) { return file.string() + ".sha256"; }

template <class Element>
std::vector<Element> read_all(const Hdf5Reader& reader, const std::string& name, ElementType type) {
  const Hdf5Reader::Dataset dataset = reader.describe(name);
  if (dataset.type != type) throw Error(concat(name, " is ", element_name(dataset.type), ", not ", element_name(type)));
  std::vector<Element> elements(static_cast<size_t>(dataset.count));
  reader.read(name, 0, dataset.count, elements.data());
  return elements;
}

int64_t read_number(const Hdf5Reader& reader, const std::string& name) {
  const auto numbers = read_all<int64_t>(reader, name, ElementType::kInt64);
  if (numbers.size() != 1) throw Error(concat(name, " must be one number"));
  return numbers[0];
}

/// What no router of this kind decides is refused where it is read: further on nobody looks.
void require_decisions(const std::string& router, const RoutingSample& sample, const RoutingDecisions& decisions) {
  const std::optional<RouterKind> kind = router_kind_named(sample.router_kind);
  const bool by_expert = kind && traits_of(*kind).by_expert;
  const int64_t choices = by_expert ? sample.expert_count : sample.choices;
  if (decisions.choices != choices) {
    throw Error(concat(router, " has ", decisions.choices, " experts a token, and must have ", choices, " (", kRouterKind, " ",
                       sample.router_kind, ", expert_count ", sample.expert_count, ", choices ", sample.choices, ")"));
  }
  for (size_t index = 0; index < sample.tokens.size(); ++index) {
    const auto first = decisions.experts.begin() + static_cast<int64_t>(index) * choices;
    std::vector<int32_t> experts(first, first + choices);
    std::sort(experts.begin(), experts.end());
    for (const int32_t expert : experts) {
      if (expert >= (by_expert ? -1 : 0) && expert < sample.expert_count) continue;
      throw Error(concat(router, ": expert ", expert, " of token ", sample.tokens[index], " must be in [0, ", sample.expert_count, ")",
                         by_expert ? ", or -1 for none" : ""));
    }
    const auto some = std::find_if(experts.begin(), experts.end(), [](int32_t expert) { return expert >= 0; });
    if (const auto twice = std::adjacent_find(some, experts.end()); twice != experts.end()) {
      throw Error(concat(router, ": token ", sample.tokens[index], " has expert ", *twice, " twice"));
    }
  }
}

RoutingSample parse(const Hdf5Reader& reader) {
  RoutingSample sample;
  const std::vector<std::string> names = reader.names();
  const bool has_format = std::find(names.begin(), names.end(), "format") != names.end();
  if (const int64_t format = has_format ? read_number(reader, "format") : 1; format != kRoutingFormat) {
    throw Error(concat("it has format ", format, ", and this PiMoE reads format ", kRoutingFormat, ": record it again"));
  }
  sample.step = read_number(reader, "step");
  sample.router_kind = reader.text(kRouterKind);
  sample.expert_count = read_number(reader, "expert_count");
  sample.choices = read_number(reader, "choices");
  if (sample.step < 1) throw Error(concat("step (", sample.step, ") must be at least 1"));
  sample.tokens = read_all<int64_t>(reader, "token", ElementType::kInt64);
  sample.token_ids = read_all<int64_t>(reader, "token_id", ElementType::kInt64);
  if (sample.token_ids.size() != sample.tokens.size()) {
    throw Error(concat("token_id has ", sample.token_ids.size(), " elements for ", sample.tokens.size(), " tokens"));
  }
  for (const int64_t token : sample.tokens) {
    if (token < 0) throw Error(concat("token (", token, ") must be at least 0"));
  }
  for (const std::string& name : names) {
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
    require_decisions(router, sample, decisions);
    sample.routers.emplace(router, std::move(decisions));
  }
  return sample;
}

/// What model.moe.router.replay names: a folder's files, or what is no folder itself.
std::vector<std::filesystem::path> files_of(const std::filesystem::path& path) {
  std::error_code failed;
  if (!std::filesystem::is_directory(path, failed)) return {path};
  std::vector<std::filesystem::path> files;
  for (std::filesystem::directory_iterator entry(path, failed), end; !failed && entry != end; entry.increment(failed)) {
    if (entry->path().extension() == ".h5") files.push_back(entry->path());
  }
  if (failed) throw IoError(concat("cannot list ", path.string(), ": ", failed.message()), failed.value());
  if (files.empty()) throw DataError(concat(path.string(), " has no .h5 file"));
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

void write_routing(const std::filesystem::path& file, const RoutingSample& sample) {
  const auto count = static_cast<int64_t>(sample.tokens.size());
  Hdf5Writer writer;
  writer.add("format", ElementType::kInt64, &kRoutingFormat, 1);
  writer.set_text(kRouterKind, sample.router_kind);
  writer.add("expert_count", ElementType::kInt64, &sample.expert_count, 1);
  writer.add("choices", ElementType::kInt64, &sample.choices, 1);
  writer.add("step", ElementType::kInt64, &sample.step, 1);
  writer.add("token", ElementType::kInt64, sample.tokens.data(), count);
  writer.add("token_id", ElementType::kInt64, sample.token_ids.data(), count);
  for (const auto& [router, decisions] : sample.routers) {
    const Hdf5Attributes shape = {{"global_shape", {count, decisions.choices}}};
    writer.add(router + kExperts, ElementType::kInt32, decisions.experts.data(), count * decisions.choices, shape);
    writer.add(router + kWeights, ElementType::kFloat64, decisions.weights.data(), count * decisions.choices, shape);
  }
  const Hdf5Image image = writer.finish();
  // The digest first: a file that is there always has one.
  replace_file(digest_of(file), concat(sha256(image.data(), image.size()), "  ", file.filename().string(), "\n"));
  try {
    replace_file(file, image.data(), image.size());
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(digest_of(file), ignored);
    throw;
  }
}

RoutingSample read_routing(const std::filesystem::path& file) {
  const std::vector<std::byte> bytes = read_regular_bytes(file);
  if (!is_there(digest_of(file))) {
    throw DataError(
        concat(file.string(), " has no ", digest_of(file).filename().string(), " beside it: a recording is read only with its digest"));
  }
  const std::string digest = split(read_regular_file(digest_of(file), 4096), ' ')[0];
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

RoutingReplay::RoutingReplay(const std::filesystem::path& path) {
  try {
    read(path);
  } catch (const IoError& error) {  // the contract: the key is named
    throw IoError(concat(kKey, ": ", error.what()), error.code());
  } catch (const DataError& error) {
    throw DataError(concat(kKey, ": ", error.what()));
  }
}

void RoutingReplay::read(const std::filesystem::path& path) {
  std::map<std::pair<int64_t, int64_t>, std::string> seen;  // (step, token) -> file
  for (const std::filesystem::path& file : files_of(path)) {
    RoutingSample sample = read_routing(file);
    for (const int64_t token : sample.tokens) {
      const auto [other, is_new] = seen.emplace(std::pair(sample.step, token), file.string());
      if (is_new) continue;
      throw DataError(concat(file.string(), ": token ", token, " of step ", sample.step, " is recorded a second time; ", other->second,
                             " has it too. They are of two runs, or of two layouts of one: keep those of one of them"));
    }
    steps_[sample.step - 1].push_back({file.string(), std::move(sample)});
  }
}

void RoutingReplay::require_fits(const std::vector<std::string>& routers, const MoeConfig& moe) const {
  const std::set<std::string> wanted(routers.begin(), routers.end());
  for (const auto& [step, recordings] : steps_) {
    for (const auto& [file, sample] : recordings) {
      const auto refuse = [&, &file = file](const auto&... what) {
        throw DataError(concat(kKey, ": ", file, " was recorded of another model: ", what...));
      };
      for (const std::string& router : routers) {
        if (!sample.routers.contains(router)) refuse("it has no decisions of ", router);
      }
      for (const auto& [router, decisions] : sample.routers) {
        if (!wanted.contains(router)) refuse("it has decisions of ", router, ", which this model does not have");
        if (sample.router_kind != moe.router_kind()) {
          refuse(router, " was of kind ", sample.router_kind, ", and model.moe.router.kind is ", moe.router_kind());
        }
        if (sample.expert_count != moe.experts) {
          refuse(router, " had ", sample.expert_count, " experts, and model.moe.experts is ", moe.experts);
        }
        if (sample.choices != moe.choices) refuse(router, " had ", sample.choices, " choices, and model.moe.choices is ", moe.choices);
      }
    }
  }
}

bool RoutingReplay::has_steps(int64_t first, int64_t last) const {
  const auto next = steps_.lower_bound(first - 1);
  return next != steps_.end() && next->first < last;
}

std::string RoutingReplay::steps() const {
  const int64_t first = steps_.begin()->first + 1;
  const int64_t last = steps_.rbegin()->first + 1;
  return first == last ? concat("step ", first) : concat("steps ", first, " to ", last);
}

at::Tensor RoutingReplay::apply(const std::string& router, int64_t step, int64_t first_token, int64_t expert_count,
                                const at::Tensor& token_ids, const at::Tensor& experts) const {
  const auto recorded = steps_.find(step);
  if (recorded == steps_.end() || experts.size(0) == 0) return experts;
  if (!token_ids.defined() || token_ids.numel() != experts.size(0)) {
    throw ShapeError(concat(router, ": a replay needs BatchContext::token_ids, one for each of ", experts.size(0), " tokens"));
  }
  const int64_t choices = experts.size(1);
  const at::Tensor host_ids = token_ids.reshape({-1}).cpu().contiguous();
  const int64_t* ids = host_ids.const_data_ptr<int64_t>();
  at::Tensor replayed = experts.cpu().clone();
  int32_t* rows = replayed.mutable_data_ptr<int32_t>();
  for (const auto& [file, sample] : recorded->second) {
    const auto found = sample.routers.find(router);
    if (found == sample.routers.end()) throw DataError(concat(file, " has no decisions of ", router, ": it was recorded of another model"));
    const RoutingDecisions& decisions = found->second;
    if (decisions.choices != choices) {
      throw DataError(
          concat(file, ": ", router, " was recorded with ", decisions.choices, " experts a token, and model.moe.choices is ", choices));
    }
    for (size_t index = 0; index < sample.tokens.size(); ++index) {
      const int64_t row = sample.tokens[index] - first_token;
      if (row < 0 || row >= experts.size(0)) continue;
      if (ids[row] != sample.token_ids[index]) {
        throw DataError(concat(file, ": token ", sample.tokens[index], " of step ", sample.step, " was recorded with id ",
                               sample.token_ids[index], ", and is ", ids[row],
                               " here: the recording is of another corpus, run.seed, train.global_batch or model.sequence_length"));
      }
      const int32_t* chosen = decisions.experts.data() + static_cast<int64_t>(index) * choices;
      for (int64_t choice = 0; choice < choices; ++choice) {
        if (chosen[choice] < -1 || chosen[choice] >= expert_count) {
          throw DataError(
              concat(file, ": ", router, " was recorded with expert ", chosen[choice], ", and model.moe.experts is ", expert_count));
        }
      }
      std::copy(chosen, chosen + choices, rows + row * choices);
    }
  }
  return replayed.to(experts.device());
}

}  // namespace pimoe
