// A preflight of four ranks that take themselves for two nodes: what one of them has wrong is found
// and named, and the same on all ranks.

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/mpi.h"
#include "core/base/error.h"
#include "core/base/exit_code.h"
#include "core/config/resolve.h"
#include "core/train/preflight.h"
#include "io/data/indexed_dataset.h"

namespace neox::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class PreflightTest : public ::testing::Test {
 protected:
  PreflightTest() : world(make_world_communicator()) {
    node = world->split([](int rank) { return SplitPlace{rank / 2, rank}; }, "node");
    host = world->rank() < 2 ? "nodeA" : "nodeB";
    std::string name = (fs::temp_directory_path() / "neox-preflight-XXXXXX").string();
    if (world->rank() == 0) name = ::mkdtemp(name.data());
    directory = world->host_broadcast(name, 0);
    if (world->rank() == 0) {
      for (const char* folder : {"a", "b", "empty"}) fs::create_directory(directory + "/" + folder);
      write_data("a", 1);
      write_data("b", 2);
    }
    world->barrier();
    ModelConfig& m = config.model;
    m.num_layers = 2;
    m.hidden_size = 32;
    m.num_attention_heads = 2;
    m.seq_length = 16;
    m.vocab_size = 100;
    config.batch.train_batch_size = 4;
    config.batch.train_micro_batch_size_per_gpu = 2;
    config.train.train_iters = 10;
    config.train.eval_interval = 0;
    config.parallel.model_parallel_size = 2;
    config.parallel.zero_stage = 1;
    config.system.device = "cpu";
    config.system.slow_node_threshold = 1;  // this machine is shared
    config.data.data_path = directory + "/a/data";
    config.data.split = "1,0,0";
    config.checkpoint.save = directory + "/run";
    config.checkpoint.keep_last_n_checkpoints = 2;
    resolve(config, world->size());
  }
  ~PreflightTest() override {
    world->barrier();
    if (world->rank() == 0) fs::remove_all(directory);
  }
  void write_data(const std::string& name, std::int32_t first) const {
    IndexedDatasetWriter writer(directory + "/" + name + "/data", DType::u16);
    for (std::int32_t document = 0; document < 50; ++document) {
      std::vector<std::int32_t> tokens;
      for (std::int32_t i = 0; i < 40; ++i) tokens.push_back((first + document * i) % 100);
      writer.add_sequence(tokens);
      writer.end_document();
    }
    writer.finish();
  }
  PreflightReport run(const std::function<void(RankFacts&)>& alter = {}) {
    PreflightReport report = run_preflight(*world, *node, config, {host, alter});
    const auto texts = world->host_all_gather(report.text);
    EXPECT_EQ(texts.front(), texts.back()) << "all ranks come to the same";
    return report;
  }
  /// The one error that a preflight finds.
  Finding error_of(const PreflightReport& report) {
    EXPECT_EQ(report.exit_code, kExitFailure);
    EXPECT_FALSE(report.findings.empty());
    return report.findings.empty() ? Finding() : report.findings[0];
  }
  std::vector<std::string> errors_of(const PreflightReport& report) {
    EXPECT_EQ(report.exit_code, kExitFailure);
    std::vector<std::string> texts;
    for (const Finding& f : report.findings) {
      if (f.severity == Severity::error) texts.push_back(f.text);
    }
    return texts;
  }
  bool last() const { return world->rank() == 3; }

  std::unique_ptr<Communicator> world, node;
  std::string host, directory;
  Config config;
};

TEST_F(PreflightTest, MeasuresEverythingWhereAllIsWell) {
  const PreflightReport report = run();
  EXPECT_EQ(report.exit_code, 0) << report.text;
  ASSERT_EQ(report.ranks.size(), 4u);
  for (const RankFacts& r : report.ranks) {
    EXPECT_EQ(r.host, r.rank < 2 ? "nodeA" : "nodeB");
    EXPECT_EQ(r.device, "cpu");
    EXPECT_THAT(r.data, HasSubstr("train data "));
    EXPECT_GT(r.host_needed, 10000);
    EXPECT_EQ(r.speed(Speed::network),
              report.ranks[static_cast<std::size_t>((r.rank + 2) % 4)].speed(Speed::network));
    EXPECT_FALSE(r.versions.at("MPI").empty());
    EXPECT_FALSE(r.versions.at("HDF5").empty());
    for (const Speed s : {Speed::product, Speed::memory, Speed::network, Speed::tensor, Speed::data,
                          Speed::world}) {
      EXPECT_GT(r.speed(s), 0.0) << info_of(s).name;
    }
    EXPECT_EQ(r.speed(Speed::pipe), 0.0);
    EXPECT_EQ(r.speed(Speed::disk) > 0.0, r.rank % 2 == 0);
    EXPECT_EQ(r.has_clock, r.rank % 2 == 0);
    EXPECT_LT(std::abs(r.clock_offset), 1.0);  // it is one clock
    EXPECT_THAT(r.groups.at("tensor"), ElementsAre(r.rank / 2 * 2, r.rank / 2 * 2 + 1));
    EXPECT_THAT(r.groups.at("data"), ElementsAre(r.rank % 2, r.rank % 2 + 2));
  }
  EXPECT_THAT(report.text, AllOf(HasSubstr("4 ranks on 2 nodes"), HasSubstr("preflight passed")));
  if (world->rank() == 0) {
    EXPECT_TRUE(fs::is_empty(directory + "/run")) << "no test file is left";
  }
}

