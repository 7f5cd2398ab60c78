#include "proof/parity_report.h"

#include "base/errors.h"
#include "base/text.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <limits>
#include <map>

namespace pimoe {

const std::array<const char*, kPairs> kPairNames = {"layout ~ one rank", "layout ~ loop", "one rank ~ loop"};

namespace {

constexpr std::array<std::array<const char*, 2>, kPairs> kRunNames = {
    {{"the layout", "one rank"}, {"the layout", "the loop"}, {"one rank", "the loop"}}};

std::string name_of(const Fact& fact) { return concat(fact.quantity, fact.tensor.empty() ? "" : " of ", fact.tensor); }

/// Differences relative to `scale`, NaN if anything is not finite.
double distance(const Fact& ours, const Fact& theirs, double scale) {
  if (ours.values.sizes() != theirs.values.sizes()) return std::numeric_limits<double>::quiet_NaN();
  at::Tensor apart = (ours.values - theirs.values).abs();
  if (theirs.slack.defined()) apart = (apart - theirs.slack).clamp_min(0);
  const double worst = largest(apart);
  return worst == 0.0 ? 0.0 : worst / scale;
}

bool worse(double a, double b) { return std::isnan(b) ? false : std::isnan(a) || a > b; }

}  // namespace

double largest(const at::Tensor& values) { return values.numel() == 0 ? 0.0 : values.abs().max().item<double>(); }

void ParityReport::compare(Pair pair, const Facts& ours, const Facts& theirs) {
  if (ours.size() != theirs.size()) throw ShapeError("parity: runs with different lists of facts");
  std::map<std::string, double> scales;
  for (const Fact& fact : theirs) scales[fact.quantity] = std::max(scales[fact.quantity], largest(fact.values));
  for (size_t index = 0; index < ours.size(); ++index) {
    const Fact& fact = ours[index];
    auto row = std::find_if(rows_.begin(), rows_.end(), [&](const ParityRow& known) { return known.quantity == fact.quantity; });
    if (row == rows_.end()) row = rows_.insert(rows_.end(), ParityRow{fact.quantity, {}});
    const double scale = std::max({largest(theirs[index].values), kNoiseFloor * scales[fact.quantity], 1e-300});
    const double apart = distance(fact, theirs[index], scale);
    const double allowed = fact.exact ? 0.0 : tolerance_;
    const bool agrees = apart <= allowed;  // a NaN does not
    Difference& difference = row->pairs[pair];
    if (!difference.compared || worse(apart, difference.worst))
      std::tie(difference.worst, difference.tensor) = std::tie(apart, fact.tensor);
    difference.compared = true;
    difference.agrees = difference.agrees && agrees;
    if (!agrees && (first_.empty() || index < first_index_)) {
      first_index_ = index;
      first_ = concat(name_of(fact), ": ", kPairNames[pair], ": apart by ", std::isnan(apart) ? "nan" : scientific(apart, 1), ", allowed ",
                      scientific(allowed, 1));
    }
    for (const bool is_second : {false, true}) {
      const bool is_finite = at::isfinite(is_second ? theirs[index].values : fact.values).all().item<bool>();
      if (is_finite || (!not_finite_.empty() && index >= not_finite_index_)) continue;
      not_finite_index_ = index;
      not_finite_ = concat(name_of(fact), " of ", kRunNames[pair][is_second ? 1 : 0]);
    }
  }
}

std::vector<std::string> ParityReport::notes() const {
  std::vector<std::string> notes = notes_;
  if (!not_finite_.empty()) {
    notes.push_back(concat("numbers leave the range of their type, first in ", not_finite_, ": what follows from them cannot be compared"));
  }
  return notes;
}

std::string ParityReport::table() const {
  std::ostringstream out;
  size_t width = 20;
  for (const ParityRow& row : rows_) width = std::max(width, row.quantity.size() + 2);
  out << std::left << std::setw(static_cast<int>(width)) << "quantity";
  for (const char* name : kPairNames) out << std::right << std::setw(19) << name;
  out << "  verdict  worst in\n";
  for (const ParityRow& row : rows_) {
    out << std::left << std::setw(static_cast<int>(width)) << row.quantity << std::right;
    bool agrees = true;
    const Difference* worst = nullptr;
    for (const Difference& difference : row.pairs) {
      out << std::setw(19) << (difference.compared ? scientific(difference.worst, 1) : "-");
      if (!difference.compared) continue;
      agrees = agrees && difference.agrees;
      if (worst == nullptr || worse(difference.worst, worst->worst)) worst = &difference;
    }
    out << (agrees ? "  agrees   " : "  DIFFERS  ") << (worst != nullptr ? worst->tensor : "") << "\n";
  }
  for (const std::string& line : notes()) out << "note: " << line << "\n";
  return out.str();
}

nlohmann::ordered_json ParityReport::json() const {
  using Json = nlohmann::ordered_json;
  Json quantities = Json::array();
  for (const ParityRow& row : rows_) {
    Json entry = {{"name", row.quantity}};
    bool agrees = true;
    const std::array<const char*, kPairs> keys = {"layout_one_rank", "layout_loop", "one_rank_loop"};
    for (int pair = 0; pair < kPairs; ++pair) {
      const Difference& difference = row.pairs[static_cast<size_t>(pair)];
      // JSON has no NaN: null with agrees false is one.
      entry[keys[static_cast<size_t>(pair)]] =
          difference.compared ? Json{{"worst", difference.worst}, {"tensor", difference.tensor}, {"agrees", difference.agrees}} : Json();
      agrees = agrees && difference.agrees;
    }
    entry["agrees"] = agrees;
    quantities.push_back(std::move(entry));
  }
  return {{"tolerance", tolerance_}, {"agrees", agrees()}, {"first_disagreement", first_}, {"notes", notes()}, {"quantities", quantities}};
}

}  // namespace pimoe
