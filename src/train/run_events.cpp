#include "train/run_events.h"

#include "base/text.h"

#include <nlohmann/json.hpp>

#include <chrono>

namespace pimoe {

RunEvents::RunEvents(const std::filesystem::path& run, Logger& log) : file_(run / "events.jsonl"), log_(log) {}

void RunEvents::add(int64_t step, const char* event) { add(step, event, nlohmann::ordered_json::object()); }

void RunEvents::add(int64_t step, const char* event, const nlohmann::ordered_json& details) {
  const double time = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  nlohmann::ordered_json line = {{"time", time}, {"step", step}, {"event", event}};
  line.update(details);
  const std::string trouble = file_.append(line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
  if (!trouble.empty() && !is_told_)
    log_.warning(concat(trouble, ". Training goes on; what is missing is written as soon as that can be done"));
  is_told_ = !trouble.empty();
}

}  // namespace pimoe
