#include "tests/io/data_support.h"

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>
#include <sys/resource.h>
#include <unistd.h>

#include "core/base/error.h"

namespace neox::data_testing {

namespace fs = std::filesystem;

TempDir::TempDir() {
  std::string pattern = (fs::temp_directory_path() / "neox-test-XXXXXX").string();
  require(::mkdtemp(pattern.data()) != nullptr, "cannot make a temporary directory");
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

FileSizeLimit::FileSizeLimit(std::size_t bytes) {
  std::signal(SIGXFSZ, SIG_IGN);  // write() then returns EFBIG
  rlimit limit{};
  require(::getrlimit(RLIMIT_FSIZE, &limit) == 0, "cannot read the file size limit");
  before_ = limit.rlim_cur;
  limit.rlim_cur = bytes;
  require(::setrlimit(RLIMIT_FSIZE, &limit) == 0, "cannot set the file size limit");
}

FileSizeLimit::~FileSizeLimit() {
  rlimit limit{};
  ::getrlimit(RLIMIT_FSIZE, &limit);
  limit.rlim_cur = before_;
  ::setrlimit(RLIMIT_FSIZE, &limit);
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  require(in.good(), "cannot open '{}'", path);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << bytes;
  out.close();
  require(out.good(), "cannot write '{}'", path);
}

void write_dataset(const std::string& prefix, const Documents& documents, DType dtype) {
  IndexedDatasetWriter writer(prefix, dtype);
  for (const auto& document : documents) {
    writer.add_sequence(document);
    writer.end_document();
  }
  writer.finish();
}

Documents counting_documents(std::int64_t count, std::int64_t max_length, std::uint32_t seed) {
  std::mt19937 rng(seed);
  Documents documents(static_cast<std::size_t>(count));
  std::int32_t next = 0;
  for (auto& document : documents) {
    document.resize(rng() % static_cast<std::size_t>(max_length + 1));
    for (auto& token : document) token = next++;
  }
  return documents;
}

std::string sha256(const std::string& bytes) {
  TempDir dir;
  write_file(dir / "bytes", bytes);
  const std::string command = "sha256sum " + (dir / "bytes") + " > " + (dir / "sum");
  require(std::system(command.c_str()) == 0, "sha256sum does not run");
  return read_file(dir / "sum").substr(0, 64);
}

std::string shared_data(const std::string& folder) {
  const fs::path path = fs::path(NEOX_SOURCE_DIR) / ".." / "shared" / "data" / folder;
  return fs::exists(path) ? path.string() : "";
}

Npy read_npy(const std::string& path) {
  const std::string bytes = read_file(path);
  require(bytes.size() > 10 && bytes.substr(1, 5) == "NUMPY", "'{}' is no .npy file", path);
  const std::size_t length =
      static_cast<unsigned char>(bytes[8]) + 256u * static_cast<unsigned char>(bytes[9]);
  return {bytes.substr(10, length), bytes.substr(10 + length)};
}

}  // namespace neox::data_testing
