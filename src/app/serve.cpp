#include "app/serve.h"

#include "app/checkpoint_option.h"
#include "app/model_tokenizer.h"
#include "app/number_checks.h"
#include "app/run_setup.h"
#include "app/serve_loop.h"
#include "base/text.h"
#include "base/work_progress.h"
#include "data/chat_template.h"
#include "model/key_value_cache.h"
#include "parallel/watchdog.h"
#include "serve/api_keys.h"
#include "serve/completion_service.h"
#include "serve/engine.h"
#include "serve/engine_source.h"
#include "serve/http_server.h"
#include "serve/scheduler.h"
#include "serve/served_model.h"

#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>

#include <unistd.h>

#include <exception>
#include <limits>
#include <optional>

namespace pimoe {
namespace {

constexpr int64_t kMostThreads = 256;
constexpr int64_t kMostRequests = 1'000'000;
constexpr int64_t kMostBytes = int64_t{1} << 50;
constexpr double kMostSeconds = 86400.0;

struct ServeOptions {
  std::string host = "127.0.0.1";
  int port = 8000;
  std::filesystem::path key_file;
  std::filesystem::path tokenizer;
  std::filesystem::path chat_template;
  std::string model_name;
  double requests_per_minute = 0.0;
  bool log_prompts = false;
  std::filesystem::path log_file;
  std::filesystem::path monitor_file;
  HttpLimits http;
  EngineLimits engine;
  ServeLoopOptions loop;
  double hang_seconds = 30.0;
};

/// The name that clients ask for: the run's.
std::string default_name(const std::filesystem::path& checkpoint) {
  std::filesystem::path folder = std::filesystem::absolute(checkpoint).lexically_normal();
  const std::filesystem::path parent = folder.parent_path();  // runs/NAME/checkpoints/step-00000100
  if (parent.filename() == "checkpoints") return parent.parent_path().filename().string();
  return folder.filename().string();
}

/// The model's own template, or none: then chats are refused, and texts are not.
std::optional<ChatTemplate> chat_template_of(const ServeOptions& options, const std::filesystem::path& tokenizer_file,
                                             const Tokenizer& tokenizer, const TrainConfig& config, Logger& log) {
  const std::filesystem::path given =
      options.chat_template.empty() ? std::filesystem::path(config.data.chat_template) : options.chat_template;
  try {
    return find_chat_template(tokenizer_file, given, tokenizer.piece(tokenizer.end_of_document()));
  } catch (const DataError& error) {
    if (!given.empty()) throw;
    log.info(concat("no chats, completions alone: ", error.what()));
    return std::nullopt;
  }
}

void require_keys_off_loopback(const ServeOptions& options) {
  if (!options.key_file.empty() || is_loopback(options.host)) return;
  throw UsageError(concat("--host ", options.host,
                          " can be reached from other machines: it needs --api-key-file FILE, of lines: name key [requests a minute]"));
}

CompletionFacts facts_of(const ServeOptions& options, const ServedModel& model, bool has_keys) {
  CompletionFacts facts;
  facts.model = options.model_name.empty() ? default_name(model.checkpoint) : options.model_name;
  const ModelConfig& config = model.config.model;
  facts.layers = config.moe_layers();
  if (facts.layers > 0) {
    facts.experts = config.moe.experts;
    facts.choices = config.moe.choices;
  }
  if (options.requests_per_minute > 0) facts.requests_per_minute = options.requests_per_minute;
  facts.only_local_names = !has_keys;
  facts.log_prompts = options.log_prompts;
  facts.limits.vocabulary = config.vocabulary;
  // More than the queue takes at once would be refused for ever.
  const SharedPlaces queue{options.engine.max_queue, options.engine.has_several_clients};
  facts.limits.choices = std::min(facts.limits.choices, options.engine.max_queue - queue.kept());
  return facts;
}

void require_room_for_a_page(const ServeOptions& options, const Transformer& model) {
  const int64_t budget = options.engine.memory_budget_bytes;
  const int64_t of_page = KeyValueCache::bytes_of_page(model.config(), model.dtype(), options.engine.page_tokens);
  if (budget == 0 || budget >= of_page) return;
  throw UsageError(concat("--memory-budget (", budget, " bytes) holds no page of ", options.engine.page_tokens,
                          " positions (--page-tokens), which takes ", of_page));
}

/// Ends both in the only order that there is: the server's threads ask the engine, and the engine's listeners hold connections of the server.
class ServedEnd {
 public:
  ServedEnd(HttpServer& server, std::optional<Engine>& engine) : server_(server), engine_(engine) {}
  ~ServedEnd() {
    server_.stop(0);
    engine_.reset();
  }
  ServedEnd(const ServedEnd&) = delete;
  ServedEnd& operator=(const ServedEnd&) = delete;

