#include "io/safetensors.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <random>
#include <sstream>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/tensor/buffer.h"

namespace neox {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::string contents(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

std::string with_header(const std::string& json, const std::string& data) {
  const std::uint64_t length = json.size();
  std::string file(sizeof length, '\0');
  std::memcpy(file.data(), &length, sizeof length);
  return file + json + data;
}

class SafetensorsTest : public testing::Test {
 protected:
  SafetensorsTest()
      : folder_(fs::temp_directory_path() / fmt::format("neox_safetensors_{}", ::getpid())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~SafetensorsTest() override { fs::remove_all(folder_); }

  std::string file(const std::string& name) const { return (folder_ / name).string(); }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(file(name), std::ios::binary) << bytes;
    return file(name);
  }
  /// The message of opening `path`; empty when it opens.
  static std::string error_of(const std::string& path) {
    try {
      const SafetensorsReader reader(path);
      return "";
    } catch (const Error& e) {
      return e.what();
    }
  }

  fs::path folder_;
};

template <class T>
OwnedTensor make(const Shape& shape, const std::vector<T>& values) {
  OwnedTensor owned(shape, dtype_of<T>);
  std::memcpy(owned.tensor.data, values.data(), values.size() * sizeof(T));
  return owned;
}

std::vector<float> rising(std::size_t count) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), 0.0f);
  return values;
}

TEST_F(SafetensorsTest, RoundTripOfEveryType) {
  std::vector<OwnedTensor> owned;
  std::vector<NamedTensor> tensors;
  std::mt19937 random(1);
  for (const auto type : {DType::f32, DType::bf16, DType::f16, DType::f64, DType::i8, DType::u8,
                          DType::i16, DType::u16, DType::i32, DType::u32, DType::i64, DType::u64}) {
    for (const auto& shape : {Shape{}, Shape{3}, Shape{2, 0}, Shape{1, 2, 3, 2, 1}}) {
      owned.emplace_back(shape, type);
      const Tensor tensor = owned.back().tensor;
      for (std::size_t i = 0; i < tensor.bytes(); ++i) tensor.data[i] = std::byte(random());
      tensors.push_back({fmt::format("{} \"{}\"", name_of(type), shape.str()), tensor});
    }
  }
  write_safetensors(file("x"), tensors, {{"a", "b\n"}, {"format", "pt"}});
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1) << "files left over";
  const SafetensorsReader reader(file("x"));
  ASSERT_EQ(reader.entries().size(), tensors.size());
  EXPECT_EQ(reader.metadata().at("a"), "b\n");
  for (const auto& [name, tensor] : tensors) {
    const auto& entry = reader.at(name);
    EXPECT_EQ(entry.dtype, tensor.dtype);
    EXPECT_EQ(entry.shape, tensor.shape);
    ASSERT_EQ(entry.data.size(), tensor.bytes());
    EXPECT_TRUE(std::equal(entry.data.begin(), entry.data.end(), tensor.data));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(entry.data.data()) % size_of(entry.dtype), 0u);
  }
}

// A file made by hand after the format's description.
TEST_F(SafetensorsTest, ReadsAndWritesTheDescribedFormat) {
  const std::string json =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
      R"("a":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]}})";
  const float numbers[] = {1.5f, -2.0f};
  std::string data(12, '\0');
  std::memcpy(data.data(), numbers, 8);
  std::memcpy(data.data() + 8, "\x80\x3f\x00\xc0", 4);  // 1, -2
  const SafetensorsReader reader(write("x.safetensors", with_header(json, data)));
  EXPECT_THAT(reader.read_f32("b", {2}), testing::ElementsAre(1.5f, -2.0f));
  EXPECT_THAT(reader.read_f32("a", {1, 2}), testing::ElementsAre(1.0f, -2.0f));

  const auto a = make<bf16>({1, 2}, {bf16(1.0f), bf16(-2.0f)});
  const auto b = make<float>({2}, {1.5f, -2.0f});
  write_safetensors(file("y"), std::vector<NamedTensor>{{"a", a}, {"b", b}});
  std::string padded = json;
  padded.resize((padded.size() + 7) / 8 * 8, ' ');
  EXPECT_EQ(contents(file("y")), with_header(padded, data));
}

