#include <chrono>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>
#include <simdjson.h>

#include "core/base/error.h"
#include "core/base/log.h"
#include "io/data/partial_file.h"
#include "io/metrics/append_file.h"
#include "io/metrics/metric_log.h"

namespace neox {
namespace {

/// The "step" of a line; nothing when the line is not a record of ours (cut short by a crash).
std::optional<std::int64_t> step_of(simdjson::dom::parser& parser, const std::string& line) {
  std::int64_t step = 0;
  simdjson::dom::element record;
  if (parser.parse(line).get(record) != simdjson::SUCCESS) return std::nullopt;
  if (record["step"].get(step) != simdjson::SUCCESS) return std::nullopt;
  return step;
}

struct Sorted {
  std::string kept;
  std::int64_t later = 0, broken = 0;  // lines dropped
};

Sorted sort_lines(const std::string& path, std::int64_t last_step) {
  Sorted result;
  std::ifstream in(path, std::ios::binary);
  require(in.good(), "cannot read '{}', to which metrics are to be appended", path);
  simdjson::dom::parser parser;
  std::string line;
  while (std::getline(in, line)) {
    const bool whole = !in.eof();  // getline() stopped at a line end
    const auto step = whole ? step_of(parser, line) : std::nullopt;
    if (!step) {
      ++result.broken;
    } else if (*step > last_step) {
      ++result.later;
    } else {
      result.kept.append(line).push_back('\n');
    }
  }
  require(!in.bad(), "cannot read '{}', to which metrics are to be appended", path);
  return result;
}

void drop_lines_after(const std::string& path, std::int64_t last_step) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error || size == 0) return;  // nothing there, or opening it will say why not
  const Sorted lines = sort_lines(path, last_step);
  if (lines.later + lines.broken == 0) return;
  require(lines.broken <= 1 || lines.later > 0 || !lines.kept.empty(),
          "'{}' is to hold this run's metrics, but its {} lines are something else: move it away",
          path, lines.broken);
  auto file = PartialFile::try_create(path);
  require(file.has_value(), "another process is rewriting '{}'", path);
  file->write(std::as_bytes(std::span(lines.kept)));
  file->publish();
  if (lines.later > 0) {
    log_info("'{}': removed the records after step {} ({}): this run does those steps again", path,
             last_step, lines.later);
  }
  if (lines.broken > 0) log_warning("'{}': removed damaged lines ({})", path, lines.broken);
}

class JsonlSink final : public MetricSink {
 public:
  explicit JsonlSink(const std::string& path) : file_(path, AppendFile::Mode::append) {}

  const std::string& where() const override { return file_.path(); }

  void scalars(std::int64_t step, std::span<const Metric> values) override {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
    nlohmann::ordered_json record;
    record["step"] = step;
    record["time"] = static_cast<double>(ms) / 1000.0;
    for (const auto& [name, value] : values) record[name] = value;  // not finite: dumped as null
    file_.append(record.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + '\n');
  }

 private:
  AppendFile file_;
};

}  // namespace

std::unique_ptr<MetricSink> make_jsonl_sink(const std::string& path, std::int64_t resumed_step) {
  const auto parent = std::filesystem::path(path).parent_path();
  if (!parent.empty()) create_directories_for_writing(parent.string());
  drop_lines_after(path, resumed_step);
  return std::make_unique<JsonlSink>(path);
}

}  // namespace neox
