#pragma once
// Shared by the tests of io/data.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "io/data/indexed_dataset.h"

namespace neox::data_testing {

/// A directory that goes with the object.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::string str() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

/// Makes writes of this process beyond `bytes` of a file fail, as a full disk does.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(std::size_t bytes);
  ~FileSizeLimit();
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  std::size_t before_;
};

std::string read_file(const std::string& path);
void write_file(const std::string& path, const std::string& bytes);

/// Message of the Error that f throws; "" when it throws none.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

using Documents = std::vector<std::vector<std::int32_t>>;
/// One document of one sequence for each entry.
void write_dataset(const std::string& prefix, const Documents& documents, DType dtype = DType::u16);
/// `count` documents of 0 … max_length tokens that count up from 0 over the whole corpus.
Documents counting_documents(std::int64_t count, std::int64_t max_length, std::uint32_t seed);

/// Hex SHA-256 of bytes, by the system's sha256sum.
std::string sha256(const std::string& bytes);

/// Folder of the shared test data below the repository's parent; "" when it is not there.
std::string shared_data(const std::string& folder);
/// Raw contents of a .npy file after its header, and the header.
struct Npy {
  std::string header;
  std::string data;
};
Npy read_npy(const std::string& path);

}  // namespace neox::data_testing

#define NEOX_NEED_SHARED_DATA(variable, folder)                           \
  const std::string variable = ::neox::data_testing::shared_data(folder); \
  if (variable.empty()) GTEST_SKIP() << "no ../shared/data/" << folder << " beside the repository"
