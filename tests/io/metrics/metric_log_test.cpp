#include "io/metrics/metric_log.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <sys/resource.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "io/metrics/event_file.h"
#include "io/metrics/tensorboard_event.pb.h"

namespace neox {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using Event = tensorboard::Event;

std::string contents(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

class MetricLogTest : public testing::Test {
 protected:
  MetricLogTest() {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::temp_directory_path() / fmt::format("neox_{}_{}", test->name(), ::getpid());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~MetricLogTest() override { fs::remove_all(folder_); }

  std::string jsonl() const { return (folder_ / "logs" / "metrics.jsonl").string(); }
  void write(const std::string& text) const {
    fs::create_directories(folder_ / "logs");
    std::ofstream(jsonl(), std::ios::binary) << text;
  }
  std::vector<nlohmann::json> lines() const {
    std::vector<nlohmann::json> result;
    std::ifstream in(jsonl());
    for (std::string line; std::getline(in, line);) result.push_back(nlohmann::json::parse(line));
    return result;
  }
  std::vector<std::int64_t> steps() const {
    std::vector<std::int64_t> result;
    for (const auto& line : lines()) result.push_back(line.at("step"));
    return result;
  }
  std::vector<fs::path> event_files() const {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(folder_ / "tb")) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    return files;
  }
  static std::vector<Event> events(const fs::path& file) {
    std::vector<Event> result;
    for (const auto& record : parse_tfrecords(contents(file), file.string())) {
      EXPECT_TRUE(result.emplace_back().ParseFromString(record));
    }
    return result;
  }

  fs::path folder_;
};

void put(MetricSink& sink, std::int64_t step, double value = 1.5) {
  const std::vector<Metric> metrics = {{"train/lm_loss", value}};
  sink.scalars(step, metrics);
}

TEST_F(MetricLogTest, JsonlLine) {
  const auto sink = make_jsonl_sink(jsonl(), 0);
  const std::vector<Metric> values = {{"train/lm_loss", 0.1},
                                      {"a \"quoted\"\nname", 1e-300},
                                      {"nan", std::numeric_limits<double>::quiet_NaN()},
                                      {"inf", std::numeric_limits<double>::infinity()}};
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  sink->scalars(1234567890123, values);
  const auto found = lines();  // while the sink lives: nothing waits in a buffer
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].at("step"), 1234567890123);
  EXPECT_NEAR(found[0].at("time").get<double>(), std::chrono::duration<double>(now).count(), 60);
  EXPECT_EQ(found[0].at("train/lm_loss").get<double>(), 0.1);
  EXPECT_EQ(found[0].at("a \"quoted\"\nname").get<double>(), 1e-300);
  EXPECT_TRUE(found[0].at("nan").is_null());
  EXPECT_TRUE(found[0].at("inf").is_null());
  EXPECT_THAT(contents(jsonl()), testing::StartsWith(R"({"step":1234567890123,"time":)"));
}

TEST_F(MetricLogTest, JsonlResumeDropsLaterSteps) {
  {
    const auto sink = make_jsonl_sink(jsonl(), 0);
    for (int step = 1; step <= 10; ++step) put(*sink, step);
  }
  const std::string before = contents(jsonl());
  {
    const auto sink = make_jsonl_sink(jsonl(), 7);
    EXPECT_THAT(steps(), ElementsAre(1, 2, 3, 4, 5, 6, 7));
    EXPECT_EQ(contents(jsonl()), before.substr(0, contents(jsonl()).size()));
    put(*sink, 8, 99.0);
  }
  EXPECT_THAT(steps(), ElementsAre(1, 2, 3, 4, 5, 6, 7, 8));
  EXPECT_EQ(lines().back().at("train/lm_loss"), 99.0);
  make_jsonl_sink(jsonl(), 100);  // nothing to drop
  EXPECT_EQ(steps().size(), 8u);
  make_jsonl_sink(jsonl(), 0);  // the run starts over
  EXPECT_TRUE(steps().empty());
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / "logs"), {}), 1) << "files left over";
}

TEST_F(MetricLogTest, JsonlDropsALineCutShort) {
  write("{\"step\":1,\"time\":1.0,\"a\":2}\n{\"step\":2,\"ti");
  const auto sink = make_jsonl_sink(jsonl(), 5);
  put(*sink, 3);
  EXPECT_THAT(steps(), ElementsAre(1, 3));
}

TEST_F(MetricLogTest, JsonlLeavesOtherFilesAlone) {
  const std::string text = "dear diary\ntoday I trained a model\n";
  write(text);
  try {
    make_jsonl_sink(jsonl(), 0);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("metrics.jsonl' is to hold this run's metrics"));
  }
  EXPECT_EQ(contents(jsonl()), text);
}

