/// One MoE layer forward and backward on one rank, from and to raw files, so that another program can compare.
///
///     moe_block CASE_FOLDER ...
///
/// Files are little-endian, row-major, without a header; the type is the suffix. In each folder are read
///
///     case.yaml                   width, tokens, sequence_length, device, precision and moe (a MoeConfig): see BlockCase
///     tokens.f32, gradient.f32    [T, D] the input, and the gradient of the output
///     bias.f32                    [E] the loss-free bias
///     NAME.f32                    each parameter by its logical name: moe.router.weight, moe.experts.gate_up.weight, ...
///
/// and written
///
///     output.f32, weights.f32, experts.i32, load.i64      [T, D], gates [T, K], experts [T, K], slots of each expert [E]
///     grad.tokens.f32, grad.NAME.f32                      of sum(output * gradient)
///     balance.f32, balance.grad.NAME.f32                  the scaled balance losses; their gradients by tokens and moe.router.weight

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "moe/balance.h"
#include "moe/moe_layer.h"
#include "parallel/parameter_buckets.h"
#include "support/ranks.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

struct BlockCase {
  int64_t width = 0;            ///< D
  int64_t tokens = 0;           ///< T
  int64_t sequence_length = 1;  ///< S, divides T
  DeviceChoice device = DeviceChoice::kCpu;
  at::ScalarType dtype = at::kFloat;  ///< of weights and tokens in the layer; files are float32 whatever it is
  MoeConfig moe;

  void fields(FieldVisitor& visit) {
    visit.integer("width", width, {.at_least = 1}, "of a token");
    visit.integer("tokens", tokens, {.at_least = 0}, "in all");
    visit.integer("sequence_length", sequence_length, {.at_least = 1}, "of each sequence");
    visit.choice("device", device, {{"cpu", DeviceChoice::kCpu}, {"cuda", DeviceChoice::kCuda}}, "that the layer is on");
    visit.choice("precision", dtype, {{"float32", at::kFloat}, {"bfloat16", at::kBFloat16}}, "of weights and tokens");
    visit.nested("moe", moe);
  }
};

at::Tensor read_tensor(const fs::path& path, at::IntArrayRef shape) {
  const std::vector<std::byte> bytes = read_regular_bytes(path);
  at::Tensor tensor = at::empty(shape, at::kFloat);
  if (bytes.size() != tensor.nbytes()) {
    throw DataError(concat(path.string(), " has ", bytes.size(), " bytes, but ", shape, " in float32 are ", tensor.nbytes()));
  }
  if (!bytes.empty()) std::memcpy(tensor.mutable_data_ptr(), bytes.data(), bytes.size());
  return tensor;
}

void write_tensor(const fs::path& path, const at::Tensor& tensor) {
  const at::Tensor host = tensor.detach().cpu().contiguous();
  const at::Tensor dense = host.is_floating_point() ? host.to(at::kFloat) : host;
  std::ofstream file(path, std::ios::binary);
  file.write(static_cast<const char*>(dense.const_data_ptr()), static_cast<std::streamsize>(dense.nbytes()));
  file.close();
  if (!file) throw Error(concat(path.string(), " could not be written"));
}

/// Writes the gradient that `leaf` has by now and forgets it. What nothing depends on has a gradient of zeros.
void write_gradient(const fs::path& path, at::Tensor leaf) {
  write_tensor(path, leaf.grad().defined() ? leaf.grad() : at::zeros_like(leaf));
  leaf.mutable_grad() = at::Tensor();
}

void run(const fs::path& folder) {
  BlockCase given;
  const fs::path file = folder / "case.yaml";
  const ConfigOrigins origins = load_fields(read_file(file), file.string(), {}, [&](FieldVisitor& visit) { given.fields(visit); });
  Violations violations;
  given.moe.validate("moe", violations);
  refuse(violations, origins);

  MeshConfig layout;
  layout.device = given.device;
  const auto mesh = single_mesh(layout, given.moe.common_divisor());
  ParameterList parameters;
  MoELayer layer(parameters, "moe", given.moe, given.width, /*vocabulary=*/1, given.dtype, {}, *mesh);
  const ParameterBuckets buckets(parameters, *mesh, ParameterBuckets::kBucketBytes, /*trained=*/true);
  for (const auto& parameter : parameters) {
    const at::NoGradGuard no_gradients;
    parameter->value.copy_(read_tensor(folder / (parameter->name + ".f32"), parameter->box.shape));
  }
  layer.router().bias().copy_(read_tensor(folder / "bias.f32", {given.moe.experts}));
  const auto rows = at::TensorOptions().device(mesh->device()).dtype(given.dtype);
  const at::Tensor tokens = read_tensor(folder / "tokens.f32", {given.tokens, given.width}).to(rows).requires_grad_(true);
  const at::Tensor gradient = read_tensor(folder / "gradient.f32", {given.tokens, given.width}).to(rows);

  BatchContext context(0, given.tokens);
  context.sequence_length = given.sequence_length;
  std::optional<RoutingMemo> memo;
  const MoEOutput output = layer.forward(tokens, context, memo);
  const BalanceTerms terms =
      balance_terms({output.record}, given.moe.balance, static_cast<double>(given.tokens), {}, mesh->group(Group::kBatch));
  write_tensor(folder / "output.f32", output.tokens);
  write_tensor(folder / "weights.f32", output.record.weights);
  write_tensor(folder / "experts.i32", output.record.experts);
  write_tensor(folder / "load.i64", terms.load[0]);
  write_tensor(folder / "balance.f32", terms.loss);

  terms.loss.backward({}, /*keep_graph=*/true);
  write_gradient(folder / "balance.grad.tokens.f32", tokens);
  write_gradient(folder / "balance.grad.moe.router.weight.f32", parameters.at("moe.router.weight").value);
  (output.tokens * gradient).sum().backward();
  write_gradient(folder / "grad.tokens.f32", tokens);
  for (const auto& parameter : parameters) write_gradient(folder / ("grad." + parameter->name + ".f32"), parameter->value);
}

}  // namespace
}  // namespace pimoe

int main(int argc, char** argv) {
  for (int index = 1; index < argc; ++index) {
    try {
      pimoe::run(argv[index]);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "moe_block: %s: %s\n", argv[index], error.what());
      return 1;
    }
  }
  return 0;
}
