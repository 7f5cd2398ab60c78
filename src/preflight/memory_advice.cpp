#include "preflight/memory_advice.h"

#include "base/text.h"
#include "moe/routed_rows.h"
#include "preflight/remedies.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace pimoe {
namespace {

constexpr size_t kMostRemedies = 5;
constexpr double kBalanced = 1.0;  // as a skew

using Part = std::pair<const char*, int64_t>;

/// "experts 9.1 GB, attention 4.0 GB", the largest first.
std::string parts_text(std::vector<Part> parts) {
  std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.second > b.second; });
  std::vector<std::string> texts;
  for (const auto& [name, bytes] : parts) {
    if (bytes > 0) texts.push_back(concat(name, " ", human_bytes(static_cast<double>(bytes))));
  }
  return join(texts, ", ");
}

}  // namespace

std::string memory_advice(const TrainConfig& config, const ForecastPlace& place) {
  const Forecast forecast(config, place);
  const MemoryForecast memory = forecast.memory(kBalanced);
  const ActivationBytes& kept = memory.activations;
  const auto text = [](int64_t bytes) { return human_bytes(static_cast<double>(bytes)); };

  const int64_t balanced = memory.peak(place.on_gpu);
  const int64_t skewed = forecast.memory(kWorstSkew).peak(place.on_gpu);
  std::string advice = concat(
      "By the forecast the fullest rank needs ", text(balanced),
      skewed == balanced ? "" : concat(" with balanced experts, and ", text(skewed), " where one rank's experts take all tokens"), ".\n",
      "  state:       ", parts_text({{"weights", memory.weights}, {"gradients", memory.gradients}, {"optimizer", memory.optimizer}}), "\n",
      "  activations: ",
      parts_text({{"residual stream", kept.stream},
                  {"norms", kept.norms},
                  {"attention", kept.attention},
                  {"dense layers", kept.dense},
                  {"router", kept.router},
                  {"dispatch", kept.dispatch},
                  {"experts", kept.experts},
                  {"shared and fallback", kept.others},
                  {"loss", kept.loss},
                  {"workspace", std::max(kept.layer_workspace, kept.loss_workspace)}}),
      "\n");
  const std::vector<Remedy> all = remedies(config, place, kWorstSkew);
  if (all.empty()) return advice + "No change of the configuration gives more than that: more ranks, or a smaller model.";
  advice += "What gives most, each alone:";
  for (size_t index = 0; index < std::min(all.size(), kMostRemedies); ++index) {
    advice += concat("\n  ", all[index].change, ": ", text(all[index].bytes), " less");
  }
  return advice;
}

}  // namespace pimoe
