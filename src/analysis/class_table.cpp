#include "analysis/class_table.h"

#include "base/random.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace pimoe {
namespace {

/// p log2(1 / p), 0 at 0.
double surprise(int64_t count, int64_t total) {
  if (count == 0) return 0.0;
  const double share = static_cast<double>(count) / static_cast<double>(total);
  return -share * std::log2(share);
}

double ratio(int64_t part, int64_t whole) { return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole); }

/// The tokens that count, one after the other.
ClassedRouting counted(const ClassedRouting& routing, const std::vector<int64_t>& group_of) {
  ClassedRouting kept = {
      .experts = routing.experts, .choices = routing.choices, .classes = routing.classes, .class_of = {}, .expert_of = {}};
  if (!group_of.empty()) kept.experts = 1 + *std::max_element(group_of.begin(), group_of.end());
  for (size_t token = 0; token < routing.class_of.size(); ++token) {
    if (routing.class_of[token] < 0) continue;
    kept.class_of.push_back(routing.class_of[token]);
    for (int64_t choice = 0; choice < routing.choices; ++choice) {
      const int32_t expert = routing.expert_of[token * static_cast<size_t>(routing.choices) + static_cast<size_t>(choice)];
      kept.expert_of.push_back(expert < 0 || group_of.empty() ? expert : static_cast<int32_t>(group_of[static_cast<size_t>(expert)]));
    }
  }
  return kept;
}

/// @returns a number below `bound`; its deviation from uniform is below bound / 2^64
uint64_t draw_below(uint64_t key, uint64_t index, uint64_t bound) { return random_bits(key, index) % bound; }

}  // namespace

ClassTable::ClassTable(int64_t experts, int64_t classes)
    : experts_(experts), classes_(classes), counts_(static_cast<size_t>(experts * classes)) {}

int64_t ClassTable::slots_of_expert(int64_t expert) const {
  const auto row = counts_.begin() + expert * classes_;
  return std::accumulate(row, row + classes_, int64_t{0});
}

int64_t ClassTable::slots_of_class(int64_t token_class) const {
  int64_t sum = 0;
  for (int64_t expert = 0; expert < experts_; ++expert) sum += slots(expert, token_class);
  return sum;
}

int64_t ClassTable::total() const { return std::accumulate(counts_.begin(), counts_.end(), int64_t{0}); }

double ClassTable::base_rate(int64_t token_class) const { return ratio(slots_of_class(token_class), total()); }

double ClassTable::share(int64_t expert, int64_t token_class) const { return ratio(slots(expert, token_class), slots_of_expert(expert)); }

double ClassTable::lift(int64_t expert, int64_t token_class) const {
  if (slots_of_expert(expert) == 0 || slots_of_class(token_class) == 0) return std::numeric_limits<double>::quiet_NaN();
  return share(expert, token_class) / base_rate(token_class);
}

double ClassTable::class_entropy() const {
  const int64_t all = total();
  double entropy = 0.0;
  for (int64_t token_class = 0; token_class < classes_; ++token_class) entropy += surprise(slots_of_class(token_class), all);
  return entropy;
}

double ClassTable::mutual_information() const {
  const int64_t all = total();
  double information = class_entropy();
  for (int64_t expert = 0; expert < experts_; ++expert) information += surprise(slots_of_expert(expert), all);
  for (const int64_t count : counts_) information -= surprise(count, all);
  return std::max(0.0, information);  // it is no less; rounding may say so
}

double ClassTable::corrected_information() const {
  const int64_t all = total();
  if (all == 0) return 0.0;
  int64_t cells = 0;
  int64_t rows = 0;
  int64_t columns = 0;
  for (const int64_t count : counts_) cells += count > 0 ? 1 : 0;
  for (int64_t expert = 0; expert < experts_; ++expert) rows += slots_of_expert(expert) > 0 ? 1 : 0;
  for (int64_t token_class = 0; token_class < classes_; ++token_class) columns += slots_of_class(token_class) > 0 ? 1 : 0;
  return mutual_information() - static_cast<double>(cells - rows - columns + 1) / (2.0 * static_cast<double>(all) * std::log(2.0));
}

ClassTable ClassTable::merged(const std::vector<int64_t>& group_of, int64_t groups) const {
  ClassTable table(groups, classes_);
  for (int64_t expert = 0; expert < experts_; ++expert) {
    for (int64_t token_class = 0; token_class < classes_; ++token_class) {
      table.add(group_of[static_cast<size_t>(expert)], token_class, slots(expert, token_class));
    }
  }
  return table;
}

ClassTable ClassedRouting::table() const {
  ClassTable counts(experts, classes);
  const int32_t* slot = expert_of.data();
  for (const int8_t token_class : class_of) {
    for (int64_t choice = 0; choice < choices; ++choice, ++slot) {
      if (token_class >= 0 && *slot >= 0) counts.add(*slot, token_class);
    }
  }
  return counts;
}

ChanceLevel chance_level(const ClassedRouting& routing, const std::vector<int64_t>& group_of, int64_t rounds, int64_t distance,
                         uint64_t seed) {
  ClassedRouting moved = counted(routing, group_of);
  const std::vector<int8_t> classes = moved.class_of;
  const uint64_t tokens = classes.size();
  if (tokens < 2 || rounds < 1) return {};
  const double measured = moved.table().mutual_information();

  ChanceLevel chance;
  const uint64_t shuffle_key = named_key(seed, "class_table.shuffle");
  uint64_t draws = 0;
  for (int64_t round = 0; round < rounds; ++round) {
    for (uint64_t left = tokens; left > 1; --left) {
      std::swap(moved.class_of[left - 1], moved.class_of[draw_below(shuffle_key, draws++, left)]);
    }
    chance.shuffled += moved.table().mutual_information() / static_cast<double>(rounds);
  }

  const uint64_t shift_key = named_key(seed, "class_table.shift");
  const uint64_t nearest = tokens > 2 * static_cast<uint64_t>(distance) ? static_cast<uint64_t>(std::max<int64_t>(1, distance)) : 1;
  int64_t as_much = 0;
  for (int64_t round = 0; round < rounds; ++round) {
    const uint64_t by = nearest + draw_below(shift_key, static_cast<uint64_t>(round), tokens - 2 * nearest + 1);
    std::rotate_copy(classes.begin(), classes.begin() + static_cast<int64_t>(by), classes.end(), moved.class_of.begin());
    const double information = moved.table().mutual_information();
    chance.shifted += information / static_cast<double>(rounds);
    chance.shifted_most = std::max(chance.shifted_most, information);
    as_much += information >= measured ? 1 : 0;
  }
  chance.p_value = static_cast<double>(1 + as_much) / static_cast<double>(1 + rounds);
  return chance;
}

}  // namespace pimoe
