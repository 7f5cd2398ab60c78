#include "compress/product_samples.h"

#include "base/text.h"
#include "train/gradient_step.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

namespace pimoe {
namespace {

constexpr int64_t kRows = 256;  ///< of a matrix, or of all experts together, at most

/// The number in "layers.3.attention.qkv.weight"; nothing in other names.
std::optional<int64_t> layer_of(const std::string& name) {
  const std::vector<std::string> parts = split(name, '.');
  if (parts.size() < 2 || parts[0] != "layers") return std::nullopt;
  return std::stoll(parts[1]);
}

/// Of each group the first rows, not more than kRows in all. @returns the rows and their ends
std::pair<at::Tensor, at::Tensor> some_of(const at::Tensor& rows, const at::Tensor& ends) {
  if (!ends.defined()) {
    const int64_t count = std::min(kRows, rows.size(0));
    return {rows.narrow(0, 0, count).clone(), at::full({1}, count, rows.options().dtype(at::kInt))};
  }
  const at::Tensor host = ends.cpu();
  const int64_t of_each = std::max<int64_t>(1, kRows / std::max<int64_t>(1, ends.numel()));
  std::vector<at::Tensor> parts;
  std::vector<int32_t> part_ends;
  int32_t begin = 0, taken = 0;
  for (int64_t group = 0; group < ends.numel(); ++group) {
    const int32_t end = host.const_data_ptr<int32_t>()[group];
    const int64_t count = std::min<int64_t>(of_each, end - begin);
    if (count > 0) parts.push_back(rows.narrow(0, begin, count));
    taken += static_cast<int32_t>(count);
    part_ends.push_back(taken);
    begin = end;
  }
  const at::Tensor picked = parts.empty() ? rows.narrow(0, 0, 0).clone() : at::cat(parts);
  return {picked, at::tensor(part_ends, at::kInt).to(rows.device())};
}

/// In float32, whatever the model computes in.
at::Tensor plain_results(const at::Tensor& rows, const at::Tensor& ends, const at::Tensor& matrices) {
  at::Tensor results = at::zeros({rows.size(0), matrices.size(-2)}, rows.options().dtype(at::kFloat));
  const at::Tensor host = ends.cpu();
  int64_t begin = 0;
  for (int64_t group = 0; group < ends.numel(); ++group) {
    const int64_t end = host.const_data_ptr<int32_t>()[group];
    const at::Tensor matrix = (matrices.dim() == 3 ? matrices.select(0, group) : matrices).to(at::kFloat);
    if (end > begin) results.narrow(0, begin, end - begin).copy_(at::linear(rows.narrow(0, begin, end - begin).to(at::kFloat), matrix));
    begin = end;
  }
  return results;
}

}  // namespace

int64_t compute_sequence(const LoadedModel& loaded, const TokenFile& corpus, int64_t begin, int64_t longest) {
  const at::NoGradGuard no_gradients;
  const Communicator& group = loaded.mesh->group(Group::kExpert);
  const int64_t length = std::min({loaded.model->config().sequence_length, corpus.token_count() - 1 - begin, longest});
  const int64_t sequences = group.rank() == 0 ? 1 : 0;
  const at::Tensor ids = at::empty({sequences, length + 1}, at::kLong);
  if (sequences > 0) {
    corpus.read(begin, length + 1, ids.mutable_data_ptr<int64_t>());
    corpus.require_ids_below(loaded.model->config().vocabulary, begin, ids.const_data_ptr<int64_t>(), length + 1);
  }
  const auto part = [&](int64_t first) { return ids.narrow(1, first, length).contiguous().to(loaded.mesh->device()); };
  loaded.model->forward(part(0), part(1), batch_context(0, group.size(), length, *loaded.mesh));
  return length;
}

std::vector<std::string> first_matrices_of_routers(const ModelConfig& model) {
  std::vector<std::string> names;
  for (const std::string& router : model.router_names()) {
    names.push_back(router + (model.moe.router.projection > 0 ? ".projection.weight" : ".weight"));
  }
  return names;
}

MatrixWatch::MatrixWatch(ParameterList& parameters, const std::set<std::string>& names, See see) {
  for (const std::string& name : names) {
    Parameter& parameter = parameters.at(name);
    parameter.watch = [see, &parameter](const at::Tensor& rows, const at::Tensor& ends) { see(parameter, rows, ends); };
    watched_.push_back(&parameter);
  }
}

MatrixWatch::~MatrixWatch() {
  for (Parameter* parameter : watched_) parameter->watch = nullptr;
}

ProductSamples::ProductSamples(const LoadedModel& loaded, const TokenFile& corpus, const std::set<std::string>& names) {
  const MatrixWatch watch(loaded.model->parameters(), names, [&](const Parameter& matrix, const at::Tensor& rows, const at::Tensor& ends) {
    if (rows.size(0) == 0 || samples_.contains(matrix.name)) return;
    auto [some, some_ends] = some_of(rows, ends);
    samples_[matrix.name] = {some, some_ends, plain_results(some, some_ends, matrix.value)};
  });
  compute_sequence(loaded, corpus, 0);
}

void ProductSamples::add_errors(const LoadedModel& quantized, std::vector<LayerChange>& layers) const {
  const QuantizationConfig& how = quantized.config.model.quantization;
  ParameterList& parameters = quantized.model->parameters();
  // The same matrices on every rank, in the same order: each has a place for the squares that all ranks add up.
  std::vector<std::string> names;
  for (const auto& parameter : parameters) {
    if (parameter->dtype == at::kChar) names.push_back(parameter->name);
  }
  at::Tensor squares = at::zeros({static_cast<int64_t>(names.size()), 2}, at::kDouble);
  for (size_t index = 0; index < names.size(); ++index) {
    const auto found = samples_.find(names[index]);
    if (found == samples_.end()) continue;
    const Sample& sample = found->second;
    const at::Tensor& numbers = parameters.at(names[index]).value;
    const auto in_groups = [&](const at::Tensor& tensor, int64_t dimensions) {
      return tensor.dim() == dimensions ? tensor : tensor.unsqueeze(0);
    };
    const Int8Matrices matrices{
        .numbers = in_groups(numbers, 3),
        .scales = in_groups(parameters.at(names[index] + kScaleSuffix).value, 2),
        .input_scales = how.kind == QuantizationKind::kStatic ? parameters.at(names[index] + kInputScaleSuffix).value : at::Tensor(),
        .activations = how.activations(),
        .allow_slow = how.allow_slow};
    const at::Tensor results = int8_linear(sample.rows.contiguous(), matrices, sample.ends, at::kFloat);
    squares[static_cast<int64_t>(index)][0] = (results - sample.results).to(at::kDouble).square().sum().cpu();
    squares[static_cast<int64_t>(index)][1] = sample.results.to(at::kDouble).square().sum().cpu();
  }
  quantized.mesh->control().all_reduce(squares);
  for (size_t index = 0; index < names.size(); ++index) {
    const std::optional<int64_t> layer = layer_of(names[index]);
    const double whole = squares[static_cast<int64_t>(index)][1].item<double>();
    if (!layer || whole <= 0) continue;
    LayerChange& change = layers.at(static_cast<size_t>(*layer));
    const double error = std::sqrt(squares[static_cast<int64_t>(index)][0].item<double>() / whole);
    if (change.output_error && *change.output_error >= error) continue;
    change.output_error = error;
    change.worst_matrix = names[index];
  }
}

}  // namespace pimoe
