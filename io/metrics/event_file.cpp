#include "io/metrics/event_file.h"

#include <bit>
#include <cstring>

#include <boost/crc.hpp>

#include "core/base/error.h"

namespace neox {
namespace {

static_assert(std::endian::native == std::endian::little);

template <class T>
void put(std::string& out, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

template <class T>
T get(std::string_view from) {
  T value;
  std::memcpy(&value, from.data(), sizeof value);
  return value;
}

constexpr std::size_t kHeadBytes = sizeof(std::uint64_t) + sizeof(std::uint32_t);
constexpr std::size_t kFrameBytes = kHeadBytes + sizeof(std::uint32_t);

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> crc;
  crc.process_bytes(bytes.data(), bytes.size());
  return crc.checksum();
}

std::uint32_t masked_crc32c(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xa282ead8u;
}

std::string tfrecord(std::string_view data) {
  std::string record;
  record.reserve(data.size() + kFrameBytes);
  put(record, std::uint64_t{data.size()});
  put(record, masked_crc32c(record));
  record += data;
  put(record, masked_crc32c(data));
  return record;
}

std::vector<std::string> parse_tfrecords(std::string_view contents, const std::string& where) {
  std::vector<std::string> records;
  std::size_t at = 0;
  while (at < contents.size()) {
    const std::string_view rest = contents.substr(at);
    require(rest.size() >= kFrameBytes, "{}: the record at byte {} is cut short", where, at);
    const auto length = get<std::uint64_t>(rest);
    const std::string_view head = rest.substr(0, sizeof length);
    require(get<std::uint32_t>(rest.substr(sizeof length)) == masked_crc32c(head),
            "{}: the length of the record at byte {} does not match its checksum", where, at);
    require(length <= rest.size() - kFrameBytes,
            "{}: the record at byte {} is cut short: {} bytes announced, {} there", where, at,
            length, rest.size() - kFrameBytes);
    const std::string_view data = rest.substr(kHeadBytes, length);
    require(get<std::uint32_t>(rest.substr(kHeadBytes + length)) == masked_crc32c(data),
            "{}: the record at byte {} does not match its checksum", where, at);
    records.emplace_back(data);
    at += kFrameBytes + length;
  }
  return records;
}

}  // namespace neox
