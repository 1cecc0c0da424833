#include "core/base/dtype.h"

#include <array>
#include <utility>

#include "core/base/error.h"

namespace neox {
namespace {

struct DTypeInfo {
  DType dtype;
  std::string_view name;
  std::string_view long_name;
  std::size_t size;
};
constexpr std::array kTypes = {
    DTypeInfo{DType::f32, "f32", "float32", 4}, DTypeInfo{DType::bf16, "bf16", "bfloat16", 2},
    DTypeInfo{DType::f16, "f16", "float16", 2}, DTypeInfo{DType::f64, "f64", "float64", 8},
    DTypeInfo{DType::i8, "i8", "int8", 1},      DTypeInfo{DType::u8, "u8", "uint8", 1},
    DTypeInfo{DType::i16, "i16", "int16", 2},   DTypeInfo{DType::u16, "u16", "uint16", 2},
    DTypeInfo{DType::i32, "i32", "int32", 4},   DTypeInfo{DType::u32, "u32", "uint32", 4},
    DTypeInfo{DType::i64, "i64", "int64", 8},   DTypeInfo{DType::u64, "u64", "uint64", 8},
};

const DTypeInfo& info(DType dtype) {
  return kTypes.at(static_cast<std::size_t>(dtype));
}

}  // namespace

std::size_t size_of(DType dtype) {
  return info(dtype).size;
}

std::string_view name_of(DType dtype) {
  return info(dtype).name;
}

DType dtype_from_name(std::string_view name) {
  for (const auto& type : kTypes) {
    if (name == type.name || name == type.long_name) return type.dtype;
  }
  fail("unknown element type '{}'", name);
}

void fail_not_compute_type(DType dtype) {
  fail("this operator computes in f32, bf16 or f16, not in {}", name_of(dtype));
}

f16::f16(float value) {
  const auto u = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (u >> 16) & 0x8000u;
  const std::uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude >= 0x7f800000u) {  // infinity or NaN
    bits = static_cast<std::uint16_t>(sign | 0x7c00u | (magnitude > 0x7f800000u ? 0x200u : 0u));
  } else if (magnitude >= 0x477ff000u) {  // rounds past 65504
    bits = static_cast<std::uint16_t>(sign | 0x7c00u);
  } else if (magnitude < 0x38800000u) {  // denormal half: let float addition do the rounding
    const float scaled = std::bit_cast<float>(magnitude) + 0.5f;
    bits = static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(scaled) - 0x3f000000u));
  } else {
    const std::uint32_t rebased = magnitude - 0x38000000u;
    bits = static_cast<std::uint16_t>(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13));
  }
}

f16::operator float() const {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  const std::uint32_t magnitude = bits & 0x7fffu;
  if (magnitude >= 0x7c00u) {
    return std::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  }
  if (magnitude >= 0x0400u) return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000u));
  const float denormal = static_cast<float>(magnitude) * 0x1p-24f;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(denormal));
}

}  // namespace neox