TEST_F(SafetensorsTest, MisalignedAndConverted) {
  // The header's length decides where the doubles lie: at every address modulo 8.
  const std::string json = R"({"x":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}})";
  const double numbers[] = {1.0 / 3, -1e-3};
  const std::string data(reinterpret_cast<const char*>(numbers), 16);
  for (int spaces = 0; spaces < 8; ++spaces) {
    const SafetensorsReader reader(
        write("x", with_header(json + std::string(static_cast<std::size_t>(spaces), ' '), data)));
    EXPECT_THAT(reader.read_f32("x", {2}), testing::ElementsAre(1.0f / 3, -1e-3f));
    OwnedTensor half({2}, DType::f16), wide({2}, DType::f64), count({2}, DType::i64);
    reader.read("x", half.tensor);
    EXPECT_NEAR(static_cast<float>(half.tensor.ptr<f16>()[0]), 1.0f / 3, 2e-4);
    reader.read("x", wide.tensor);
    EXPECT_EQ(wide.tensor.ptr<double>()[0], 1.0 / 3);
    EXPECT_THROW(reader.read("x", count.tensor), Error);
    OwnedTensor other({1, 2}, DType::f64);
    EXPECT_THROW(reader.read("x", other.tensor), Error);
  }
}

TEST_F(SafetensorsTest, Boxes) {
  const Shape shape = {3, 4, 5, 2};
  const auto values = rising(120);
  const auto whole = make<float>(shape, values);
  write_safetensors(file("x"), std::vector<NamedTensor>{{"x", whole}});
  const SafetensorsReader reader(file("x"));
  std::mt19937 random(3);
  for (int trial = 0; trial < 500; ++trial) {
    Slice slice;
    for (int i = 0; i < 4; ++i) {
      const auto offset = static_cast<std::int64_t>(random() % static_cast<unsigned>(shape[i] + 1));
      const auto extent =
          static_cast<std::int64_t>(random() % static_cast<unsigned>(shape[i] - offset + 1));
      const bool full = random() % 3 == 0;
      slice.offset.push_back(full ? 0 : offset);
      slice.extent.push_back(full ? shape[i] : extent);
    }
    OwnedTensor out(slice.extent, trial % 2 == 0 ? DType::f32 : DType::f64);
    reader.read("x", slice, out.tensor);
    std::int64_t at = 0;
    for (std::int64_t a = 0; a < slice.extent[0]; ++a) {
      for (std::int64_t b = 0; b < slice.extent[1]; ++b) {
        for (std::int64_t c = 0; c < slice.extent[2]; ++c) {
          for (std::int64_t d = 0; d < slice.extent[3]; ++d, ++at) {
            const auto expected = static_cast<float>(
                (((slice.offset[0] + a) * 4 + slice.offset[1] + b) * 5 + slice.offset[2] + c) * 2 +
                slice.offset[3] + d);
            const double got =
                trial % 2 == 0 ? out.tensor.ptr<float>()[at] : out.tensor.ptr<double>()[at];
            ASSERT_EQ(got, expected);
          }
        }
      }
    }
  }
  OwnedTensor out({3, 4, 5, 2}, DType::f32);
  EXPECT_THROW(reader.read("x", {{0, 0, 0, 1}, {3, 4, 5, 2}}, out.tensor), Error);
  EXPECT_THROW(reader.read("x", {{0, 0, 0}, {3, 4, 5}}, out.tensor), Error);
}

TEST_F(SafetensorsTest, HuggingFaceFile) {
  const SafetensorsReader reader(NEOX_SOURCE_DIR "/tests/fixtures/parity/gpt2_tiny_hf");
  EXPECT_THAT(reader.files(), testing::ElementsAre(HasSubstr("gpt2_tiny_hf/model.safetensors")));
  ASSERT_FALSE(reader.entries().empty());
  for (const auto& entry : reader.entries()) {
    EXPECT_EQ(entry.dtype, DType::f32) << entry.name;
    for (const float value : reader.read_f32(entry.name, entry.shape)) {
      ASSERT_TRUE(std::isfinite(value));
    }
  }
  EXPECT_EQ(reader.find("no such tensor"), nullptr);
  try {
    reader.at("no such tensor");
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("model.safetensors' has no tensor 'no such tensor'"));
  }
}

