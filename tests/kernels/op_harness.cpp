#include "tests/kernels/op_harness.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <optional>

#include "core/base/rng.h"
#include "core/tensor/buffer.h"
#include "kernels/dry_run/dry_run_backend.h"

namespace neox::testing {
namespace {

constexpr std::size_t kGuardBytes = 256;
constexpr std::byte kGuard{0xa5};
constexpr std::byte kUnwritten{0xff};  // NaN in every float dtype

/// Calls f with a value of the C++ type of any dtype that operators use.
template <class F>
void visit_any(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f64:
      return f(double{});
    case DType::i32:
      return f(std::int32_t{});
    case DType::u64:
      return f(std::uint64_t{});
    case DType::u8:
      return f(std::uint8_t{});
    default:
      visit_float(dtype, std::forward<F>(f));
  }
}

template <class T>
T to_type(double value) {
  if constexpr (std::is_arithmetic_v<T>) {
    return static_cast<T>(value);
  } else {
    return static_cast<T>(static_cast<float>(value));
  }
}
template <class T>
double to_double(T value) {
  if constexpr (std::is_arithmetic_v<T>) {
    return static_cast<double>(value);
  } else {
    return static_cast<double>(static_cast<float>(value));
  }
}

OwnedTensor on_host(const Array& values, Shape shape, DType dtype) {
  OwnedTensor host(shape, dtype);
  visit_any(dtype, [&](auto zero) {
    using T = decltype(zero);
    T* to = host.tensor.ptr<T>();
    for (std::size_t i = 0; i < values.size(); ++i) to[i] = to_type<T>(values[i]);
  });
  return host;
}

/// One tensor on the device between guard bytes.
class GuardedTensor {
 public:
  /// `poisoned`: with guards and unwritten contents, for check_guards().
  GuardedTensor(Shape shape, DType dtype, Device device, Stream& stream, bool poisoned)
      : data_bytes_(static_cast<std::size_t>(shape.numel()) * size_of(dtype)),
        buffer_(data_bytes_ + 2 * kGuardBytes, device),
        tensor_(buffer_.view(shape, dtype, kGuardBytes)) {
    if (!poisoned) return;
    std::vector<std::byte> bytes(buffer_.bytes(), kGuard);
    std::fill_n(bytes.begin() + kGuardBytes, data_bytes_, kUnwritten);
    copy(stream, host_bytes(bytes), whole());
    stream.synchronize();
  }
  Tensor tensor() const { return tensor_; }
  bool guards_intact(Stream& stream) const {
    std::vector<std::byte> bytes(buffer_.bytes());
    copy(stream, whole(), host_bytes(bytes));
    stream.synchronize();
    const auto is_guard = [](std::byte b) { return b == kGuard; };
    return std::all_of(bytes.begin(), bytes.begin() + kGuardBytes, is_guard) &&
           std::all_of(bytes.end() - kGuardBytes, bytes.end(), is_guard);
  }

