#include "parallel/parameter.h"

#include "base/errors.h"
#include "base/text.h"

namespace pimoe {

Parameter& ParameterList::declare(Parameter parameter) {
  if (!indices_.emplace(parameter.name, parameters_.size()).second) {
    throw ShapeError(concat("parameter ", parameter.name, " is declared twice; names must differ"));
  }
  return *parameters_.emplace_back(std::make_unique<Parameter>(std::move(parameter)));
}

Parameter& ParameterList::at(const std::string& name) const {
  const auto found = indices_.find(name);
  if (found != indices_.end()) return *parameters_[found->second];
  std::vector<std::string> names;
  for (const auto& parameter : parameters_) names.push_back(parameter->name);
  const std::string nearest = nearest_name(name, names);
  throw ShapeError(concat("there is no parameter ", name, nearest.empty() ? "" : "; the nearest is ", nearest));
}

}  // namespace pimoe
