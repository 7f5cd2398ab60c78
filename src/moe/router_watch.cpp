#include "moe/router_watch.h"

#include "base/text.h"
#include "moe/saved_numbers.h"

#include <algorithm>
#include <numeric>

namespace pimoe {
namespace {

constexpr const char* kPrefix = "router_watch.";
constexpr int64_t kBits = 32;  // of a word that a double holds exactly

bool has_bit(const std::vector<double>& words, int64_t bit) {
  return (static_cast<uint64_t>(words[static_cast<size_t>(bit / kBits)]) >> (bit % kBits) & 1U) != 0;
}

void set_bit(std::vector<double>& words, int64_t bit) {
  double& word = words[static_cast<size_t>(bit / kBits)];
  word = static_cast<double>(static_cast<uint64_t>(word) | uint64_t{1} << (bit % kBits));
}

}  // namespace

RouterWatch::RouterWatch(int64_t window, double collapse_entropy, const MoeLayers& layers)
    : window_(window), collapse_entropy_(collapse_entropy), moe_(layers), layers_(static_cast<size_t>(layers.count)) {
  const auto words = static_cast<size_t>((layers.experts + kBits - 1) / kBits);
  for (Layer& layer : layers_) {
    layer.used.assign(words, 0.0);
    layer.missing.assign(words, 0.0);
  }
}

std::vector<RouterAlarm> RouterWatch::observe(int64_t step, const std::vector<std::vector<int64_t>>& load) {
  std::vector<RouterAlarm> alarms;
  // Of a step without a token there is nothing to learn.
  if (layers_.empty() || std::accumulate(load[0].begin(), load[0].end(), int64_t{0}) == 0) return alarms;
  ++look_steps_;
  for (size_t index = 0; index < layers_.size(); ++index) {
    Layer& layer = layers_[index];
    layer.entropy += load_entropy(load[index]);
    for (int64_t expert = 0; expert < moe_.experts; ++expert) {
      if (load[index][static_cast<size_t>(expert)] > 0) set_bit(layer.used, expert);
    }
  }
  if (look_steps_ < static_cast<double>(window_)) return alarms;
  for (size_t index = 0; index < layers_.size(); ++index) {
    look_for_collapse(step, static_cast<int64_t>(index), load[index], alarms);
    look_for_missing(step, static_cast<int64_t>(index), alarms);
  }
  look_steps_ = 0;
  return alarms;
}

void RouterWatch::look_for_collapse(int64_t step, int64_t index, const std::vector<int64_t>& load, std::vector<RouterAlarm>& alarms) {
  Layer& layer = layers_[static_cast<size_t>(index)];
  const double entropy = entropy_above_least(layer.entropy / look_steps_, moe_.experts, moe_.choices);
  layer.entropy = 0;
  const bool collapsed = entropy < collapse_entropy_;
  if (collapsed && layer.collapsed == 0) {
    const int64_t fullest = std::max_element(load.begin(), load.end()) - load.begin();
    alarms.push_back(
        {moe_.first + index,
         {fullest},
         concat("step ", step, ": layer ", moe_.first + index, ": the router collapses: entropy of the load ", fixed(entropy, 2), " over ",
                look_steps_, " steps (0: all tokens on the same ", moe_.choices, ", 1: balance) is below ", collapse_entropy_, "; expert ",
                fullest, " has ", fixed(maxvio(load) + 1, 1), " times the mean load")});
  }
  layer.collapsed = collapsed ? 1 : 0;
}

void RouterWatch::look_for_missing(int64_t step, int64_t index, std::vector<RouterAlarm>& alarms) {
  Layer& layer = layers_[static_cast<size_t>(index)];
  std::vector<int64_t> news;
  std::vector<double> missing(layer.missing.size(), 0.0);
  for (int64_t expert = 0; expert < moe_.experts; ++expert) {
    if (has_bit(layer.used, expert)) continue;
    if (!has_bit(layer.missing, expert)) news.push_back(expert);
    set_bit(missing, expert);
  }
  layer.missing = missing;
  std::fill(layer.used.begin(), layer.used.end(), 0.0);
  if (news.empty()) return;
  std::string names;
  for (const int64_t expert : news) names += concat(names.empty() ? "" : ", ", expert);
  alarms.push_back({moe_.first + index, news,
                    concat("step ", step, ": layer ", moe_.first + index, news.size() == 1 ? ": expert " : ": experts ", names,
                           " had no slot in ", look_steps_, " steps")});
}

std::vector<RouterAlarm> RouterWatch::observe_nonfinite(int64_t step, const std::vector<double>& slots) {
  std::vector<RouterAlarm> alarms;
  for (size_t index = 0; index < layers_.size(); ++index) {
    double& told = layers_[index].nonfinite;
    const int64_t layer = moe_.first + static_cast<int64_t>(index);
    if (slots[index] > 0 && told == 0) {
      alarms.push_back({layer,
                        {},
                        concat("step ", step, ": layer ", layer, ": the experts' results of ", slots[index],
                               " slots are not finite; these tokens go by the shared or fallback network, now and until a step has none "
                               "(moe/nonfinite_slots counts them)")});
    }
    told = slots[index] > 0 ? 1 : 0;
  }
  return alarms;
}

template <class Visit>
void RouterWatch::each_number(const Visit& visit) {
  visit(concat(kPrefix, "look_steps"), look_steps_);
  for (size_t index = 0; index < layers_.size(); ++index) {
    Layer& layer = layers_[index];
    const std::string prefix = concat(kPrefix, "layers.", index, ".");
    visit(prefix + "entropy", layer.entropy);
    visit(prefix + "collapsed", layer.collapsed);
    visit(prefix + "nonfinite", layer.nonfinite);
    for (size_t word = 0; word < layer.used.size(); ++word) {
      visit(concat(prefix, "used.", word), layer.used[word]);
      visit(concat(prefix, "missing.", word), layer.missing[word]);
    }
  }
}

std::map<std::string, double> RouterWatch::state() const {
  RouterWatch copy = *this;  // it is small
  return numbers_of([&copy](const NumberVisitor& visit) { copy.each_number(visit); });
}

bool RouterWatch::is_state(const std::string& key) { return begins_with(key, kPrefix); }

bool RouterWatch::restore(const std::map<std::string, double>& numbers) {
  RouterWatch restored = *this;
  const NumberList list = [&restored](const NumberVisitor& visit) { restored.each_number(visit); };
  if (!take_numbers(list, kPrefix, "the routers' watch", numbers)) return false;
  *this = restored;
  return true;
}

}  // namespace pimoe
