#include "io/checkpoint/format.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include <fmt/format.h>

#include "core/base/format.h"
#include "io/checkpoint/sum64.h"

namespace neox {
namespace {

static_assert(std::endian::native == std::endian::little, "checkpoints are little-endian");

constexpr std::array<char, 8> kMagic = {'N', 'E', 'O', 'X', 'C', 'K', 'P', 'T'};
constexpr std::size_t kRecordOffset = 2048;
constexpr std::int64_t kHashPiece = std::int64_t{4} << 20;
// Far above any real file; keeps a damaged header from asking for absurd memory.
constexpr std::int64_t kMostEntries = std::int64_t{1} << 24, kLongestPath = 4096;

/// As it lies in the user block, at kRecordOffset.
struct Record {
  std::array<char, 8> magic = kMagic;
  std::int64_t version = kFormatVersion;
  FileHeader header;
  std::uint64_t metadata_hash = 0;
  std::uint64_t table_hash = 0;
  std::uint64_t block_hash = 0;  ///< of all 4096 bytes, with this field zero
};
static_assert(std::is_trivially_copyable_v<Record> && sizeof(Record) == 12 * 8 + 8);

using Block = std::array<std::byte, kUserBlockBytes>;

std::uint64_t hash(const void* data, std::int64_t bytes, std::int64_t first = 0) {
  return sum64(static_cast<const std::byte*>(data), 1, bytes, first);
}

struct Range {
  std::int64_t begin, end;
};

// Everything after the user block that is neither data of an entry nor of the table.
std::vector<Range> metadata_ranges(const FileHeader& header, std::span<const TableEntry> entries) {
  std::vector<Range> taken;
  for (const TableEntry& e : entries) taken.push_back({e.offset, e.offset + e.bytes});
  const TablePlace& t = header.table;
  taken.push_back({t.path_offset, t.path_offset + t.entries * t.path_bytes});
  for (const std::int64_t offset : {t.offset_offset, t.bytes_offset, t.sum_offset}) {
    taken.push_back({offset, offset + t.entries * 8});
  }
  std::sort(taken.begin(), taken.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  std::vector<Range> gaps;
  std::int64_t at = kUserBlockBytes;
  for (const Range& r : taken) {
    require(r.begin >= at && r.end >= r.begin && r.end <= header.file_bytes,
            "its table places data at bytes {} to {}, over other contents or past the end", r.begin,
            r.end);
    if (r.begin > at) gaps.push_back({at, r.begin});
    at = r.end;
  }
  if (at < header.file_bytes) gaps.push_back({at, header.file_bytes});
  return gaps;
}

std::uint64_t metadata_hash(const PosixFile& file, const FileHeader& header,
                            std::span<const TableEntry> entries) {
  std::vector<std::byte> buffer(kHashPiece);
  std::uint64_t total = 0;
  for (const Range& gap : metadata_ranges(header, entries)) {
    for (std::int64_t at = gap.begin; at < gap.end; at += kHashPiece) {
      const std::int64_t n = std::min(kHashPiece, gap.end - at);
      file.read(buffer.data(), n, at);
      total += hash(buffer.data(), n, at);
    }
  }
  return total;
}

struct RawTable {
  std::string paths;
  std::vector<std::uint64_t> offsets, bytes, sums;
  std::uint64_t hash() const {
    std::uint64_t total = neox::hash(paths.data(), static_cast<std::int64_t>(paths.size()));
    auto first = static_cast<std::int64_t>(paths.size());
    for (const auto* column : {&offsets, &bytes, &sums}) {
      const auto n = static_cast<std::int64_t>(column->size() * 8);
      total += neox::hash(column->data(), n, first);
      first += n;
    }
    return total;
  }
};

RawTable read_raw_table(const PosixFile& file, const TablePlace& place) {
  RawTable raw;
  const auto n = static_cast<std::size_t>(place.entries);
  raw.paths.resize(n * static_cast<std::size_t>(place.path_bytes));
  file.read(raw.paths.data(), static_cast<std::int64_t>(raw.paths.size()), place.path_offset);
  const auto column = [&](std::vector<std::uint64_t>& to, std::int64_t offset) {
    to.resize(n);
    file.read(to.data(), place.entries * 8, offset);
  };
  column(raw.offsets, place.offset_offset);
  column(raw.bytes, place.bytes_offset);
  column(raw.sums, place.sum_offset);
  return raw;
}

Record read_record(const PosixFile& file, Block& block) {
  const std::int64_t size = file.size();
  require(size >= kUserBlockBytes, "{} is not a neox checkpoint: it has only {} bytes", file.path(),
          size);
  file.read(block.data(), kUserBlockBytes, 0);
  Record record;
  std::memcpy(&record, block.data() + kRecordOffset, sizeof record);
  require(record.magic == kMagic,
          "{} is not a neox checkpoint, or was never completed: its header is missing",
          file.path());
  Record zeroed = record;
  zeroed.block_hash = 0;
  std::memcpy(block.data() + kRecordOffset, &zeroed, sizeof zeroed);
  require(hash(block.data(), kUserBlockBytes) == record.block_hash,
          "{} is damaged: the hash of its header does not match", file.path());
  require(record.version == kFormatVersion,
          "{} has the checkpoint format {}; this program reads format {}: use a matching release",
          file.path(), record.version, kFormatVersion);
  require(record.header.file_bytes == size, "{} is damaged: it has {} bytes, its header says {}{}",
          file.path(), size, record.header.file_bytes,
          size < record.header.file_bytes ? " (cut off?)" : " (rewritten by h5repack?)");
  return record;
}

}  // namespace

void write_table(const PosixFile& file, const TablePlace& place,
                 std::span<const TableEntry> entries) {
  std::string paths(static_cast<std::size_t>(place.entries * place.path_bytes), '\0');
  std::vector<std::uint64_t> offsets, bytes, sums;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    entries[i].path.copy(paths.data() + i * static_cast<std::size_t>(place.path_bytes),
                         static_cast<std::size_t>(place.path_bytes));
    offsets.push_back(static_cast<std::uint64_t>(entries[i].offset));
    bytes.push_back(static_cast<std::uint64_t>(entries[i].bytes));
    sums.push_back(entries[i].sum);
  }
  file.write(paths.data(), static_cast<std::int64_t>(paths.size()), place.path_offset);
  file.write(offsets.data(), place.entries * 8, place.offset_offset);
  file.write(bytes.data(), place.entries * 8, place.bytes_offset);
  file.write(sums.data(), place.entries * 8, place.sum_offset);
}

void write_header(const PosixFile& file, const FileHeader& header,
                  std::span<const TableEntry> entries) {
  Record record;
  record.header = header;
  record.table_hash = read_raw_table(file, header.table).hash();
  record.metadata_hash = metadata_hash(file, header, entries);
  Block block{};
  const std::string text = fmt::format(
      "neox checkpoint, format {}\nstep {}\n{} datasets, {} bytes\nThis is an HDF5 file: h5ls -r "
      "lists it, h5dump prints it.\nOne dataset per whole tensor, whatever the number of ranks "
      "that "
      "wrote it.\nSums and hashes: {}\n",
      kFormatVersion, header.step, header.table.entries, header.file_bytes, kSum64Name);
  std::memcpy(block.data(), text.data(), text.size());
  std::memcpy(block.data() + kRecordOffset, &record, sizeof record);
  record.block_hash = hash(block.data(), kUserBlockBytes);
  std::memcpy(block.data() + kRecordOffset, &record, sizeof record);
  file.write(block.data(), kUserBlockBytes, 0);
}

VerifiedFile read_verified(const PosixFile& file) {
  Block block;
  const Record record = read_record(file, block);
  const TablePlace& place = record.header.table;
  require(place.entries >= 0 && place.entries <= kMostEntries && place.path_bytes > 0 &&
              place.path_bytes <= kLongestPath &&
              place.entries * (place.path_bytes + 24) <= record.header.file_bytes,
          "{} is damaged: its table has {} entries of {} bytes", file.path(), place.entries,
          place.path_bytes);
  const RawTable raw = read_raw_table(file, place);
  require(raw.hash() == record.table_hash, "{} is damaged: the hash of its table does not match",
          file.path());
  VerifiedFile verified{record.header, {}};
  const auto path_bytes = static_cast<std::size_t>(place.path_bytes);
  for (std::size_t i = 0; i < raw.sums.size(); ++i) {
    std::string path = raw.paths.substr(i * path_bytes, path_bytes);
    path.resize(std::min(path.find('\0'), path.size()));
    verified.entries.push_back({std::move(path), static_cast<std::int64_t>(raw.offsets[i]),
                                static_cast<std::int64_t>(raw.bytes[i]), raw.sums[i]});
  }
  require(metadata_hash(file, verified.header, verified.entries) == record.metadata_hash,
          "{} is damaged: the hash of its metadata does not match", file.path());
  return verified;
}

void check_slice(const CheckpointTensor& tensor, bool check_part) {
  const Shard& shard = tensor.shard;
  const Slice& slice = shard.slice;
  bool inside =
      slice.offset.rank() == shard.global.rank() && slice.extent.rank() == shard.global.rank();
  for (int i = 0; inside && i < shard.global.rank(); ++i) {
    inside = slice.offset[i] >= 0 && slice.extent[i] >= 0 &&
             slice.offset[i] + slice.extent[i] <= shard.global[i];
  }
  require(inside, "{}: the slice at {} of extent {} is not inside {}", tensor.path,
          slice.offset.str(), slice.extent.str(), shard.global.str());
  require(!check_part || (0 <= tensor.write_begin && tensor.write_begin <= tensor.write_end &&
                          tensor.write_end <= slice.extent.numel()),
          "{}: elements {} to {} are not inside a slice of {}", tensor.path, tensor.write_begin,
          tensor.write_end, slice.extent.numel());
  require(shard.local.dtype == shard.dtype, "{}: the shard is {}, its data {}", tensor.path,
          name_of(shard.dtype), name_of(shard.local.dtype));
  require(shard.local.device.is_cpu(), "{}: checkpoints take host memory, not memory of {}",
          tensor.path, name_of(shard.local.device));
}

// ---- messages
// ----------------------------------------------------------------------------------------

void Packer::put(std::int64_t value) {
  bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void Packer::put(const std::string& text) {
  put(static_cast<std::int64_t>(text.size()));
  bytes_ += text;
}

void Packer::put(const Shape& shape) {
  put(std::int64_t{shape.rank()});
  for (int i = 0; i < shape.rank(); ++i) put(shape[i]);
}

void Packer::put(const Attributes& attributes) {
  put(static_cast<std::int64_t>(attributes.size()));
  for (const auto& [name, value] : attributes) {
    put(name);
    put(static_cast<std::int64_t>(value.index()));
    if (const auto* number = std::get_if<std::int64_t>(&value)) put(*number);
    if (const auto* real = std::get_if<double>(&value)) put(std::bit_cast<std::int64_t>(*real));
    if (const auto* text = std::get_if<std::string>(&value)) put(*text);
  }
}

std::string_view Unpacker::take(std::size_t n) {
  require(n <= bytes_.size(), "a message between ranks is shorter than expected: {} bytes of {}",
          bytes_.size(), n);
  const std::string_view taken = bytes_.substr(0, n);
  bytes_.remove_prefix(n);
  return taken;
}

std::int64_t Unpacker::number() {
  std::int64_t value = 0;
  std::memcpy(&value, take(sizeof value).data(), sizeof value);
  return value;
}

std::string Unpacker::text() {
  const std::int64_t length = number();
  return std::string(take(static_cast<std::size_t>(length)));
}

Shape Unpacker::shape() {
  Shape shape;
  for (std::int64_t axes = number(); axes > 0; --axes) shape.push_back(number());
  return shape;
}

Attributes Unpacker::attributes() {
  Attributes attributes;
  for (std::int64_t left = number(); left > 0; --left) {
    std::string name = text();
    switch (number()) {
      case 0:
        attributes[name] = number();
        break;
      case 1:
        attributes[name] = std::bit_cast<double>(number());
        break;
      default:
        attributes[name] = text();
        break;
    }
  }
  return attributes;
}

}  // namespace neox