TEST_F(PreflightTest, PipelineStagesAreMeasured) {
  config.parallel.model_parallel_size = 1;
  config.parallel.pipe_parallel_size = 2;
  config.checkpoint.save.clear();
  config.batch.gradient_accumulation_steps = 1;
  const PreflightReport report = run();
  EXPECT_EQ(report.exit_code, 0) << report.text;
  for (const RankFacts& r : report.ranks) {
    EXPECT_GT(r.speed(Speed::pipe), 0.0);
    EXPECT_THAT(r.groups.at("pipe"), ElementsAre(r.rank % 2, r.rank % 2 + 2));
    EXPECT_EQ(r.speed(Speed::tensor), 0.0);
    EXPECT_EQ(r.disk_free, -1);
  }
}

TEST_F(PreflightTest, ASlowRankIsNamed) {
  config.system.slow_node_threshold = 0.5;
  const PreflightReport report = run([&](RankFacts& mine) {
    for (auto& [key, speed] : mine.speeds) speed = 10;
    if (last()) mine.speeds["product"] = 4;
  });
  EXPECT_EQ(report.exit_code, kExitSlow) << report.text;
  ASSERT_FALSE(report.findings.empty());
  EXPECT_THAT(report.findings[0].text, HasSubstr("rank 3 (nodeB): matrix product 4 TFLOP/s"));
  EXPECT_THAT(report.text, HasSubstr("--exclude=nodeB"));
}

// The last rank finds something else under the same names.
TEST_F(PreflightTest, FilesThatOneRankHasNotOrDifferently) {
  const fs::path before = fs::current_path();
  config.data.data_path = "data";
  config.checkpoint.save.clear();
  fs::current_path(directory + (last() ? "/empty" : "/a"));
  const Finding f = error_of(run());
  EXPECT_THAT(f.text, AllOf(HasSubstr("rank 3 (nodeB): "), HasSubstr("data")));
  EXPECT_THAT(f.bad_hosts, ElementsAre("nodeB"));
  // A folder of the node's own where a shared one should be.
  config.checkpoint.save = "run";
  fs::current_path(directory + (last() ? "/b" : "/a"));
  EXPECT_THAT(errors_of(run()),
              ElementsAre(HasSubstr("rank 3 (nodeB): the dataset is 'train data "),
                          HasSubstr("rank 3 (nodeB): checkpoint.save = run is not the directory "
                                    "that rank 0 has")));
  fs::current_path(before);
}

TEST_F(PreflightTest, EverythingThatIsWrongIsSaidAtOnce) {
  if (world->rank() == 0) std::ofstream(directory + "/file") << "x";
  config.data.data_path = directory + "/absent";
  config.checkpoint.save = directory + "/file/run";
  const PreflightReport report = run();
  EXPECT_THAT(errors_of(report),
              ElementsAre(AllOf(HasSubstr("ranks 0-3 (nodeA, nodeB): "), HasSubstr("absent")),
                          AllOf(HasSubstr("rank 0 (nodeA): "), HasSubstr("/file/run"),
                                HasSubstr("cannot be created"))));
  EXPECT_THAT(report.findings[0].bad_hosts, IsEmpty()) << "it lies with the input";
}

TEST_F(PreflightTest, ConfigurationsThatDifferEndItAtOnce) {
  if (last()) config.optimizer.lr = 0.5;
  try {
    run();
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("rank 3"), HasSubstr("configuration")));
  }
}

// The simulated GPU takes the path of real ones: device memory, staged messages.
TEST_F(PreflightTest, OnDevices) {
#ifdef NEOX_HAS_CUDA
  config.system.device = "simulated";
  config.parallel.model_parallel_size = 1;
  config.batch.gradient_accumulation_steps = 1;
  config.batch.train_micro_batch_size_per_gpu = 1;
  const PreflightReport report = run();
  EXPECT_EQ(report.exit_code, 0) << report.text;
  for (const RankFacts& r : report.ranks) {
    EXPECT_EQ(r.device, "simulated");
    EXPECT_GT(r.device_needed, 10000);
    EXPECT_GT(r.speed(Speed::product), 0.0);
    EXPECT_GT(r.speed(Speed::data), 0.0);
  }
#else
  GTEST_SKIP() << "built without CUDA: no simulated device";
#endif
}

}  // namespace
}  // namespace neox::testing
