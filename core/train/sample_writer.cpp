#include "core/train/sample_writer.h"

#include <cerrno>
#include <cstring>
#include <filesystem>

#include <nlohmann/json.hpp>

namespace neox {

SampleWriter::SampleWriter(const std::string& path) : path_(path) {
  if (path.empty()) return;
  std::error_code ignored;
  const bool existed = std::filesystem::exists(path, ignored);
  errno = 0;
  out_.open(path, std::ios::app);
  require(out_.good(), "cannot write generate.sample_output_file = {}: {}", path,
          std::strerror(errno));
  if (!existed) std::filesystem::remove(path, ignored);
  out_.close();
}

void SampleWriter::write(const GeneratedSample& sample) {
  if (path_.empty()) return;
  if (!out_.is_open()) out_.open(path_);
  nlohmann::ordered_json line;
  line["context"] = sample.context;
  line["text"] = sample.text;
  line["length"] = sample.length;
  line["finished"] = sample.finished;
  line["message"] = sample.message;
  line["duration_seconds"] = sample.duration_seconds;
  // A generation may stop inside a character: such bytes become U+FFFD.
  out_ << line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << '\n' << std::flush;
  require(out_.good(), "writing {} failed (disk full?)", path_);
}

}  // namespace neox
