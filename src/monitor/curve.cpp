#include "monitor/curve.h"

#include <algorithm>
#include <cmath>

namespace pimoe {
namespace {

int64_t stretch_of(int64_t first, int64_t last, int64_t stretches) {
  const int64_t steps = std::max<int64_t>(1, last - first + 1);
  return (steps + stretches - 1) / stretches;
}

}  // namespace

Curve::Curve(int64_t first, int64_t last, int64_t stretches) : first_(first), stretch_(stretch_of(first, last, stretches)) {}

void Curve::add(int64_t step, double value) {
  const auto index = static_cast<size_t>(std::max<int64_t>(0, step - first_) / stretch_);
  if (index >= stretches_.size()) stretches_.resize(index + 1);
  Extremes& at = stretches_[index];
  if (!at.is_used) at.least.step = at.most.step = step;
  at.is_used = true;
  if (std::isnan(value)) return;
  at.sum += value;
  ++at.numbers;
  // The last of equal values ends the stretch, so that of two steps both are kept.
  if (std::isnan(at.least.value) || value < at.least.value) at.least = {step, value};
  if (std::isnan(at.most.value) || value >= at.most.value) at.most = {step, value};
}

std::vector<Curve::Point> Curve::points() const {
  std::vector<Point> points;
  for (const Extremes& at : stretches_) {
    if (!at.is_used) continue;
    points.push_back(at.least.step <= at.most.step ? at.least : at.most);
    if (at.least.step != at.most.step) points.push_back(at.least.step < at.most.step ? at.most : at.least);
  }
  return points;
}

std::vector<Curve::Point> Curve::means() const {
  std::vector<Point> points;
  for (size_t index = 0; index < stretches_.size(); ++index) {
    const Extremes& at = stretches_[index];
    if (!at.is_used) continue;
    const int64_t middle = first_ + static_cast<int64_t>(index) * stretch_ + stretch_ / 2;
    points.push_back({middle, at.numbers == 0 ? std::numeric_limits<double>::quiet_NaN() : at.sum / static_cast<double>(at.numbers)});
  }
  return points;
}

RowGrid::RowGrid(int64_t first, int64_t last, int64_t stretches, size_t rows)
    : first_(first), stretch_(stretch_of(first, last, stretches)), rows_(rows) {}

void RowGrid::add(int64_t step, const std::vector<double>& values) {
  const auto column = static_cast<size_t>(std::max<int64_t>(0, step - first_) / stretch_);
  if (column >= columns()) {
    sums_.resize((column + 1) * rows_, 0.0);
    most_.resize((column + 1) * rows_, std::numeric_limits<double>::quiet_NaN());
    counts_.resize((column + 1) * rows_, 0);
  }
  for (size_t row = 0; row < std::min(rows_, values.size()); ++row) {
    if (std::isnan(values[row])) continue;
    const size_t cell = column * rows_ + row;
    sums_[cell] += values[row];
    ++counts_[cell];
    if (!(most_[cell] >= values[row])) most_[cell] = values[row];
  }
}

}  // namespace pimoe
