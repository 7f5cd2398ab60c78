#include "train/step_profile.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/run_paths.h"
#include "base/text.h"
#include "parallel/device.h"

#include <ATen/SequenceNumber.h>
#include <ATen/record_function.h>
#include <kineto/ActivityType.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <nlohmann/json.hpp>

#include <charconv>
#include <cstdlib>
#include <mutex>
#include <set>

namespace pimoe {
namespace {

namespace profiler = torch::autograd::profiler;
using torch::profiler::impl::ActivityType;

/// libtorch's callbacks are plain functions: what they note is the process', as the profiler itself is.
struct NodeLog {
  std::mutex mutex;
  std::vector<NodesOfRange> ranges;
  at::CallbackHandle callback = 0;
};
NodeLog& node_log() {
  static NodeLog log;
  return log;
}

struct FirstNode final : at::ObserverContext {
  int64_t number = static_cast<int64_t>(at::sequence_number::peek());
};

void note_ranges_nodes() {
  node_log().ranges.clear();
  node_log().callback = at::addThreadLocalCallback(  // inherited by autograd's threads
      at::RecordFunctionCallback(
          [](const at::RecordFunction&) -> std::unique_ptr<at::ObserverContext> { return std::make_unique<FirstNode>(); },
          [](const at::RecordFunction& range, at::ObserverContext* context) {
            const std::lock_guard lock(node_log().mutex);
            node_log().ranges.push_back({range.name(), range.threadId(), static_cast<FirstNode*>(context)->number,
                                         static_cast<int64_t>(at::sequence_number::peek())});
          })
          .scopes({at::RecordScope::USER_SCOPE}));
}

std::vector<TraceEvent> events_of(const profiler::ProfilerResult& result) {
  std::vector<TraceEvent> events;
  for (const profiler::KinetoEvent& event : result.events()) {
    const auto type = static_cast<libkineto::ActivityType>(event.activityType());
    TraceEvent copy;
    copy.name = event.name();
    copy.begin = static_cast<int64_t>(event.startNs());
    copy.end = static_cast<int64_t>(event.endNs());
    if (type == libkineto::ActivityType::CUDA_RUNTIME || type == libkineto::ActivityType::CUDA_DRIVER) {
      copy.thread = event.startThreadId();
      copy.correlation = event.correlationId();
    } else if (type == libkineto::ActivityType::CPU_OP || type == libkineto::ActivityType::USER_ANNOTATION) {
      const auto scope = static_cast<at::RecordScope>(event.scope());
      copy.kind = scope == at::RecordScope::USER_SCOPE          ? TraceEvent::Kind::kRange
                  : scope == at::RecordScope::BACKWARD_FUNCTION ? TraceEvent::Kind::kBackward
                                                                : TraceEvent::Kind::kOperation;
      copy.thread = event.startThreadId();
      copy.forward_thread = event.fwdThreadId();
      copy.sequence = event.sequenceNr();
    } else {
      if (type != libkineto::ActivityType::CONCURRENT_KERNEL && type != libkineto::ActivityType::GPU_MEMCPY &&
          type != libkineto::ActivityType::GPU_MEMSET) {
        continue;
      }
      copy.kind = TraceEvent::Kind::kDevice;
      copy.correlation = event.correlationId();
    }
    events.push_back(std::move(copy));
  }
  return events;
}

std::set<ActivityType> activities(c10::Device device) {
  if (device.is_cuda()) return {ActivityType::CPU, ActivityType::CUDA};
  return {ActivityType::CPU};
}

nlohmann::json to_json(const std::vector<PhaseTime>& times, double steps) {
  nlohmann::json list = nlohmann::json::array();
  for (const PhaseTime& time : times) {
    list.push_back({{"phase", time.phase}, {"part", time.part}, {"host_ms", time.host / steps}, {"device_ms", time.device / steps}});
  }
  return list;
}

std::vector<PhaseTime> from_json(const nlohmann::json& list) {
  std::vector<PhaseTime> times;
  for (const auto& time : list) times.push_back({time["phase"], time["part"], time["host_ms"], time["device_ms"]});
  return times;
}

}  // namespace

ProfileRequest ProfileRequest::parse(const std::string& text) {
  const auto refuse = [&](const std::string& rule) -> UsageError {
    return UsageError(concat("--profile ('", text, "') ", rule, ": --profile steps=10:12, or steps=10:12,memory"));
  };
  ProfileRequest request;
  for (const std::string& word : split(text, ',')) {
    if (word == "memory") {
      request.memory = true;
      continue;
    }
    if (word.rfind("steps=", 0) != 0) throw refuse(concat("has '", word, "', which is neither steps=FIRST:LAST nor memory"));
    const std::vector<std::string> bounds = split(word.substr(6), ':');
    const auto number = [&](const std::string& digits) {
      int64_t value = 0;
      const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
      if (error != std::errc() || end != digits.data() + digits.size()) throw refuse(concat("has '", digits, "' for a step's number"));
      return value;
    };
    if (bounds.empty() || bounds.size() > 2) throw refuse("must name a first and a last step");
    request.first = number(bounds[0]);
    request.last = number(bounds.back());
  }
  if (request.first < 1 || request.last < request.first) throw refuse("must name steps from 1 on, the first no later than the last");
  if (request.last - request.first >= kMostSteps) throw refuse(concat("must name at most ", kMostSteps, " steps"));
  return request;
}

StepProfile::StepProfile(const ProfileRequest& request, const std::filesystem::path& run, const ProcessMesh& mesh, Logger& log)
    : request_(request), folder_(RunPaths(run).profile() / concat("steps-", request.first, "-", request.last)), mesh_(mesh), log_(log) {
  // On a machine without a GPU it complains of that, on every rank.
  if (!mesh.device().is_cuda()) setenv("KINETO_LOG_LEVEL", "5", /*overwrite=*/0);
  if (request_.memory && !mesh.device().is_cuda()) {
    throw UsageError("--profile with memory records the allocations of a GPU, and this run has none: leave memory out");
  }
}

StepProfile::~StepProfile() {
  if (!is_open_) return;  // left by an exception: nobody waits for a table
  step_range_.reset();
  at::removeCallback(node_log().callback);
  static_cast<void>(profiler::disableProfiler());
}

void StepProfile::begin_step(int64_t step) {
  step_range_.reset();
  if (is_open_ && step > request_.last) close();
  if (is_done_ || step < request_.first || step > request_.last) return;
  if (!is_open_) open();
  ++steps_;
  step_name_ = concat(kStepRange, step);
  step_range_.emplace(step_name_.c_str());
}

void StepProfile::finish() {
  step_range_.reset();
  if (is_open_) close();
  if (!is_done_ && mesh_.rank() == 0) {
    log_.warning(concat("no step was profiled: this start made none of steps ", request_.first, " to ", request_.last));
  }
  is_done_ = true;
}

void StepProfile::open() {
  if (request_.memory) record_allocations(true);
  const torch::profiler::impl::ProfilerConfig config(torch::profiler::impl::ProfilerState::KINETO);
  profiler::prepareProfiler(config, activities(mesh_.device()));
  profiler::enableProfiler(config, activities(mesh_.device()));
  note_ranges_nodes();
  is_open_ = true;
}

void StepProfile::close() {
  is_open_ = false;
  is_done_ = true;
  at::removeCallback(node_log().callback);
  const std::unique_ptr<profiler::ProfilerResult> result = profiler::disableProfiler();
  const std::vector<TraceEvent> events = events_of(*result);
  const std::vector<PhaseTime> times = phase_times(events, node_log().ranges);
  const auto steps = static_cast<double>(steps_);

  std::string trouble;
  const std::string name = concat("rank-", padded(mesh_.rank(), 4));
  try {
    std::filesystem::create_directories(folder_);
    const std::filesystem::path trace = folder_ / (name + ".json");
    result->save(trace.string());
    std::error_code unreadable;
    if (std::filesystem::file_size(trace, unreadable) == 0 || unreadable) trouble = "cannot write " + trace.string();
    if (request_.memory) replace_file(folder_ / (name + "-memory.pickle"), allocations_as_pickle());
  } catch (const std::exception& error) {
    trouble = error.what();
  }
  if (request_.memory) record_allocations(false);
  trouble = mesh_.control().agree(trouble);

  const nlohmann::json own = {{"busy_ms", device_busy(events) / steps}, {"phases", to_json(times, steps)}};
  const std::vector<std::string> texts = mesh_.control().all_gather_text(own.dump());
  if (mesh_.rank() != 0) return;
  nlohmann::json all = {{"first_step", request_.first}, {"last_step", request_.first + steps_ - 1}, {"ranks", nlohmann::json::array()}};
  std::vector<std::vector<PhaseTime>> ranks;
  for (const std::string& text : texts) {
    all["ranks"].push_back(nlohmann::json::parse(text));
    ranks.push_back(from_json(all["ranks"].back()["phases"]));
  }
  for (const std::string& line : phase_table(ranks, 1)) log_.info(line);
  try {
    replace_file(folder_ / "phases.json", all.dump(1) + "\n");
  } catch (const IoError& error) {
    if (trouble.empty()) trouble = error.what();
  }
  if (trouble.empty()) {
    log_.info(concat("profile: a trace of each rank in ", folder_.string(), ", for ui.perfetto.dev or chrome://tracing"));
  } else {
    log_.warning(concat("the profile is not whole: ", trouble, ". Training goes on"));
  }
}

}  // namespace pimoe