 private:
  static Tensor host_bytes(std::vector<std::byte>& bytes) {
    return {bytes.data(), {static_cast<std::int64_t>(bytes.size())}, DType::u8, Device{}};
  }
  Tensor whole() const {
    return buffer_.view({static_cast<std::int64_t>(buffer_.bytes())}, DType::u8);
  }
  std::size_t data_bytes_;
  Buffer buffer_;
  Tensor tensor_;
};

/// A short table of random values, repeated: quick to make for large tensors.
Array repeated_values(std::int64_t n) {
  static const Array table = normal_values(8191, 99);
  Array values(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = table[i % table.size()];
  return values;
}

std::uint64_t seed_of(std::string_view name) {
  return RngKey::for_tensor(1, name).value;
}

/// Speed: what has no values is filled on the device, because making large arrays here takes long.
enum class RunFor { values, speed };

class Run final : public OpTensors {
 public:
  Run(const Backend& backend, const OpCase& test, RunFor purpose = RunFor::values)
      : test_(test), purpose_(purpose), device_(backend.device()), stream_(make_stream(device_)) {
    for (const Input& input : test.inputs) {
      if (purpose == RunFor::speed && input.values.empty()) {
        add(input.name, input.shape, input.dtype, "");
        fill(tensors_.at(input.name));
        continue;
      }
      values_[input.name] =
          input.values.empty() ? repeated_values(input.shape.numel()) : input.values;
      for (double& v : values_[input.name]) v = rounded(v, input.dtype);
      add(input.name, input.shape, input.dtype, "");
      write(input.name);
    }
    for (const Output& output : test.outputs) {
      add(output.name, output.shape, output.dtype, output.shares);
    }
  }

  /// Adds the cotangents and the memory of the gradients.
  void prepare_backward() {
    for (const Output& output : test_.outputs) {
      if (!output.in_loss) continue;
      const std::string name = "d_" + output.name;
      const std::int64_t n = output.shape.numel();
      if (purpose_ == RunFor::speed && output.cotangent.empty()) {
        add(name, output.shape, output.dtype, "");
        fill(tensors_.at(name));
        continue;
      }
      values_[name] = !output.cotangent.empty() ? values_.at(output.cotangent)
                      : n > (1 << 16)           ? repeated_values(n)
                                                : normal_values(n, seed_of(name));
      for (double& v : values_[name]) v = rounded(v, output.dtype);
      add(name, output.shape, output.dtype, "");
      write(name);
    }
    for (const Gradient& gradient : test_.gradients) {
      const auto input = std::find_if(test_.inputs.begin(), test_.inputs.end(),
                                      [&](const Input& i) { return i.name == gradient.input; });
      require(input != test_.inputs.end(), "the case {} has no input {}", test_.id(),
              gradient.input);
      add("d_" + gradient.input, input->shape, gradient.dtype, gradient.shares);
    }
  }

  Tensor operator[](std::string_view name) const override {
    const auto at = tensors_.find(name);
    require(at != tensors_.end(), "the case {} has no tensor {}", test_.id(), name);
    return at->second;
  }
  Tensor workspace(std::size_t bytes) const override {
    if (workspace_.bytes() < bytes) workspace_ = Buffer(bytes, device_);
    return workspace_.view({static_cast<std::int64_t>(bytes)}, DType::u8);
  }
  Array read(std::string_view name) const {
    const Tensor tensor = (*this)[name];
    OwnedTensor host(tensor.shape, tensor.dtype);
    copy(*stream_, tensor, host);
    stream_->synchronize();
    Array values(static_cast<std::size_t>(tensor.numel()));
    visit_any(tensor.dtype, [&](auto zero) {
      const auto* from = host.tensor.ptr<decltype(zero)>();
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = to_double(from[i]);
    });
    return values;
  }
  /// "" or one line for every tensor written out of its bounds.
  std::string check_guards() const {
    std::string wrong;
    for (const auto& [name, memory] : memory_) {
      if (!memory.guards_intact(*stream_)) wrong += "  wrote outside of " + name + "\n";
    }
    return wrong;
  }
  const Arrays& values() const { return values_; }
  Stream& stream() const { return *stream_; }

 private:
  void add(const std::string& name, Shape shape, DType dtype, const std::string& shares) {
    if (!shares.empty()) {
      const Tensor owner = (*this)[shares];
      require(owner.shape.numel() == shape.numel() && owner.dtype == dtype,
              "the case {} shares {} and {}, which differ", test_.id(), name, shares);
      tensors_[name] = Tensor(owner.data, shape, dtype, device_);
      return;
    }
    const auto [at, added] =
        memory_.try_emplace(name, shape, dtype, device_, *stream_, purpose_ == RunFor::values);
    require(added, "the case {} declares {} twice", test_.id(), name);
    tensors_[name] = at->second.tensor();
  }
  void write(const std::string& name) {
    const Tensor to = tensors_.at(name);
    copy(*stream_, on_host(values_.at(name), to.shape, to.dtype), to);
    stream_->synchronize();
  }

  /// A short table of random values, repeated.
  void fill(Tensor tensor) {
    const std::int64_t n = tensor.numel();
    const Tensor flat(tensor.data, {n}, tensor.dtype, device_);
    std::int64_t done = std::min<std::int64_t>(n, 8191);
    Array table = repeated_values(done);
    for (double& v : table) v = rounded(v, tensor.dtype);
    copy(*stream_, on_host(table, {done}, tensor.dtype), flat.slice(0, done));
    stream_->synchronize();
    while (done < n) {
      const std::int64_t more = std::min(done, n - done);
      copy(*stream_, flat.slice(0, more), flat.slice(done, done + more));
      done += more;
    }
    stream_->synchronize();
  }

  const OpCase& test_;
  RunFor purpose_;
  Device device_;
  std::unique_ptr<Stream> stream_;
  Arrays values_;
  std::map<std::string, GuardedTensor, std::less<>> memory_;
  std::map<std::string, Tensor, std::less<>> tensors_;
  mutable Buffer workspace_;
};

Arrays run_reference(const OpCase& test, const Arrays& inputs) {
  Arrays outputs;
  for (const Output& output : test.outputs) {
    outputs[output.name].assign(static_cast<std::size_t>(output.shape.numel()), 0.0);
  }
  test.reference(inputs, outputs);
  return outputs;
}

std::string compare(const std::string& name, const Array& got, const Array& want,
                    double tolerance) {
  const double error = error_of(got, want);
  if (error <= tolerance) return "";
  std::size_t at = 0;
  double worst = -1;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double difference = std::abs(got[i] - want[i]);
    if (std::isnan(difference) || difference > worst) {
      worst = difference;
      at = i;
      if (std::isnan(difference)) break;
    }
  }
  return fmt::format(
      "  {}: error {:.3g}, allowed {:.3g}; element {} of {} is {:.9g}, expected {:.9g}\n", name,
      error, tolerance, at, want.size(), got[at], want[at]);
}

double loss_of(const OpCase& test, const Arrays& inputs, const Arrays& all) {
  const Arrays outputs = run_reference(test, inputs);
  double loss = 0;
  for (const Output& output : test.outputs) {
    if (!output.in_loss) continue;
    const Array &y = outputs.at(output.name), &d = all.at("d_" + output.name);
    for (std::size_t i = 0; i < y.size(); ++i) loss += y[i] * d[i];
  }
  return loss;
}

/// Which elements of a gradient are checked: all of a small one, a spread over a large one.
std::vector<std::size_t> checked_elements(std::size_t n) {
  std::vector<std::size_t> elements(n <= 512 ? n : 97);
  for (std::size_t i = 0; i < elements.size(); ++i) elements[i] = i * n / elements.size();
  return elements;
}

/// Central differences of the reference's loss by some elements of one input.
Array finite_differences(const OpCase& test, const Arrays& all, const std::string& input,
                         const std::vector<std::size_t>& elements) {
  Arrays inputs = all;
  Array& x = inputs.at(input);
  Array gradient;
  for (const std::size_t i : elements) {
    const double here = x[i], step = 1e-4;
    x[i] = here + step;
    const double above = loss_of(test, inputs, all);
    x[i] = here - step;
    const double below = loss_of(test, inputs, all);
    x[i] = here;
    gradient.push_back((above - below) / (2 * step));
  }
  return gradient;
}

Array select(const Array& values, const std::vector<std::size_t>& elements) {
  Array selected;
  for (const std::size_t i : elements) selected.push_back(values[i]);
  return selected;
}

}  // namespace

