#pragma once
// The parts of a checkpoint file that are ours rather than HDF5's: the header in the 4096-byte user
// block, the integrity table, and the hash over everything that is not tensor data. Every byte of
// the file is under exactly one of: header hash, table hash, metadata hash, sum of a tensor or
// text.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/checkpoint/checkpoint.h"
#include "io/checkpoint/posix_file.h"

namespace neox {

inline constexpr std::int64_t kUserBlockBytes = 4096;
inline constexpr std::int64_t kFormatVersion = 1;
inline constexpr const char* kFormatName = "neox-checkpoint";

/// Where the bytes of one dataset are, and their sum.
struct TableEntry {
  std::string path;
  std::int64_t offset = 0;  ///< bytes in the file
  std::int64_t bytes = 0;
  std::uint64_t sum = 0;
};

/// File offsets of the four integrity datasets: path char[n][path_bytes], and three u64[n].
struct TablePlace {
  std::int64_t entries = 0;
  std::int64_t path_bytes = 0;
  std::int64_t path_offset = 0;
  std::int64_t offset_offset = 0;
  std::int64_t bytes_offset = 0;
  std::int64_t sum_offset = 0;
};

struct FileHeader {
  std::int64_t step = 0;
  std::int64_t file_bytes = 0;
  TablePlace table;
};

/// Writes the four integrity datasets.
void write_table(const PosixFile& file, const TablePlace& place,
                 std::span<const TableEntry> entries);
/// Hashes table and metadata as they are in the file, and writes the header: the completion record.
void write_header(const PosixFile& file, const FileHeader& header,
                  std::span<const TableEntry> entries);

struct VerifiedFile {
  FileHeader header;
  std::vector<TableEntry> entries;
};
/// Reads and checks header, size, table and metadata hash. Throws Error saying what does not match.
VerifiedFile read_verified(const PosixFile& file);

/// Throws Error unless the slice lies inside the tensor, in host memory, and the part inside the
/// slice (the part counts for nothing in a read that fills the whole slice).
void check_slice(const CheckpointTensor& tensor, bool check_part);

/// Flat bytes for messages between ranks: numbers and strings in the order they were put.
class Packer {
 public:
  void put(std::int64_t value);
  void put(std::uint64_t value) { put(static_cast<std::int64_t>(value)); }
  void put(const std::string& text);
  void put(const Shape& shape);
  void put(const Attributes& attributes);
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};
class Unpacker {
 public:
  explicit Unpacker(std::string_view bytes) : bytes_(bytes) {}
  std::int64_t number();
  std::uint64_t bits() { return static_cast<std::uint64_t>(number()); }
  std::string text();
  Shape shape();
  Attributes attributes();
  bool empty() const { return bytes_.empty(); }

 private:
  std::string_view take(std::size_t n);
  std::string_view bytes_;
};

}  // namespace neox
