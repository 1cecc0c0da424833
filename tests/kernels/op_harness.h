#pragma once
// One harness for every operator of every backend. A case declares tensors, tolerances and a
// float64 reference of a few plain lines; from it come four modes:
//   value      forward on the backend against the reference
//   gradient   backward on the backend against central differences of the reference
//   speed      time of forward and backward (benchmarks/operators.cpp)
//   supported  whether the backend runs the case at all
// Tensors live on the backend's device and are copied in and out; outputs start as NaN between
// guard bytes, so that a missing or stray write shows.

#include <functional>
#include <map>
#include <ostream>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace neox::testing {

using Array = std::vector<double>;
using Arrays = std::map<std::string, Array, std::less<>>;

/// All tensors of a case have one namespace: inputs by their names, outputs by theirs, "d_y" for
/// the gradient of the loss by output y (an input of backward), "d_x" for that by input x (its
/// result).
struct Input {
  std::string name;
  Shape shape;
  DType dtype = DType::f32;
  Array values = {};  ///< empty: random normal values, for cases that only measure speed
};
struct Output {
  std::string name;
  Shape shape;
  DType dtype = DType::f32;
  double tolerance = 0;        ///< see error_of
  std::string shares = {};     ///< input that lives in the same memory
  bool in_loss = true;         ///< the loss is sum over such outputs of sum(d_y y)
  std::string cotangent = {};  ///< input that is d_y; empty: random values
};
struct Gradient {
  std::string input;
  DType dtype = DType::f32;
  double tolerance = 0;
  std::string shares = {};  ///< tensor ("d_y", or an input) that lives in the same memory
  std::string added = {};   ///< input that the operator adds to the gradient
};

/// The tensors of one run, by name.
class OpTensors {
 public:
  virtual ~OpTensors() = default;
  virtual Tensor operator[](std::string_view name) const = 0;
  /// At least `bytes` of workspace (u8), the same memory at every call.
  virtual Tensor workspace(std::size_t bytes) const = 0;
};
using Operator = std::function<void(const Backend&, Stream&, const OpTensors&)>;

struct OpCase {
  std::string name;     ///< operator
  std::string variant;  ///< what this case is about
  DType dtype = DType::f32;
  std::vector<Input> inputs = {};
  std::vector<Output> outputs = {};
  std::vector<Gradient> gradients = {};
  Operator forward = {};
  Operator backward = {};  ///< runs after forward; none where the operator has none
  /// Fills the outputs from the inputs.
  std::function<void(const Arrays& in, Arrays& out)> reference = {};

  /// "layer_norm_f32_5x33", for test names.
  std::string id() const;
};

/// How test output names a case.
inline void PrintTo(const OpCase& test, std::ostream* out) {
  *out << test.id();
}

/// Largest |got - want| / (|want| + rms(want)) over all elements; infinite where one is NaN and the
/// other is not.
double error_of(const Array& got, const Array& want);

/// Runs forward and compares all outputs; returns what is wrong, one line each, or nothing.
std::string check_value(const Backend& backend, const OpCase& test);
/// Runs forward and backward and compares the gradients (of inputs larger than 512 elements, a
/// spread of 97 elements); returns what is wrong, or nothing.
std::string check_gradient(const Backend& backend, const OpCase& test);
/// False when the backend refuses the case with an Error; `why` then holds its message.
bool is_supported(const Backend& backend, const OpCase& test, std::string* why = nullptr);

struct Speed {
  double seconds = 0;  ///< best of some calls (CPU); median of some rows of calls (GPU)
  double bytes = 0;    ///< read and written
  double flops = 0;    ///< of matrix products
};
/// Measures one direction of a case. Throws Error when the backend does not support it.
Speed measure(const Backend& backend, const OpCase& test, bool backward);

/// n normal values; equal arguments give equal values.
Array normal_values(std::int64_t n, std::uint64_t seed, double scale = 1.0);
/// n whole numbers in [0, limit).
Array whole_values(std::int64_t n, std::uint64_t seed, std::int64_t limit);
/// The value as the dtype stores it.
double rounded(double value, DType dtype);

}  // namespace neox::testing
