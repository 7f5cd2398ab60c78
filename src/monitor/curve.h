#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace pimoe {

/// A value over steps, thinned to at most two points for each of so many equal stretches of steps: the smallest and the largest value of the stretch, each
/// at its own step. No spike is lost, no value is made up, and memory does not grow with the run. Beside them the mean of each stretch.
class Curve {
 public:
  struct Point {
    int64_t step = 0;
    double value = 0.0;  ///< NaN: a stretch in which nothing else was
  };

  /// @param first, last  steps that are expected; later ones may come
  Curve(int64_t first, int64_t last, int64_t stretches);

  /// @param value  NaN where it was no number
  void add(int64_t step, double value);

  /// @returns in the order of steps
  std::vector<Point> points() const;
  /// The mean of what was a number in each stretch, at its middle.
  std::vector<Point> means() const;
  /// Steps of a stretch: up to 2, every value is kept.
  int64_t stretch() const { return stretch_; }
  bool is_empty() const { return stretches_.empty(); }

 private:
  struct Extremes {
    Point least{0, std::numeric_limits<double>::quiet_NaN()};
    Point most{0, std::numeric_limits<double>::quiet_NaN()};
    double sum = 0.0;
    int64_t numbers = 0;
    bool is_used = false;
  };

  int64_t first_;
  int64_t stretch_;
  std::vector<Extremes> stretches_;
};

/// Rows over stretches of steps: a sum and a count for each cell, or the most that there was.
class RowGrid {
 public:
  RowGrid(int64_t first, int64_t last, int64_t stretches, size_t rows);

  /// @param values  [rows]; NaN counts for nothing
  void add(int64_t step, const std::vector<double>& values);

  size_t rows() const { return rows_; }
  size_t columns() const { return counts_.size() / rows_; }
  int64_t stretch() const { return stretch_; }
  int64_t first() const { return first_; }
  double sum(size_t column, size_t row) const { return sums_[column * rows_ + row]; }
  double most(size_t column, size_t row) const { return most_[column * rows_ + row]; }  ///< NaN in a cell of nothing
  int64_t count(size_t column, size_t row) const { return counts_[column * rows_ + row]; }

 private:
  int64_t first_;
  int64_t stretch_;
  size_t rows_;
  std::vector<double> sums_;
  std::vector<double> most_;
  std::vector<int64_t> counts_;
};

}  // namespace pimoe