TEST_F(SafetensorsTest, Shards) {
  const auto a = make<float>({2}, {1, 2});
  const auto b = make<float>({3}, {3, 4, 5});
  write_safetensors(file("m-1.safetensors"), std::vector<NamedTensor>{{"a", a}});
  write_safetensors(file("m-2.safetensors"), std::vector<NamedTensor>{{"b", b}});
  const auto index = [&](const std::string& map) {
    return write("model.safetensors.index.json", R"({"metadata":{},"weight_map":)" + map + "}");
  };
  const std::string path = index(R"({"a":"m-1.safetensors","b":"m-2.safetensors"})");
  for (const auto& opened : {path, folder_.string()}) {
    const SafetensorsReader reader(opened);
    EXPECT_EQ(reader.files().size(), 2u);
    EXPECT_THAT(reader.read_f32("b", {3}), testing::ElementsAre(3, 4, 5));
  }
  index(R"({"a":"m-2.safetensors","b":"m-2.safetensors"})");
  EXPECT_THAT(error_of(path), HasSubstr("tensor 'a' is in 'm-2.safetensors', but it is in none"));
  index(R"({"a":"m-1.safetensors","b":"m-1.safetensors","c":"m-2.safetensors"})");
  EXPECT_THAT(error_of(path), HasSubstr("tensor 'b' is in 'm-1.safetensors', but it is in 'm-2"));
  index(R"({"a":"m-1.safetensors","b":"m-3.safetensors"})");
  EXPECT_THAT(error_of(path), HasSubstr("m-3.safetensors"));
  index(R"({"a":"../x.safetensors"})");
  EXPECT_THAT(error_of(path), HasSubstr("beside the index"));
  index(R"({"a":7})");
  EXPECT_THAT(error_of(path), HasSubstr("beside the index"));
  index("{}");
  EXPECT_THAT(error_of(path), HasSubstr("names no tensors"));
  index("[]");
  EXPECT_THAT(error_of(path), HasSubstr("has no weight_map"));
  index("{");
  EXPECT_THAT(error_of(path), HasSubstr("not valid JSON"));
  write_safetensors(file("m-2.safetensors"), std::vector<NamedTensor>{{"a", a}, {"b", b}});
  index(R"({"a":"m-1.safetensors","b":"m-2.safetensors"})");
  EXPECT_THAT(error_of(path), HasSubstr("tensor 'a' is both in"));
}

