#pragma once
// What the HDF5 sources share. Includes hdf5.h, so only source files of io/checkpoint include it.

#include <string>
#include <string_view>
#include <utility>

#include <hdf5.h>

#include "core/base/dtype.h"

namespace neox {

/// Owns one HDF5 identifier of any kind.
class Hid {
 public:
  Hid() = default;
  explicit Hid(hid_t id) : id_(id) {}
  ~Hid() {
    if (id_ >= 0) H5Idec_ref(id_);
  }
  Hid(Hid&& other) noexcept : id_(std::exchange(other.id_, -1)) {}
  Hid& operator=(Hid&& other) noexcept {
    std::swap(id_, other.id_);
    return *this;
  }
  Hid(const Hid&) = delete;
  Hid& operator=(const Hid&) = delete;
  hid_t get() const { return id_; }
  hid_t release() { return std::exchange(id_, -1); }

 private:
  hid_t id_ = -1;
};

/// Throws Error "<call> of <what>: <the library's reason>" when `result` is negative.
void check_hdf5(long long result, const char* call, std::string_view what);
Hid own_hdf5(hid_t id, const char* call, std::string_view what);
/// Closes a file and reports what only shows then (a full disk).
void close_hdf5_file(Hid& file, std::string_view path);

/// The library prints nothing by itself; failures become Errors.
void silence_hdf5();

/// A fresh file type for `dtype`; bf16 and f16 are floats described bit by bit.
Hid hdf5_type(DType dtype);
/// Inverse; throws Error naming `what` for types that no tensor has.
DType dtype_of_hdf5(hid_t type, std::string_view what);

}  // namespace neox
