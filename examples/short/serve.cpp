// Continues a text with a checkpoint's model: serve RUN 'def forward('. Under mpirun experts are shared out over the ranks.
#include <data/tokenizer.h>
#include <serve/engine.h>

#include <future>
#include <iostream>

int main(int argc, char** argv) {
  const pimoe::MpiSession mpi(argc, argv);
  if (argc != 3) {
    std::cerr << "serve RUN PROMPT\n";
    return 64;
  }
  const pimoe::ServedModel served = pimoe::checkpoint_loader(mpi)(argv[1]);
  const pimoe::Tokenizer tokenizer(served.config.data.tokenizer);
  pimoe::Engine engine(served, pimoe::TokenTexts::of(tokenizer), {});
  if (served.mesh->rank() != 0) {
    engine.follow();  // what rank 0 plans, until its engine ends
    return 0;
  }
  const std::vector<int32_t> prompt = tokenizer.encode(argv[2]);
  pimoe::GenerationRequest request;
  request.prompt.assign(prompt.begin(), prompt.end());
  request.max_tokens = 24;
  request.sampling.temperature = 0;
  std::promise<std::string> ended;
  engine.submit(request, [&](const pimoe::GenerationUpdate& update) {
    for (const pimoe::GeneratedToken& token : update.tokens) std::cout << token.text << std::flush;
    if (update.ending) ended.set_value(update.error);
  });
  const std::string error = ended.get_future().get();
  std::cout << std::endl;
  if (error.empty()) return 0;
  std::cerr << error << "\n";
  return 1;
}