TEST_F(SafetensorsTest, MalformedFilesAreNamed) {
  const auto tensor = [](const std::string& fields) { return "{\"t\":{" + fields + "}}"; };
  struct Case {
    std::string bytes, message;
  };
  const std::string good = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";
  const std::string eight(8, '\0');
  ASSERT_EQ(error_of(write("good", with_header(tensor(good), eight))), "");
  const std::vector<Case> cases = {
      {"", "has 0 bytes"},
      {"1234567", "has 7 bytes"},
      {std::string(8, '\xff'), "its header would have 18446744073709551615 bytes"},
      {with_header("{}", "").substr(0, 9), "is cut short: its header has 2 bytes"},
      {with_header("", ""), "not valid JSON"},
      {with_header("[]", ""), "not a JSON object"},
      {with_header("{\"t\":1}", ""), "tensor 't' is not a JSON object"},
      {with_header("{} {}", ""), "not valid JSON"},
      {with_header("{\"\xff\":{}}", ""), "not valid JSON"},
      {with_header(std::string(5000, '['), ""), "not valid JSON"},
      {with_header(tensor(R"("dtype":"F32","shape":[2])"), eight), "lacks dtype, shape or"},
      {with_header(tensor(R"("dtype":7,"shape":[2],"data_offsets":[0,8])"), eight), "dtype"},
      {with_header(tensor(R"("dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8])"), eight),
       "element type F8_E4M3"},
      {with_header(tensor(R"("dtype":"F32","shape":2,"data_offsets":[0,8])"), eight), "shape"},
      {with_header(tensor(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), eight), "shape"},
      {with_header(tensor(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"), eight), "shape"},
      {with_header(tensor(R"("dtype":"F32","shape":[1,1,1,1,1,2],"data_offsets":[0,8])"), eight),
       "more than 5 axes"},
      {with_header(tensor(R"("dtype":"F32","shape":[4294967296,4294967296],)"
                          R"("data_offsets":[0,8])"),
                   eight),
       "absurdly large"},
      {with_header(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,16])"), eight),
       "ends at byte 16 of the data, but the file holds only 8"},
      {with_header(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"), eight), "rising"},
      {with_header(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), eight), "rising"},
      {with_header(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[-8,0])"), eight), "rising"},
      {with_header(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,8])"), eight),
       "needs 4 bytes, its data_offsets span 8"},
      {with_header(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"), eight),
       "4 bytes before tensor 't' belong to no tensor"},
      {with_header(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), eight),
       "has 4 bytes after its last tensor"},
      {with_header(tensor(good + R"(,"shape":[2])"), eight), "two keys 'shape'"},
      {with_header("{\"t\":{" + good + "},\"t\":{" + good + "}}", eight), "names 't' twice"},
      {with_header("{\"t\":{" + good + "},\"u\":{" + good + "}}", eight), "overlap"},
      {with_header(R"({"t":{"dtype":"U8","shape":[6],"data_offsets":[0,6]},)"
                   R"("u":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
                   eight),
       "tensors 't' and 'u' overlap"},
      {with_header(R"({"__metadata__":{"a":1}})", ""), "key 'a' is not a text"},
      {with_header(R"({"__metadata__":[]})", ""), "__metadata__ is not a JSON object"},
  };
  for (const auto& bad : cases) {
    const std::string message = error_of(write("bad.safetensors", bad.bytes));
    EXPECT_THAT(message, HasSubstr(bad.message)) << bad.bytes;
    EXPECT_THAT(message, HasSubstr("bad.safetensors")) << bad.bytes;
  }
  EXPECT_THAT(error_of(file("absent")), HasSubstr("absent"));
  EXPECT_THAT(error_of(folder_.string()), HasSubstr("holds neither"));
}

// Whatever the bytes: an Error or entries inside the file, never anything else.
TEST_F(SafetensorsTest, RandomDamageNeverReachesOutsideTheFile) {
  const auto a = make<float>({2, 3}, rising(6));
  const auto b = make<std::int64_t>({4}, {1, 2, 3, 4});
  const auto c = make<std::uint8_t>({5}, {1, 2, 3, 4, 5});
  write_safetensors(file("x"), std::vector<NamedTensor>{{"a", a}, {"layer.b", b}, {"c", c}});
  const std::string good = contents(file("x"));
  std::mt19937 random(11);
  int opened = 0;
  std::size_t touched = 0;
  const auto check = [&](const std::string& bytes) {
    try {
      const SafetensorsReader reader(write("y", bytes));
      ++opened;
      std::size_t sum = 0;
      for (const auto& entry : reader.entries()) {
        sum += entry.data.size();
        for (const auto byte : entry.data) touched += std::to_integer<std::size_t>(byte);
        ASSERT_EQ(entry.data.size(),
                  static_cast<std::size_t>(entry.shape.numel()) * size_of(entry.dtype));
      }
      ASSERT_LT(sum, bytes.size());
    } catch (const Error&) {
    }
  };
  for (std::size_t length = 0; length < good.size(); ++length) check(good.substr(0, length));
  EXPECT_EQ(opened, 0);
  const std::size_t header = good.size() - a.tensor.bytes() - b.tensor.bytes() - c.tensor.bytes();
  for (int trial = 0; trial < 3000; ++trial) {
    std::string bytes = good;
    const unsigned changes = 1 + random() % 4;
    for (unsigned i = 0; i < changes; ++i) {
      const std::size_t at = random() % header;
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
          break;
        case 1:
          bytes[at] = static_cast<char>(random());
          break;
        case 2:
          bytes[at] = "0123456789[]{},:\"-e."[random() % 20];
          break;
        case 3:
          std::swap(bytes[at], bytes[random() % header]);
          break;
      }
    }
    check(bytes);
  }
  EXPECT_GT(touched, 0u);
  EXPECT_GT(opened, 0) << "a changed letter of a name is no damage: some must open";
}

TEST_F(SafetensorsTest, WriterChecksWhatItIsGiven) {
  const auto a = make<float>({2}, {1, 2});
  {
    SafetensorsWriter writer(file("x"), {{"a", DType::f32, {2}}, {"b", DType::f32, {1}}});
    EXPECT_THROW(writer.append("b", a), Error);
    EXPECT_THROW(writer.append("a", make<float>({2, 1}, {1, 2})), Error);
    writer.append("a", a);
    EXPECT_THROW(writer.commit(), Error);
    EXPECT_FALSE(fs::exists(file("x")));
  }
  EXPECT_TRUE(fs::is_empty(folder_)) << "an unfinished file must vanish";
  EXPECT_THROW(SafetensorsWriter(file("x"), {{"a", DType::f32, {2}}, {"a", DType::f32, {1}}}),
               Error);
  EXPECT_THROW(SafetensorsWriter(file("no/folder/x"), {}), Error);
  EXPECT_THROW(SafetensorsWriter(file("x"), {{"\xff", DType::f32, {2}}}), Error);
  EXPECT_THROW(SafetensorsWriter(file("x"), {{"__metadata__", DType::f32, {2}}}, {}), Error);
}

}  // namespace
}  // namespace neox
