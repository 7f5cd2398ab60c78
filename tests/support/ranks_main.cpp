/// The main of every test program that runs under mpirun: rank 0 reports; another rank speaks only of its failures. After a test that
/// failed on any rank the whole job ends, since that rank's peers may wait for it in a collective.

#include "support/ranks.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

class EndsTheJob : public ::testing::EmptyTestEventListener {
 public:
  explicit EndsTheJob(int rank) : rank_(rank) {}

  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "rank %d: %s:%d: %s\n", rank_, result.file_name() == nullptr ? "unknown file" : result.file_name(),
                 result.line_number(), result.message());
  }

  void OnTestEnd(const ::testing::TestInfo& test) override {
    if (!test.result()->Failed()) return;
    std::fprintf(stderr, "rank %d: FAILED %s.%s; ending the job\n", rank_, test.test_suite_name(), test.name());
    std::fflush(nullptr);
    pimoe::MpiSession::abort(1);
  }

 private:
  int rank_;
};

/// @returns N of --ranks=N, 0 without it.
int wanted_ranks(int argc, char** argv) {
  const std::string option = "--ranks=";
  for (int index = 1; index < argc; ++index) {
    const std::string word = argv[index];
    if (word.compare(0, option.size(), option) == 0) return std::atoi(word.c_str() + option.size());
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const auto world = pimoe::test_session().world();
  const int wanted = wanted_ranks(argc, argv);
  if (wanted != world->size()) {
    std::fprintf(stderr, "rank %d: --ranks=%d, but MPI has %d: start this program by mpirun -n N ... --ranks=N\n", world->rank(), wanted,
                 world->size());
    return 1;
  }
  auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
  if (world->rank() > 0) delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new EndsTheJob(world->rank()));
  return RUN_ALL_TESTS();
}
