#include "app/report.h"

#include "app/output_file.h"
#include "base/file_io.h"
#include "base/host.h"
#include "base/run_paths.h"
#include "base/text.h"
#include "base/work_progress.h"
#include "monitor/report_page.h"

#include <CLI/CLI.hpp>

namespace pimoe {
namespace {

struct ReportOptions {
  std::vector<std::filesystem::path> runs;
  std::filesystem::path output;
};

ExitCode report(const ReportOptions& options, AppContext& context) {
  if (!options.output.empty()) require_writable(options.output);
  std::vector<RunRecord> runs;
  for (const std::filesystem::path& folder : options.runs) {
    WorkProgress progress(concat("reading ", folder.string()), WorkUnit::kBytes, context.log);
    runs.push_back(read_run(
        folder, {}, [&progress](uint64_t done, uint64_t total) { progress.at(static_cast<int64_t>(done), static_cast<int64_t>(total)); }));
    for (const std::string& note : runs.back().notes) context.log.warning(concat(folder.string(), ": ", note));
  }
  const std::filesystem::path output = options.output.empty() ? RunPaths(options.runs.front()).report() : options.output;
  const std::string page = to_page(runs, wall_clock_seconds());
  replace_file(output, page);
  int64_t records = 0;
  for (const RunRecord& run : runs) records += run.records;
  context.log.info(concat("report: ", output.string(), ", ", human_bytes(static_cast<double>(page.size())), " of ",
                          counted(records, "step"), " of ", counted(static_cast<int64_t>(runs.size()), "run")));
  return ExitCode::kDone;
}

}  // namespace

void add_report_command(CLI::App& app, AppContext& context) {
  auto options = std::make_shared<ReportOptions>();
  CLI::App* command = app.add_subcommand(
      "report", "Write one HTML page about runs: curves, experts over time, events, configurations side by side. It needs no network");
  command->add_option("runs", options->runs, "run folders, of runs that are over or that go on")->required()->type_name("RUN");
  command->add_option("--output", options->output, "the page (default: report.html in the first run's folder)")->type_name("FILE.html");
  command->footer("Example:\n  pimoe report runs/quickstart runs/wider --output compare.html\ndocs/seeing.md says what it shows.");
  command->callback([options, &context] { context.action = [options, &context] { return report(*options, context); }; });
}

}  // namespace pimoe
