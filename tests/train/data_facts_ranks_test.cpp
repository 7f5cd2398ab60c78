#include "train/data_facts.h"

#include "base/errors.h"
#include "base/text.h"
#include "train/tiny_run.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

class DataFactsOnRanks : public testing::Test {
 protected:
  DataFactsOnRanks() : world_(test_session().world()) {}

  /// @param last  what the last rank finds under the name of data.train, which is `corpus` everywhere else
  /// @returns what every rank was told; "nothing"
  std::string said_where_the_last_rank_sees(const char* last, bool looks) {
    DataConfig data;
    const bool is_last = world_->rank() == world_->size() - 1;
    data.train = (folder_.path() / (is_last ? last : "corpus")).string();
    std::string said = "nothing";
    try {
      data_facts_of_rank_0(data, *world_, looks);
    } catch (const DataError& error) {
      said = error.what();
    }
    for (const std::string& other : world_->all_gather_text(said)) EXPECT_EQ(other, said);
    return said;
  }

  SharedFolder folder_;
  std::unique_ptr<HostCommunicator> world_;
};

TEST_F(DataFactsOnRanks, ANodeThatSeesOtherFilesIsNamed) {
  EXPECT_EQ(said_where_the_last_rank_sees("corpus", true), "nothing");
  if (world_->size() == 1) return;  // it is rank 0 itself
  const std::string rank = concat("rank ", world_->size() - 1, ": ");
  const std::string fewer = said_where_the_last_rank_sees("validation", true);
  EXPECT_TRUE(fewer.starts_with(rank + "data.train: ")) << fewer;
  EXPECT_NE(fewer.find(" tokens at rank 0, "), std::string::npos) << fewer;
  const std::string other = said_where_the_last_rank_sees("repeats", true);
  EXPECT_EQ(other, rank + "data.train: other content at rank 0 than here: every node must see the same files, or whole copies of them");
  EXPECT_EQ(said_where_the_last_rank_sees("repeats", false), "nothing") << "one rank of a node is enough";
}

}  // namespace
}  // namespace pimoe
