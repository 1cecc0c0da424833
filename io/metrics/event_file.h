#pragma once
// TensorBoard event files: TFRecord framing
// (https://www.tensorflow.org/tutorials/load_data/tfrecord, "TFRecords format details") around
// protobuf messages (io/metrics/tensorboard_event.proto).

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace neox {

/// CRC-32C (Castagnoli, RFC 3720 B.4) of `bytes`.
std::uint32_t crc32c(std::string_view bytes);
/// The rotated and shifted CRC-32C of TFRecord, so that sums of data that holds sums stay good.
std::uint32_t masked_crc32c(std::string_view bytes);

/// One TFRecord: u64 length, u32 masked CRC of the length, data, u32 masked CRC of the data; all
/// little-endian.
std::string tfrecord(std::string_view data);

/// The data of every record of a TFRecord file's contents. Throws Error naming `where` and the byte
/// offset on a wrong sum or a record cut short.
std::vector<std::string> parse_tfrecords(std::string_view contents, const std::string& where);

}  // namespace neox
