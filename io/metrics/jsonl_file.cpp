#include "io/metrics/jsonl_file.h"

#include <filesystem>
#include <fstream>
#include <optional>
#include <span>

#include <simdjson.h>

#include "core/base/error.h"
#include "core/base/log.h"
#include "io/data/partial_file.h"

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

Sorted sort_lines(const std::string& path, const char* what, std::int64_t last_step) {
  Sorted result;
  std::ifstream in(path, std::ios::binary);
  require(in.good(), "cannot read '{}', to which {} are to be appended", path, what);
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
  require(!in.bad(), "cannot read '{}', to which {} are to be appended", path, what);
  return result;
}

void drop_lines_after(const std::string& path, const char* what, std::int64_t last_step) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error || size == 0) return;  // nothing there, or opening it will say why not
  const Sorted lines = sort_lines(path, what, last_step);
  if (lines.later + lines.broken == 0) return;
  require(lines.broken <= 1 || lines.later > 0 || !lines.kept.empty(),
          "'{}' is to hold this run's {}, but its {} lines are something else: move it away", path,
          what, lines.broken);
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

}  // namespace

AppendFile open_jsonl(const std::string& path, const char* what, std::int64_t resumed_step) {
  const auto parent = std::filesystem::path(path).parent_path();
  if (!parent.empty()) create_directories_for_writing(parent.string());
  drop_lines_after(path, what, resumed_step);
  return {path, AppendFile::Mode::append};
}

}  // namespace neox
