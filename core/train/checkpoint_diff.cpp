// neox_convert diff.

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include <fmt/format.h>

#include "core/config/option.h"
#include "core/train/checkpoint_tools.h"
#include "core/train/run_state.h"
#include "io/checkpoint/stored_values.h"

namespace neox {
namespace {

struct TensorDifference {
  double max_abs = 0;    // infinite when one is NaN or infinite and the other is not
  double magnitude = 0;  // largest finite |value| in either
  std::int64_t elements = 0;
  double relative() const {
    if (max_abs == 0) return 0;
    return magnitude > 0 ? max_abs / magnitude : std::numeric_limits<double>::infinity();
  }
};

void compare(double a, double b, TensorDifference& d) {
  if (std::isfinite(a)) d.magnitude = std::max(d.magnitude, std::abs(a));
  if (std::isfinite(b)) d.magnitude = std::max(d.magnitude, std::abs(b));
  if (a == b || (std::isnan(a) && std::isnan(b))) return;
  ++d.elements;
  const double difference = std::abs(a - b);
  d.max_abs = std::isnan(difference) ? std::numeric_limits<double>::infinity()
                                     : std::max(d.max_abs, difference);
}

TensorDifference compare_values(const CheckpointReader& a, const StoredTensor& in_a,
                                const CheckpointReader& b, const StoredTensor& in_b) {
  StoredValues left(a.path(), in_a), right(b.path(), in_b);
  TensorDifference result;
  while (true) {
    const auto x = left.next(), y = right.next();
    if (x.empty()) return result;
    for (std::size_t i = 0; i < x.size(); ++i) compare(x[i], y[i], result);
  }
}

class Differ {
 public:
  Differ(const CheckpointReader& a, const CheckpointReader& b, double tolerance)
      : a_(a), b_(b), tolerance_(tolerance) {}

  DiffResult run() {
    result_.text = fmt::format("A: {}\nB: {}\n", a_.path(), b_.path());
    facts();
    configuration();
    tensors();
    if (result_.equal) result_.text += "no differences\n";
    return std::move(result_);
  }

 private:
  void differs(const std::string& line) {
    result_.equal = false;
    result_.text += line + "\n";
  }

  void number(const char* what, std::int64_t a, std::int64_t b) {
    if (a != b) differs(fmt::format("{}: {} / {}", what, a, b));
  }

  static std::string text_of(const Attributes& attributes, const std::string& name) {
    const auto found = attributes.find(name);
    if (found == attributes.end()) return "(none)";
    return std::visit([](const auto& v) { return fmt::format("{}", v); }, found->second);
  }

  void facts() {
    const CheckpointInfo &a = a_.info(), &b = b_.info();
    number("step", a.step, b.step);
    number("consumed samples", a.consumed_samples, b.consumed_samples);
    number("consumed tokens", a.consumed_tokens, b.consumed_tokens);
    std::set<std::pair<std::string, std::string>> names;
    for (const CheckpointInfo* info : {&a, &b}) {
      for (const auto& [group, attributes] : info->groups) {
        for (const auto& [name, value] : attributes) names.insert({group, name});
      }
    }
    const auto text = [](const CheckpointInfo& info, const std::string& group,
                         const std::string& name) {
      const auto found = info.groups.find(group);
      return found == info.groups.end() ? std::string("(none)") : text_of(found->second, name);
    };
    for (const auto& [group, name] : names) {
      if (group == "/data" && name.starts_with("consumed_")) continue;  // said above
      const std::string in_a = text(a, group, name), in_b = text(b, group, name);
      if (in_a != in_b) differs(fmt::format("{} {}: {} / {}", group, name, in_a, in_b));
    }
    if (a.links != b.links) differs("tied tensors: not the same");
  }

  void configuration() {
    const Config a = stored_config(a_), b = stored_config(b_);
    for (const Option& option : options()) {
      const std::string in_a = value_text(option, a), in_b = value_text(option, b);
      if (in_a != in_b) differs(fmt::format("{}: {} / {}", option.key(), in_a, in_b));
    }
  }

  void tensors() {
    std::int64_t equal = 0, within = 0;
    for (const StoredTensor& in_a : a_.tensors()) {
      const StoredTensor* in_b = b_.find(in_a.path);
      if (in_b == nullptr) {
        differs(fmt::format("{} {}: only in A", in_a.path, in_a.shape.str()));
      } else if (in_a.shape != in_b->shape) {
        differs(fmt::format("{}: shape {} / {}", in_a.path, in_a.shape.str(), in_b->shape.str()));
      } else {
        const TensorDifference d = compare_values(a_, in_a, b_, *in_b);
        if (d.elements == 0) {
          ++equal;
        } else if (d.relative() <= tolerance_) {
          ++within;
        } else {
          values(in_a, *in_b, d);
        }
      }
    }
    for (const StoredTensor& in_b : b_.tensors()) {
      if (a_.find(in_b.path) == nullptr) {
        differs(fmt::format("{} {}: only in B", in_b.path, in_b.shape.str()));
      }
    }
    result_.text += fmt::format("tensors: {} equal", equal);
    if (within > 0) result_.text += fmt::format(", {} within {:g}", within, tolerance_);
    result_.text += "\n";
  }

  void values(const StoredTensor& a, const StoredTensor& b, const TensorDifference& d) {
    const std::string types =
        a.dtype == b.dtype ? "" : fmt::format(" ({} / {})", name_of(a.dtype), name_of(b.dtype));
    differs(fmt::format("{}{}: {} of {} elements differ, max abs {:.3g}, max rel {:.3g}", a.path,
                        types, d.elements, a.shape.numel(), d.max_abs, d.relative()));
  }

  const CheckpointReader &a_, &b_;
  double tolerance_;
  DiffResult result_;
};

}  // namespace

DiffResult diff_checkpoints(const CheckpointReader& a, const CheckpointReader& b,
                            double tolerance) {
  return Differ(a, b, tolerance).run();
}

}  // namespace neox
