#include "io/metrics/event_file.h"

#include <random>

#include <gtest/gtest.h>

#include "core/base/error.h"

namespace neox {
namespace {

using namespace std::string_literals;

TEST(Crc32c, KnownVectors) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);            // the catalogue's check value
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);  // RFC 3720 B.4
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  std::string rising, falling;
  for (char c = 0; c < 32; ++c) {
    rising += c;
    falling.insert(falling.begin(), c);
  }
  EXPECT_EQ(crc32c(rising), 0x46DD794Eu);
  EXPECT_EQ(crc32c(falling), 0x113FDB5Cu);
}

// The first record of event files written by TensorFlow: a version event of 24 bytes.
TEST(TfRecord, FramesLikeTensorFlow) {
  const std::string record = tfrecord(std::string(24, 'x'));
  EXPECT_EQ(record.substr(0, 12), "\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22"s);
  EXPECT_EQ(record.size(), 24u + 16u);
}

TEST(TfRecord, RoundTrip) {
  const std::vector<std::string> data = {"", "a", std::string(3000, '\0'), "\xff\x00z"s};
  std::string file;
  for (const auto& d : data) file += tfrecord(d);
  EXPECT_EQ(parse_tfrecords(file, "file"), data);
  EXPECT_TRUE(parse_tfrecords("", "file").empty());
}

TEST(TfRecord, DamageIsFound) {
  const std::string file = tfrecord("first") + tfrecord("second record");
  for (std::size_t i = 0; i < file.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = file;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
      EXPECT_THROW(parse_tfrecords(damaged, "file"), Error) << "byte " << i << " bit " << bit;
    }
  }
  for (std::size_t length = 1; length < file.size(); ++length) {
    if (length == tfrecord("first").size()) continue;
    EXPECT_THROW(parse_tfrecords(file.substr(0, length), "file"), Error) << length;
  }
}

}  // namespace
}  // namespace neox
