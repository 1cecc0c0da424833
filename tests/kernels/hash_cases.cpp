#include "tests/kernels/op_cases.h"

namespace neox::testing {
namespace {

std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// The header's formula, byte by byte.
std::uint64_t hash_of(const std::vector<std::uint8_t>& bytes) {
  constexpr std::uint64_t kOdd = 0x9e3779b97f4a7c15u;
  std::uint64_t sum = bytes.size() * kOdd;
  for (std::size_t begin = 0; begin < bytes.size(); begin += 8) {
    std::uint64_t word = 0;
    for (std::size_t i = begin; i < std::min(bytes.size(), begin + 8); ++i) {
      word |= std::uint64_t{bytes[i]} << (8 * (i - begin));
    }
    sum += mix(word + (begin / 8 + 1) * kOdd);
  }
  return mix(sum);
}

/// Little-endian bytes of the values as the dtype stores them.
std::vector<std::uint8_t> bytes_of(const Array& values, DType t) {
  std::vector<std::uint8_t> bytes;
  const auto append = [&](std::uint32_t bits, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) bytes.push_back(static_cast<std::uint8_t>(bits >> 8 * i));
  };
  for (const double value : values) {
    const auto x = static_cast<float>(value);
    if (t == DType::f32) append(std::bit_cast<std::uint32_t>(x), 4);
    if (t == DType::bf16) append(bf16(x).bits, 2);
    if (t == DType::f16) append(f16(x).bits, 2);
  }
  return bytes;
}

/// The harness compares doubles, so 53 of the 64 bits; hash_test.cpp compares all of them.
OpCase hash_case(std::int64_t n, DType t, bool accumulate) {
  OpCase test{"hash", fmt::format("{}{}", n, accumulate ? " accumulate" : ""), t};
  test.inputs = {{"x", {n}, t, some_values({n}, 1)}, {"hash0", {1}, DType::u64, {123456789.0}}};
  test.outputs = {{"hash", {1}, DType::u64, 0.0, "hash0"}};
  test.forward = [accumulate](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.hash(s, v["x"], v["hash"], accumulate);
  };
  test.reference = [accumulate, t](const Arrays& in, Arrays& out) {
    const std::uint64_t hash = hash_of(bytes_of(in.at("x"), t));
    const std::uint64_t before = 123456789;
    out["hash"][0] =
        static_cast<double>(accumulate ? mix(before * 0x9e3779b97f4a7c15u + hash) : hash);
  };
  return test;
}

}  // namespace

std::vector<OpCase> hash_step_cases(DType t, const StepShape& shape) {
  return {hash_case(shape.parameters, t, false)};
}

std::vector<OpCase> hash_cases(DType t, CaseSize size) {
  if (size == CaseSize::gpt2) return hash_step_cases(t, {});
  return {hash_case(1, t, false), hash_case(1037, t, true), hash_case(16, t, true),
          hash_case(0, t, false), hash_case(0, t, true),    hash_case(60001, t, false)};
}

}  // namespace neox::testing