TEST_F(MetricLogTest, UnusablePlaceIsAnErrorAtTheStart) {
  write("x");
  for (const auto& make : {make_jsonl_sink, make_tensorboard_sink}) {
    try {
      make(jsonl() + "/below/a/file", 0);
      FAIL() << "no error";
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr("metrics.jsonl/below"));
    }
  }
}

TEST_F(MetricLogTest, TensorBoardEvents) {
  const auto sink = make_tensorboard_sink((folder_ / "tb").string(), 0);
  const std::vector<Metric> values = {{"train/lm_loss", 3.25}, {"train/learning_rate", 1e-4}};
  sink->scalars(1, values);
  sink->text(1, "config", "lr = 1e-4");
  const auto files = event_files();
  ASSERT_EQ(files.size(), 1u);
  EXPECT_THAT(files[0].filename().string(),
              testing::MatchesRegex("events\\.out\\.tfevents\\.[0-9]{10}\\..+"));
  const auto found = events(files[0]);
  ASSERT_EQ(found.size(), 4u);
  EXPECT_EQ(found[0].file_version(), "brain.Event:2");
  EXPECT_EQ(found[1].session_log().status(), tensorboard::SessionLog::START);
  EXPECT_EQ(found[1].step(), 1);
  EXPECT_EQ(found[2].step(), 1);
  EXPECT_GT(found[2].wall_time(), 1.7e9);
  ASSERT_EQ(found[2].summary().value_size(), 2);
  EXPECT_EQ(found[2].summary().value(0).tag(), "train/lm_loss");
  EXPECT_EQ(found[2].summary().value(0).simple_value(), 3.25f);
  EXPECT_EQ(found[2].summary().value(1).simple_value(), 1e-4f);
  EXPECT_EQ(found[3].summary().value(0).tensor().string_val(0), "lr = 1e-4");
}

TEST_F(MetricLogTest, TensorBoardResumePurgesLaterSteps) {
  const std::string folder = (folder_ / "tb").string();
  const auto first = make_tensorboard_sink(folder, 0);
  put(*first, 1);
  const auto second = make_tensorboard_sink(folder, 40);
  put(*second, 41);
  const auto files = event_files();
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(events(files[0])[2].step(), 1) << "readers take the files in the order of their names";
  EXPECT_EQ(events(files[1])[1].session_log().status(), tensorboard::SessionLog::START);
  EXPECT_EQ(events(files[1])[1].step(), 41);
  EXPECT_EQ(events(files[1])[2].step(), 41);
}

/// What is printed to stderr while it lives; through a pipe, which FileSizeLimit doesn't concern.
class StderrPipe {
 public:
  StderrPipe() : saved_(::dup(STDERR_FILENO)) {
    EXPECT_EQ(::pipe(ends_), 0);
    ::dup2(ends_[1], STDERR_FILENO);
    ::close(ends_[1]);
  }
  std::string finish() {
    ::dup2(saved_, STDERR_FILENO);
    ::close(saved_);
    std::string text(65536, '\0');
    text.resize(
        static_cast<std::size_t>(std::max<ssize_t>(0, ::read(ends_[0], text.data(), text.size()))));
    ::close(ends_[0]);
    return text;
  }

 private:
  int saved_;
  int ends_[2] = {};
};

/// Files can't grow past `bytes` while it lives, as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &saved_);
    handler_ = ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{bytes, saved_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &saved_);
    ::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit saved_{};
  void (*handler_)(int) = nullptr;
};

TEST_F(MetricLogTest, FullDiskLosesRecordsButNeverTheFile) {
  const std::vector<Metric> values = {{"train/lm_loss", 1.0}};
  StderrPipe stderr_pipe;
  {
    MetricLog log;
    log.add(make_jsonl_sink(jsonl(), 0));
    log.add(make_tensorboard_sink((folder_ / "tb").string(), 0));
    log.scalars(1, values);
    {
      const FileSizeLimit limit(fs::file_size(jsonl()) + 20);  // less than a line
      log.scalars(2, values);
      log.scalars(3, values);
    }
    log.scalars(4, values);
  }
  const std::string said = stderr_pipe.finish();
  EXPECT_THAT(steps(), ElementsAre(1, 4)) << contents(jsonl());
  const auto found = events(event_files().at(0));
  EXPECT_EQ(found.at(found.size() - 1).step(), 4);
  EXPECT_THAT(said, HasSubstr("metrics are being lost, training goes on: cannot write"));
  EXPECT_THAT(said, HasSubstr("lacks 2 records that"));
  const std::string once = "metrics are being lost, training goes on: cannot write '" + jsonl();
  EXPECT_EQ(said.find(once), said.rfind(once)) << said;
}

}  // namespace
}  // namespace neox
