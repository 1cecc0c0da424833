#include <fstream>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "io/data/numpy_rng.h"
#include "tests/io/data_support.h"

namespace neox {
namespace {

template <class T>
std::vector<T> shuffled(NumpyRandomState& rng, std::size_t n) {
  std::vector<T> values(n);
  std::iota(values.begin(), values.end(), T{0});
  rng.shuffle(std::span<T>(values));
  return values;
}

// NumPy 1.24.2, RandomState(1234): shuffle(arange(20)), then shuffle(arange(10)).
TEST(NumpyRandomState, ShufflesAsNumpy) {
  NumpyRandomState rng(1234);
  EXPECT_EQ(shuffled<std::int32_t>(rng, 20),
            (std::vector<std::int32_t>{3,  13, 2,  16, 14, 5, 4,  0,  8, 18,
                                       17, 11, 10, 9,  7,  1, 19, 12, 6, 15}));
  EXPECT_EQ(shuffled<std::int32_t>(rng, 10),
            (std::vector<std::int32_t>{8, 1, 7, 6, 9, 5, 4, 3, 0, 2}));
}

TEST(NumpyRandomState, RawWordsAreMt19937) {
  NumpyRandomState rng(1234);
  for (const std::uint32_t word : {822569775u, 2137449171u, 2671936806u, 3512589365u}) {
    EXPECT_EQ(rng.next_u32(), word);
  }
}

TEST(NumpyRandomState, EveryElementTypeDrawsTheSame) {
  for (const std::size_t n : {0u, 1u, 2u, 127u, 128u, 129u, 130u, 256u, 257u, 1000u}) {
    NumpyRandomState a(7), b(7), c(7);
    const auto i32 = shuffled<std::int32_t>(a, n);
    const auto u32 = shuffled<std::uint32_t>(b, n);
    const auto i64 = shuffled<std::int64_t>(c, n);
    EXPECT_TRUE(std::equal(i32.begin(), i32.end(), u32.begin(), u32.end()));
    EXPECT_TRUE(std::equal(i32.begin(), i32.end(), i64.begin(), i64.end()));
    EXPECT_EQ(a.next_u32(), c.next_u32());  // and leaves the generator at the same place
  }
}

// The blocks drawn ahead must not change the order of a plain Fisher-Yates.
TEST(NumpyRandomState, BlocksEqualThePlainShuffle) {
  NumpyRandomState fast(99), plain(99);
  const auto got = shuffled<std::int32_t>(fast, 100003);
  std::vector<std::int32_t> want(got.size());
  std::iota(want.begin(), want.end(), 0);
  for (std::size_t i = want.size() - 1; i > 0; --i) std::swap(want[i], want[plain.bounded(i)]);
  EXPECT_EQ(got, want);
}

TEST(NumpyRandomState, BoundsBeyond32BitsTakeTwoWords) {
  NumpyRandomState rng(1234), raw(1234);
  const std::uint64_t max = (std::uint64_t{1} << 40) - 1;  // the mask itself: nothing is rejected
  for (int i = 0; i < 100; ++i) {
    const std::uint64_t high = raw.next_u32();
    const std::uint64_t word = (high << 32) | raw.next_u32();
    EXPECT_EQ(rng.bounded(max), word & max);
  }
  for (int i = 0; i < 1000; ++i) EXPECT_LE(rng.bounded(0x100000000u), 0x100000000u);
  EXPECT_EQ(rng.bounded(0), 0u);
}

// SHA-256 of NumPy's shuffle(arange(1000003, dtype=int32)), seed 1234.
TEST(NumpyRandomState, ShufflesAMillionAsNumpy) {
  NumpyRandomState rng(1234);
  const auto values = shuffled<std::int32_t>(rng, 1000003);
  const std::string bytes(reinterpret_cast<const char*>(values.data()), 4 * values.size());
  EXPECT_EQ(data_testing::sha256(bytes),
            "5c26208c6a69b4d52adcc104dc895bab32527ca62011334d094e85857c99b02a");
}

TEST(NumpyRandomState, ReproducesTheSharedVectors) {
  NEOX_NEED_SHARED_DATA(folder, "dataset");
  const auto vectors =
      nlohmann::json::parse(data_testing::read_file(folder + "/numpy_shuffle.json"));
  NumpyRandomState raw(1234);
  for (const std::uint32_t word : vectors["raw_uint32_seed1234_first10"]) {
    EXPECT_EQ(raw.next_u32(), word);
  }
  ASSERT_GE(vectors["cases"].size(), 5u);
  for (const auto& one : vectors["cases"]) {
    NumpyRandomState rng(one["seed"].get<std::uint32_t>());
    const auto n = one["n"].get<std::size_t>();
    EXPECT_EQ(shuffled<std::int32_t>(rng, n),
              one["first_shuffle"].get<std::vector<std::int32_t>>());
    EXPECT_EQ(shuffled<std::uint32_t>(rng, n),
              one["second_shuffle"].get<std::vector<std::uint32_t>>());
  }
}

}  // namespace
}  // namespace neox
