#pragma once

/// A small configuration for the tests of config_fields: three levels, every kind of field, and lists inside each other.

#include <filesystem>
#include <string>
#include <vector>

#include "base/config_fields.h"
#include "base/errors.h"

namespace pimoe {

enum class Schedule { kCosine, kLinear, kConstant };

enum class Activation { kSilu, kGelu };

struct SampleShape {
  int64_t width = 64;

  void fields(FieldVisitor& visit) { visit.integer("width", width, {.at_least = 1}, "of the hidden layer"); }
  bool operator==(const SampleShape&) const = default;
};

struct SampleGroup {
  std::string name = "unnamed";
  int64_t count = 1;
  Activation activation = Activation::kSilu;
  SampleShape shape = {};
  std::vector<SampleShape> more = {};

  void fields(FieldVisitor& visit) {
    visit.text("name", name, "of the group");
    visit.integer("count", count, {.at_least = 1}, "its experts");
    visit.choice("activation", activation, {{"silu", Activation::kSilu}, {"gelu", Activation::kGelu}}, "of all of them");
    visit.nested("shape", shape);
    visit.list("more", more, "layers");
  }
  bool operator==(const SampleGroup&) const = default;
};

struct SampleMoe {
  int64_t experts = 8;
  int64_t choices = 2;
  std::vector<SampleGroup> groups;

  void fields(FieldVisitor& visit) {
    visit.integer("experts", experts, {.at_least = 1}, "experts of a layer");
    visit.integer("choices", choices, {.at_least = 1, .at_most = 64}, "experts of a token");
    visit.list("groups", groups, "kinds of experts");
  }
  bool operator==(const SampleMoe&) const = default;
};

struct SampleModel {
  int64_t layers = 6;
  std::string name = "small";
  SampleMoe moe;

  void fields(FieldVisitor& visit) {
    visit.integer("layers", layers, {.at_least = 1}, "transformer blocks");
    visit.text("name", name, "for people");
    visit.nested("moe", moe);
  }
  bool operator==(const SampleModel&) const = default;
};

struct SampleOptimizer {
  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double offset = 0;
  Schedule schedule = Schedule::kCosine;

  void fields(FieldVisitor& visit) {
    visit.number("learning_rate", learning_rate, {.above = 0.0}, "peak");
    visit.number("beta1", beta1, {.at_least = 0.0, .below = 1.0}, "");
    visit.number("offset", offset, {}, "any number");
    visit.choice("schedule", schedule, {{"cosine", Schedule::kCosine}, {"linear", Schedule::kLinear}, {"constant", Schedule::kConstant}},
                 "after warm-up");
  }
  bool operator==(const SampleOptimizer&) const = default;
};

struct SampleRun {
  std::filesystem::path directory = "runs/sample";
  int64_t seed = 1234;
  bool deterministic = false;

  void fields(FieldVisitor& visit) {
    visit.path("directory", directory, "where the run lives");
    visit.integer("seed", seed, {}, "of everything random");
    visit.flag("deterministic", deterministic, "same bits each time");
  }
  bool operator==(const SampleRun&) const = default;
};

struct SampleMesh {
  int64_t expert_parallel = 0;

  void fields(FieldVisitor& visit) {
    visit.integer_or_auto("expert_parallel", expert_parallel, {.at_least = 1}, "ranks that share out the experts");
  }
  bool operator==(const SampleMesh&) const = default;
};

struct SampleEvery {
  int64_t every_steps = 10;

  void fields(FieldVisitor& visit) { visit.integer("every_steps", every_steps, {.at_least = 0}, ""); }
  bool operator==(const SampleEvery&) const = default;
};

struct SampleConfig {
  SampleRun run;
  SampleMesh mesh;
  SampleModel model;
  SampleOptimizer optimizer;
  SampleEvery checkpoint;
  SampleEvery log;

  void fields(FieldVisitor& visit) {
    visit.nested("run", run);
    visit.nested("mesh", mesh);
    visit.nested("model", model);
    visit.nested("optimizer", optimizer);
    visit.nested("checkpoint", checkpoint);
    visit.nested("log", log);
  }
  bool operator==(const SampleConfig&) const = default;
};

/// @returns what "a.yaml" with content `yaml`, and then the overrides, make of the defaults.
inline SampleConfig loaded(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  SampleConfig config;
  load_fields(yaml, "a.yaml", overrides, [&config](FieldVisitor& visit) { config.fields(visit); });
  return config;
}

/// @returns the message of the ConfigError that loading ends with, or "" when it succeeds.
inline std::string complaint(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  try {
    loaded(yaml, overrides);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

}  // namespace pimoe