std::string OpCase::id() const {
  std::string text = fmt::format("{}_{}_{}", name, name_of(dtype), variant);
  for (char& c : text) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return text;
}

double error_of(const Array& got, const Array& want) {
  double square = 0;
  for (const double w : want) square += std::isfinite(w) ? w * w : 0.0;
  const double rms = want.empty() ? 0.0 : std::sqrt(square / static_cast<double>(want.size()));
  double worst = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (std::isnan(want[i]) && std::isnan(got[i])) continue;
    if (want[i] == got[i]) continue;
    const double error = std::abs(got[i] - want[i]) / (std::abs(want[i]) + rms);
    if (!std::isfinite(error)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, error);
  }
  return worst;
}

std::string check_value(const Backend& backend, const OpCase& test) {
  Run run(backend, test);
  const Arrays want = run_reference(test, run.values());
  test.forward(backend, run.stream(), run);
  run.stream().synchronize();
  std::string wrong;
  for (const Output& output : test.outputs) {
    wrong += compare(output.name, run.read(output.name), want.at(output.name), output.tolerance);
  }
  return wrong + run.check_guards();
}

std::string check_gradient(const Backend& backend, const OpCase& test) {
  Run run(backend, test);
  run.prepare_backward();
  test.forward(backend, run.stream(), run);
  test.backward(backend, run.stream(), run);
  run.stream().synchronize();
  std::string wrong;
  for (const Gradient& gradient : test.gradients) {
    const std::string name = "d_" + gradient.input;
    const auto elements = checked_elements(run.values().at(gradient.input).size());
    Array want = finite_differences(test, run.values(), gradient.input, elements);
    if (!gradient.added.empty()) {
      const Array& added = run.values().at(gradient.added);
      for (std::size_t i = 0; i < want.size(); ++i) want[i] += added[elements[i]];
    }
    wrong += compare(name, select(run.read(name), elements), want, gradient.tolerance);
  }
  return wrong + run.check_guards();
}

