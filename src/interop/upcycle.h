#pragma once

#include "base/config_fields.h"
#include "interop/weight_names.h"
#include "model/model_config.h"

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

namespace pimoe {

/// How a dense model becomes one with experts: each of its feed-forward networks becomes N copies of itself behind a new router, of which a token
/// passes K, weighed by gates that add up to 1. Whatever the router does, copies give what the one network gave: sum_k g_k f(x) = f(x).
///
/// With `split` G each copy is cut along its hidden width into G experts, of which a token passes G K. The router's rows are
/// equal within a copy, so that the experts of the K best copies are chosen whole, each with a G-th of its copy's gate; their down matrices are
/// multiplied by G. The function is the same, until training moves the parts of a copy apart.
/// @source arXiv 2212.05055; parts, and rows equal within a copy ("virtual groups"): arXiv 2410.07524 sections 3.2 and 4.2
struct Upcycling {
  int64_t experts = 8;       ///< N, copies of each network
  int64_t choices = 2;       ///< K, copies that a token passes
  int64_t split = 1;         ///< G, experts that each copy is cut into
  int64_t dense_layers = 0;  ///< layers in front that stay as they are
  double noise = 0.0;        ///< every weight of an expert times 1 + noise * N(0, 1), so that copies differ: the function then differs too

  std::string name = "--upcycle";  ///< of what said so, for messages

  void fields(FieldVisitor& visit);
};

/// @param text  "experts=8,choices=2,split=4"  @param name  of the option or key that says so, for messages
/// @throws UsageError naming the part that is unknown, malformed or out of its bounds
Upcycling parse_upcycling(const std::string& text, const std::string& name = "--upcycle");

/// @returns the model with experts
/// @throws DataError naming what does not fit: a model that has experts, a width that split does not divide, more choices than copies
ModelConfig upcycled(const ModelConfig& dense, const Upcycling& how);

/// @param plans  of the dense model  @returns those of `model`, which `upcycled` made of it; new routers have no parts
std::vector<WeightPlan> upcycled_plans(std::vector<WeightPlan> plans, const ModelConfig& model, const Upcycling& how);

/// @returns of a dense model's config.json what is true of the model with experts too: token ids
nlohmann::ordered_json config_of_any_family(const nlohmann::ordered_json& config);

}  // namespace pimoe
