#include "train/run_events.h"

#include "base/host.h"
#include "base/run_paths.h"
#include "base/text.h"

#include <nlohmann/json.hpp>

namespace pimoe {

RunEvents::RunEvents(const std::filesystem::path& run, Logger& log) : file_(RunPaths(run).events()), log_(log) {}

void RunEvents::add(int64_t step, const char* event) { add(step, event, nlohmann::ordered_json::object()); }

void RunEvents::add(int64_t step, const char* event, const nlohmann::ordered_json& details) {
  nlohmann::ordered_json line = {{"time", wall_clock_seconds()}, {"step", step}, {"event", event}};
  line.update(details);
  const std::string trouble = file_.append(line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
  if (!trouble.empty() && !is_told_)
    log_.warning(concat(trouble, ". Training goes on; what is missing is written as soon as that can be done"));
  is_told_ = !trouble.empty();
}

}  // namespace pimoe