bool is_supported(const Backend& backend, const OpCase& test, std::string* why) {
  Run run(backend, test);
  try {
    test.forward(backend, run.stream(), run);
    if (test.backward) {
      run.prepare_backward();
      test.backward(backend, run.stream(), run);
    }
    run.stream().synchronize();
    return true;
  } catch (const Error& error) {
    if (why != nullptr) *why = error.what();
    return false;
  }
}

Speed measure(const Backend& backend, const OpCase& test, bool backward) {
  Run run(backend, test, RunFor::speed);
  if (backward) run.prepare_backward();
  const Operator& direction = backward ? test.backward : test.forward;
  using Clock = std::chrono::steady_clock;
  const auto time = [&](int calls) {
    const auto begin = Clock::now();
    for (int i = 0; i < calls; ++i) direction(backend, run.stream(), run);
    run.stream().synchronize();
    return std::chrono::duration<double>(Clock::now() - begin).count() / calls;
  };
  test.forward(backend, run.stream(), run);
  const DryRunBackend dry(backend.device(), backend);
  direction(dry, run.stream(), run);
  const OperatorCounts counts = dry.total();
  Speed speed{0, static_cast<double>(counts.bytes_read + counts.bytes_written), counts.flops};
  if (backend.device().kind == DeviceKind::simulated) {
    speed.seconds = time(1);
    return speed;
  }
  int calls = 1;
  if (backend.device().kind == DeviceKind::cuda) {  // in a row: launches run ahead of the device
    time(2);
    calls = static_cast<int>(std::clamp(0.01 / time(1), 1.0, 200.0));
  }
  std::vector<double> seconds;
  double spent = 0;
  for (int i = 0; i < 200 && (i < 5 || spent < 0.4); ++i) {
    seconds.push_back(time(calls));
    spent += seconds.back() * calls;
    if (calls > 1 && i >= 10) break;
  }
  std::sort(seconds.begin(), seconds.end());
  speed.seconds = backend.device().is_cpu() ? seconds.front() : seconds[seconds.size() / 2];
  return speed;
}

Array normal_values(std::int64_t n, std::uint64_t seed, double scale) {
  Array values(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = scale * static_cast<double>(normal_at(RngKey{seed}, i));
  }
  return values;
}

Array whole_values(std::int64_t n, std::uint64_t seed, std::int64_t limit) {
  Array values(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] =
        static_cast<double>(philox_word(RngKey{seed}, i) % static_cast<std::uint64_t>(limit));
  }
  return values;
}

double rounded(double value, DType dtype) {
  double result = value;
  visit_any(dtype, [&](auto zero) { result = to_double(to_type<decltype(zero)>(value)); });
  return result;
}

}  // namespace neox::testing