 private:
  HttpServer& server_;
  std::optional<Engine>& engine_;
};

ServedModel load(const ServeOptions& options, const ModelLoader& loader, Logger& log) {
  std::optional<WorkProgress> progress(std::in_place, concat("loading ", options.loop.checkpoint.string()), WorkUnit::kBytes, log);
  ServedModel model = loader(options.loop.checkpoint);
  progress.reset();
  at::set_num_threads(thread_count(model.config, *model.mesh));
  return model;
}

ExitCode serve(ServeOptions options, AppContext& context) {
  const ServeSignals signals;
  require_keys_off_loopback(options);
  const ServeMonitorConfig monitor_config = options.monitor_file.empty() ? ServeMonitorConfig() : read_serve_monitor(options.monitor_file);
  const ApiKeys keys = options.key_file.empty() ? ApiKeys() : ApiKeys(options.key_file);
  const MpiSession& session = context.mpi();
  Logger& log = context.log;
  const bool listens = session.world()->rank() == 0;
  std::optional<HttpPort> port;
  if (listens) {  // what cannot be had is told before a model is read, which may take minutes
    if (!options.log_file.empty()) log.open_file(options.log_file);
    port.emplace(options.host, options.port);
  }
  const ModelLoader loader = checkpoint_loader(session);
  const ServedModel model = load(options, loader, log);
  if (options.hang_seconds > 0 && session.size() > 1) {
    const std::string folder = concat("pimoe-serve-", ::getuid(), "-", options.port, "-hang");
    context.watchdog =
        std::make_shared<Watchdog>(model.mesh->control(), options.hang_seconds, std::filesystem::temp_directory_path() / folder, log);
  }
  const Tokenizer tokenizer = model_tokenizer(options.tokenizer, model.config);
  options.engine.has_several_clients = keys.holders().size() > 1;
  EngineFailure failure;
  const bool is_alone = session.size() == 1;
  require_room_for_a_page(options, *model.model);
  std::optional<Engine> engine(std::in_place, model, TokenTexts::of(tokenizer), options.engine, loader,
                               [&](const std::exception_ptr& failed) {
                                 failure.set(failed);
                                 if (is_alone) return;  // the loop below leaves with it
                                 ExitCode code = ExitCode::kInternal;
                                 try {
                                   std::rethrow_exception(failed);
                                 } catch (const std::exception& error) {
                                   log.error(error.what());
                                   code = exit_code(error);
                                 } catch (...) {
                                   log.error("the model failed: unknown error");
                                 }
                                 MpiSession::abort(static_cast<int>(code));
                               });
  if (!listens) {
    engine->follow();
    return ExitCode::kDone;
  }
  for (const std::string& note : model.notes) log.warning(note);
  const std::optional<ChatTemplate> chat = chat_template_of(options, options.tokenizer, tokenizer, model.config, log);
  const CompletionTexts texts(tokenizer, chat ? &*chat : nullptr, model.config.model.vocabulary, model.config.model.sequence_length);
  EngineSource source(*engine, model.mesh->device());
  CompletionService service(facts_of(options, model, !keys.empty()), texts, keys, source, log);
  ServeMonitor monitor(monitor_config, service.model(), log);
  HttpServer server(*std::move(port), options.http, service, log);
  const ServedEnd in_order(server, engine);
  service.set_counts([&server] { return server.counts(); });
  const std::string host = options.host.find(':') == std::string::npos ? options.host : concat("[", options.host, "]");
  log.info(concat("serving ", model.checkpoint, ", step ", model.step, ", as '", service.model(), "' at http://", host, ":", server.port(),
                  is_alone ? "" : concat(", on ", layout_text(*model.mesh)),
                  keys.empty() ? "" : concat(", for ", counted(static_cast<int64_t>(keys.holders().size()), "key"))));
  serve_until_told(options.loop, signals, *engine, failure, service, server, monitor, log);
  log.info(concat("done: ", counted(static_cast<int64_t>(engine->status().finished), "text"), ", ",
                  counted(static_cast<int64_t>(engine->status().generated_tokens), "new token")));
  if (monitor.stops()) log.error("an alert stopped the server (monitor.alerts)");
  return monitor.stops() ? ExitCode::kCheckSaysNo : ExitCode::kDone;
}

void add_model_options(CLI::App& command, ServeOptions& options) {
  add_checkpoint_option(command, "checkpoint,--checkpoint", options.loop.checkpoint);
  command.add_option("--tokenizer", options.tokenizer, "SentencePiece model or tokenizer.json, if not the one that the checkpoint names")
      ->type_name("FILE");
  command.add_option("--chat-template", options.chat_template, "Jinja template of chats, if not data.chat_template or the tokenizer's own")
      ->type_name("FILE");
  command.add_option("--model-name", options.model_name, "the model's name in the API (default: the run folder's)")->check(not_empty());
  command
      .add_option("--reload-every", options.loop.reload_seconds,
                  "seconds between looks for a newer good checkpoint of the run folder; 0: at SIGHUP alone")
      ->check(number_in(0, kMostSeconds))
      ->capture_default_str();
}

void add_engine_options(CLI::App& command, ServeOptions& options) {
  command.add_option("--max-batch", options.engine.max_batch, "texts that are computed at a time")
      ->check(whole_number_in(1, kMostRequests))
      ->capture_default_str();
  command.add_option("--max-queue", options.engine.max_queue, "texts that wait for that; beyond them 429")
      ->check(whole_number_in(1, kMostRequests))
      ->capture_default_str();
  command
      .add_option("--memory-budget", options.engine.memory_budget_bytes,
                  "bytes of keys and values on each rank; 0: room for max-batch texts of the model's length")
      ->check(whole_number_in(0, kMostBytes))
      ->capture_default_str();
  command.add_option("--prefill-chunk", options.engine.prefill_chunk, "tokens of prompts that a step computes beside a token of each text")
      ->check(whole_number_in(1, kMostRequests))
      ->capture_default_str();
  command.add_option("--page-tokens", options.engine.page_tokens, "positions of a page of keys and values")
      ->check(whole_number_in(1, kMostRequests))
      ->capture_default_str();
  command.add_flag("--no-prefix-cache{false}", options.engine.prefix_cache,
                   "compute every prompt's beginning again, though another text began so");
}

void add_server_options(CLI::App& command, ServeOptions& options) {
  command.add_option("--host", options.host, "address to listen on; one that others can reach needs --api-key-file")->capture_default_str();
  command.add_option("--port", options.port, "0: any that is free")->check(whole_number_in(0, 65535))->capture_default_str();
  command.add_option("--api-key-file", options.key_file, "keys of clients, lines of: name key [requests a minute]")->type_name("FILE");
  command
      .add_option("--rate-limit", options.requests_per_minute,
                  "requests a minute of each key without a rate of its own; without keys of all clients together; 0: any")
      ->check(number_in(0, 1e6))
      ->capture_default_str();
  command.add_option("--threads", options.http.threads, "threads of the server, beside the model's")
      ->check(whole_number_in(1, kMostThreads))
      ->capture_default_str();
  command.add_option("--max-connections", options.http.connections, "beyond them the one that was idle longest is closed")
      ->check(whole_number_in(1, kMostRequests))
      ->capture_default_str();
  command.add_option("--max-body", options.http.body_bytes, "bytes of a request's body")
      ->check(whole_number_in(1, int64_t{1} << 30))
      ->capture_default_str();
  command.add_option("--header-timeout", options.http.header_seconds, "seconds for a request's head")
      ->check(number_in(0.001, kMostSeconds))
      ->capture_default_str();
  command.add_option("--body-timeout", options.http.body_seconds, "seconds for its body")
      ->check(number_in(0.001, kMostSeconds))
      ->capture_default_str();
  command.add_option("--idle-timeout", options.http.idle_seconds, "seconds that a connection may be open without a request")
      ->check(number_in(0.001, kMostSeconds))
      ->capture_default_str();
  command.add_option("--write-timeout", options.http.write_seconds, "seconds in which a client must read a piece of its answer")
      ->check(number_in(0.001, kMostSeconds))
      ->capture_default_str();
  command.add_option("--drain-timeout", options.loop.drain_seconds, "seconds that running requests have, once SIGTERM has come")
      ->check(number_in(0, kMostSeconds))
      ->capture_default_str();
  command
      .add_option(
          "--hang-limit", options.hang_seconds,
          "seconds without a sign of a rank, or of progress that others wait for, after which the job ends (exit code 70) and says which; "
          "0: they wait for ever")
      ->check(number_in(0, kMostSeconds))
      ->capture_default_str();
  command
      .add_option("--monitor", options.monitor_file,
                  "YAML file with `monitor: {alerts: [...], webhook: URL, folder: PATH}`: docs/serving.md")
      ->type_name("FILE");
  command.add_option("--log-file", options.log_file, "also write the log there, with times")->type_name("FILE");
  command.add_flag("--log-prompts", options.log_prompts, "log what is asked, too: without it no text of a client is in the log");
}

}  // namespace

void add_serve_command(CLI::App& app, AppContext& context) {
  auto options = std::make_shared<ServeOptions>();
  CLI::App* command = app.add_subcommand("serve", "Serve a trained model over HTTP, with the API of OpenAI's completions and chats");
  add_model_options(*command, *options);
  add_server_options(*command, *options);
  add_engine_options(*command, *options);
  command->footer(
      "Paths: /v1/completions, /v1/chat/completions, /v1/models, /health, /metrics (Prometheus), and a page to try it at /.\n"
      "SIGTERM or Ctrl-C: takes nothing new, ends when what runs has ended; a second one ends at once. SIGHUP: looks for a newer "
      "checkpoint.\n"
      "Under mpirun experts and texts are shared out over the ranks; rank 0 listens, and SIGUSR1 to mpirun is the signal to leave.\n"
      "Example:\n  pimoe serve --checkpoint runs/quickstart\n"
      "  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' -d '{\"prompt\": \"def forward(\", \"max_tokens\": "
      "40}'\n"
      "docs/serving.md says what is supported, what is limited, and what was measured.");
  command->callback([options, &context] { context.action = [options, &context] { return serve(*options, context); }; });
}

}  // namespace pimoe
