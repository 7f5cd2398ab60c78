#include "compress/compression_report.h"

#include "base/text.h"
#include "base/text_table.h"

#include <ATen/TensorOperators.h>
#include <nlohmann/json.hpp>

#include <cmath>

namespace pimoe {
namespace {

using Json = nlohmann::ordered_json;

template <class Value>
Json or_null(const std::optional<Value>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json figures(const ModelSize& size, double loss, const ModelSpeed& speed) {
  return {{"bytes", size.bytes},
          {"expert_bytes", size.expert_bytes},
          {"parameters", size.parameters},
          {"experts", size.experts},
          {"loss", loss},
          {"perplexity", std::exp(loss)},
          {"prefill_tokens_per_second", or_null(speed.prefill)},
          {"decode_tokens_per_second", or_null(speed.decode)}};
}

Json to_json(const LayerChange& layer) {
  return {{"layer", layer.layer},
          {"agreement", or_null(layer.agreement)},
          {"output_error", or_null(layer.output_error)},
          {"worst_matrix", layer.worst_matrix},
          {"experts_used_before", or_null(layer.used_before)},
          {"experts_used_after", or_null(layer.used_after)}};
}

std::string percent(const std::optional<double>& share, int decimals = 2) {
  return share ? concat(fixed(100 * *share, decimals), " %") : "-";
}
std::string rate(const std::optional<double>& value) { return value ? grouped(static_cast<int64_t>(std::llround(*value))) : "-"; }
std::string ratio(double before, double after) { return after > 0 ? concat(fixed(before / after, 2), " x less") : "-"; }
std::string speed_up(const std::optional<double>& before, const std::optional<double>& after) {
  return before && after && *before > 0 ? concat(fixed(*after / *before, 2), " x") : "-";
}

}  // namespace

std::optional<double> CompressionReport::agreement() const {
  double sum = 0.0;
  int64_t count = 0;
  for (const LayerChange& layer : layers) {
    if (!layer.agreement) continue;
    sum += *layer.agreement;
    ++count;
  }
  return count == 0 ? std::nullopt : std::optional(sum / static_cast<double>(count));
}

const LayerChange* CompressionReport::worst_by_agreement() const {
  const LayerChange* worst = nullptr;
  for (const LayerChange& layer : layers) {
    if (layer.agreement && (worst == nullptr || *layer.agreement < *worst->agreement)) worst = &layer;
  }
  return worst;
}

const LayerChange* CompressionReport::worst_by_output() const {
  const LayerChange* worst = nullptr;
  for (const LayerChange& layer : layers) {
    if (layer.output_error && (worst == nullptr || *layer.output_error > *worst->output_error)) worst = &layer;
  }
  return worst;
}

std::pair<int64_t, int64_t> unchanged_rows(const at::Tensor& before, const at::Tensor& after) {
  if (before.sizes() != after.sizes()) return {0, before.size(0)};
  return {before.eq(after).all(1).sum().item<int64_t>(), before.size(0)};
}

double used_share(const at::Tensor& loads) {
  const at::Tensor numbers = loads.to(at::kDouble).cpu();
  const double all = numbers.sum().item<double>();
  if (all <= 0) return 0.0;
  double entropy = 0.0;
  for (int64_t expert = 0; expert < numbers.numel(); ++expert) {
    const double share = numbers[expert].item<double>() / all;
    if (share > 0) entropy -= share * std::log(share);
  }
  return std::exp(entropy) / static_cast<double>(numbers.numel());
}

Json to_json(const CompressionReport& report) {
  Json layers = Json::array();
  for (const LayerChange& layer : report.layers) layers.push_back(to_json(layer));
  const auto number_of = [](const LayerChange* layer) { return layer == nullptr ? Json(nullptr) : Json(layer->layer); };
  return {{"path", report.output},
          {"checkpoint", report.checkpoint},
          {"step", report.step},
          {"change", report.change},
          {"kernel", report.kernel},
          {"data", report.corpus},
          {"tokens", report.tokens},
          {"ranks", report.ranks},
          {"before", figures(report.size_before, report.loss_before, report.speed_before)},
          {"after", figures(report.size_after, report.loss_after, report.speed_after)},
          {"loss_increase", report.loss_increase()},
          {"routing_agreement", or_null(report.agreement())},
          {"worst_layer_by_agreement", number_of(report.worst_by_agreement())},
          {"worst_layer_by_output_error", number_of(report.worst_by_output())},
          {"layers", layers},
          {"remarks", report.remarks}};
}

std::string to_text(const CompressionReport& report) {
  const ModelSize& was = report.size_before;
  const ModelSize& is = report.size_after;
  const auto bytes = [](int64_t count) { return human_bytes(static_cast<double>(count)); };
  const auto row = [](const char* name, const auto& before, const auto& after, const std::string& change) {
    return std::vector<std::string>{name, before, after, change};
  };
  TextTable table = {{"", "before", "after", "change"}};
  table.push_back(row("weights", bytes(was.bytes), bytes(is.bytes), ratio(static_cast<double>(was.bytes), static_cast<double>(is.bytes))));
  if (was.expert_bytes > 0) {
    table.push_back(row("of experts", bytes(was.expert_bytes), bytes(is.expert_bytes),
                        ratio(static_cast<double>(was.expert_bytes), static_cast<double>(is.expert_bytes))));
  }
  if (was.parameters != is.parameters) {
    table.push_back(row("parameters", grouped(was.parameters), grouped(is.parameters),
                        ratio(static_cast<double>(was.parameters), static_cast<double>(is.parameters))));
  }
  if (was.experts != is.experts) table.push_back(row("experts", grouped(was.experts), grouped(is.experts), ""));
  table.push_back(row("loss", fixed(report.loss_before, 4), fixed(report.loss_after, 4),
                      concat(report.loss_increase() < 0 ? "" : "+", fixed(100 * report.loss_increase(), 3), " %")));
  table.push_back(row("perplexity", fixed(std::exp(report.loss_before), 3), fixed(std::exp(report.loss_after), 3), ""));
  table.push_back(row("prefill, tokens/s", rate(report.speed_before.prefill), rate(report.speed_after.prefill),
                      speed_up(report.speed_before.prefill, report.speed_after.prefill)));
  table.push_back(row("decode, tokens/s", rate(report.speed_before.decode), rate(report.speed_after.decode),
                      speed_up(report.speed_before.decode, report.speed_after.decode)));
  std::string text = concat(report.output, ": ", report.change, "\nkernel: ", report.kernel, "\n\n", table_text(table), "\n");

  TextTable layers = {{"layer", "same experts", "output error", "experts used", "after"}};
  for (const LayerChange& layer : report.layers) {
    layers.push_back({std::to_string(layer.layer), percent(layer.agreement), percent(layer.output_error, 3), percent(layer.used_before, 1),
                      percent(layer.used_after, 1)});
  }
  text += table_text(layers);
  if (const LayerChange* worst = report.worst_by_agreement()) {
    text += concat("\nof tokens ", percent(report.agreement()), " keep their experts; worst layer ", worst->layer, ": ",
                   percent(worst->agreement), "\n");
  }
  if (const LayerChange* worst = report.worst_by_output()) {
    text += concat(worst->worst_matrix.empty() ? concat("worst output of experts: layer ", worst->layer)
                                               : concat("worst product: ", worst->worst_matrix),
                   ", ", percent(worst->output_error, 3), " off\n");
  }
  for (const std::string& remark : report.remarks) text += remark + "\n";
  text += concat("measured on ", grouped(report.tokens), " tokens of ", report.corpus,
                 report.ranks > 1 ? concat(", ", report.ranks, " ranks") : "", "\n");
  return text;
}

}  // namespace pimoe
