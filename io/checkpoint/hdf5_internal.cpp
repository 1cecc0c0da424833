#include "io/checkpoint/hdf5_internal.h"

#include "core/base/error.h"
#include "io/checkpoint/hdf5_file.h"

namespace neox {
namespace {

// The walk goes from the innermost error outwards; the innermost says what really happened.
herr_t take_innermost(unsigned, const H5E_error2_t* error, void* text) {
  auto& to = *static_cast<std::string*>(text);
  if (to.empty() && error->desc != nullptr) to = error->desc;
  return 0;
}

Hid small_float(std::size_t exponent_bits, std::size_t mantissa_bits, std::size_t bias) {
  Hid type = own_hdf5(H5Tcopy(H5T_IEEE_F32LE), "H5Tcopy", "a 16-bit float");
  // The order matters: each setting must fit the ones before.
  check_hdf5(H5Tset_fields(type.get(), 15, mantissa_bits, exponent_bits, 0, mantissa_bits),
             "H5Tset_fields", "a 16-bit float");
  check_hdf5(H5Tset_precision(type.get(), 16), "H5Tset_precision", "a 16-bit float");
  check_hdf5(H5Tset_size(type.get(), 2), "H5Tset_size", "a 16-bit float");
  check_hdf5(H5Tset_ebias(type.get(), bias), "H5Tset_ebias", "a 16-bit float");
  return type;
}

hid_t standard_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return H5T_IEEE_F32LE;
    case DType::f64:
      return H5T_IEEE_F64LE;
    case DType::i8:
      return H5T_STD_I8LE;
    case DType::u8:
      return H5T_STD_U8LE;
    case DType::i16:
      return H5T_STD_I16LE;
    case DType::u16:
      return H5T_STD_U16LE;
    case DType::i32:
      return H5T_STD_I32LE;
    case DType::u32:
      return H5T_STD_U32LE;
    case DType::i64:
      return H5T_STD_I64LE;
    case DType::u64:
      return H5T_STD_U64LE;
    case DType::bf16:
    case DType::f16:
      break;
  }
  fail("{} is not a standard HDF5 type", name_of(dtype));
}

}  // namespace

std::string hdf5_library_version() {
  unsigned major = 0, minor = 0, release = 0;
  check_hdf5(H5get_libversion(&major, &minor, &release), "H5get_libversion", "the HDF5 library");
  return fmt::format("{}.{}.{}", major, minor, release);
}

void check_hdf5(long long result, const char* call, std::string_view what) {
  if (result >= 0) return;
  std::string reason;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_innermost, &reason);
  fail("{} of {}: {}", call, what, reason.empty() ? "unknown reason" : reason);
}

Hid own_hdf5(hid_t id, const char* call, std::string_view what) {
  check_hdf5(id, call, what);
  return Hid(id);
}

void close_hdf5_file(Hid& file, std::string_view path) {
  check_hdf5(H5Fclose(file.release()), "H5Fclose", path);
}

void silence_hdf5() {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

Hid hdf5_type(DType dtype) {
  if (dtype == DType::bf16) return small_float(8, 7, 127);
  if (dtype == DType::f16) return small_float(5, 10, 15);
  return own_hdf5(H5Tcopy(standard_type(dtype)), "H5Tcopy", name_of(dtype));
}

DType dtype_of_hdf5(hid_t type, std::string_view what) {
  for (const DType dtype :
       {DType::f32, DType::bf16, DType::f16, DType::f64, DType::i8, DType::u8, DType::i16,
        DType::u16, DType::i32, DType::u32, DType::i64, DType::u64}) {
    if (H5Tequal(type, hdf5_type(dtype).get()) > 0) return dtype;
  }
  fail("{} has an element type that neox does not use", what);
}

}  // namespace neox
