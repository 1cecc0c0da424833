// hash: known values, and that it sees every change.

#include <algorithm>
#include <numeric>
#include <set>
#include <vector>

#include "tests/kernels/cpu_ops_fixture.h"

namespace neox {
namespace {

struct Hash : CpuOps {
  std::uint64_t of(ConstTensor x) const {
    OwnedTensor out({1}, DType::u64);
    ops->hash(*stream, x, out, false);
    return *out.tensor.ptr<std::uint64_t>();
  }
  std::uint64_t of(std::vector<std::uint8_t>& bytes) const { return of(view(bytes)); }
  std::uint64_t of_list(const std::vector<ConstTensor>& tensors) const {
    OwnedTensor out({1}, DType::u64);
    bool first = true;
    for (const ConstTensor& t : tensors) {
      ops->hash(*stream, t, out, !first);
      first = false;
    }
    return *out.tensor.ptr<std::uint64_t>();
  }
  static Tensor view(std::vector<std::uint8_t>& bytes, std::size_t skip = 0) {
    return {reinterpret_cast<std::byte*>(bytes.data() + skip),
            {static_cast<std::int64_t>(bytes.size() - skip)},
            DType::u8,
            Device{}};
  }
};

std::vector<std::uint8_t> counting(std::size_t n) {
  std::vector<std::uint8_t> bytes(n);
  std::iota(bytes.begin(), bytes.end(), std::uint8_t{1});
  return bytes;
}

// Computed from the header's formula in another language.
TEST_F(Hash, KnownValues) {
  std::vector<std::uint8_t> none, one = {1}, word = counting(8), more = counting(27);
  EXPECT_EQ(of(none), 0x0000000000000000u);
  EXPECT_EQ(of(one), 0x5e41ab087439611eu);
  EXPECT_EQ(of(word), 0x95230b5167af9d7fu);
  EXPECT_EQ(of(more), 0xeee593fa05e66498u);
}

TEST_F(Hash, SeesEveryBitAndTheLength) {
  std::vector<std::uint8_t> bytes = counting(83);
  std::set<std::uint64_t> seen = {of(bytes)};
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    const auto mask = static_cast<std::uint8_t>(1u << bit % 8);
    bytes[bit / 8] ^= mask;
    EXPECT_TRUE(seen.insert(of(bytes)).second) << "bit " << bit;
    bytes[bit / 8] ^= mask;
  }
  for (int i = 0; i < 20; ++i) {
    bytes.push_back(0);
    EXPECT_TRUE(seen.insert(of(bytes)).second) << i << " zeros appended";
  }
}

TEST_F(Hash, SeesTheOrderOfWords) {
  std::vector<std::uint8_t> bytes = counting(64), swapped = bytes;
  std::swap_ranges(swapped.begin(), swapped.begin() + 8, swapped.begin() + 40);
  EXPECT_NE(of(bytes), of(swapped));
}

TEST_F(Hash, DoesNotDependOnThreadsAlignmentOrShape) {
  std::vector<std::uint8_t> bytes(400003), shifted(400004);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * i >> 3);
  std::copy(bytes.begin(), bytes.end(), shifted.begin() + 1);
  omp_set_num_threads(1);
  const std::uint64_t want = of(bytes);
  for (const int n : {2, 3, 7}) {
    omp_set_num_threads(n);
    EXPECT_EQ(of(bytes), want);
  }
  EXPECT_EQ(of(view(shifted, 1)), want);
  const OwnedTensor x = filled({30, 50}, DType::bf16, 1);
  EXPECT_EQ(of(x), of(x.tensor.reshape({1500})));
}

TEST_F(Hash, OfAListDependsOnItsOrderAndCuts) {
  const OwnedTensor a = filled({30}, DType::f32, 1), b = filled({30}, DType::f32, 2);
  const OwnedTensor a2 = filled({30}, DType::f32, 1);
  EXPECT_EQ(of_list({a, b}), of_list({a2, b}));
  EXPECT_NE(of_list({a, b}), of_list({b, a}));
  EXPECT_NE(of_list({a}), of_list({a, b}));
  EXPECT_NE(of_list({a, a}), of_list({b, b}));
  const Tensor front = a.tensor.slice(0, 10), back = a.tensor.slice(10, 30);
  EXPECT_NE(of_list({front, back}), of_list({a}));
}

TEST_F(Hash, ReadsHostMemoryOnly) {
  OwnedTensor out({1}, DType::u64);
  const Tensor far(nullptr, {4}, DType::f32, Device{DeviceKind::cuda, 0});
  EXPECT_THROW(ops->hash(*stream, far, out, false), Error);
}

}  // namespace
}  // namespace neox
