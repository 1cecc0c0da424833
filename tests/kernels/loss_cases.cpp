#include <cmath>
#include <limits>

#include "tests/kernels/op_cases.h"

namespace neox::testing {
namespace {

struct LossOptions {
  DType logits = DType::f32;
  DType gradient = DType::f32;
  bool in_place = false;
  double scale = 2.0;  ///< of the logits
};

/// loss_r = log(sum_j e^z_rj) - z_r,label over the valid columns, 0 in rows of weight 0.
void reference(const Arrays& in, Arrays& out, std::int64_t columns, std::int64_t valid) {
  for (std::size_t r = 0; r < out["losses"].size(); ++r) {
    if (in.at("weights")[r] == 0) continue;
    const double* z = &in.at("logits")[r * static_cast<std::size_t>(columns)];
    const double top = *std::max_element(z, z + valid);
    double sum = 0;
    for (std::int64_t j = 0; j < valid; ++j) sum += std::exp(z[j] - top);
    out["losses"][r] = top + std::log(sum) - z[static_cast<std::size_t>(in.at("labels")[r])];
  }
}

OpCase cross_entropy_case(std::int64_t rows, std::int64_t columns, std::int64_t valid, DType t,
                          const LossOptions& o) {
  OpCase test{
      "cross_entropy",
      fmt::format("{}x{} of {} {} to {}{}{}", rows, valid, columns, name_of(o.logits),
                  name_of(o.gradient), o.in_place ? " in place" : "", o.scale > 10 ? " large" : ""),
      t};
  Array labels = whole_values(rows, 1, valid), weights = normal_values(rows, 2);
  for (std::size_t r = 0; r < weights.size(); ++r) {
    weights[r] = std::abs(weights[r]) + 0.1;
    if (rows < 1000 && r % 3 == 1) {
      weights[r] = 0;
      labels[r] = -1000000000;  // must not be read
    }
  }
  const Shape shape{rows, columns};
  test.inputs = {{"logits", shape, o.logits, some_values(shape, 3, o.scale)},
                 {"labels", {rows}, DType::i32, labels},
                 {"weights", {rows}, DType::f32, weights}};
  test.outputs = {{"losses", {rows}, DType::f32, 2e-6, "", true, "weights"}};
  test.gradients = {{"logits", o.gradient, tolerance(o.gradient), o.in_place ? "logits" : "", ""}};
  test.forward = [valid](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.cross_entropy(s, v["logits"], v["labels"], v["weights"], valid, v["losses"], {});
  };
  test.backward = [valid](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.cross_entropy(s, v["logits"], v["labels"], v["weights"], valid, v["losses"], v["d_logits"]);
  };
  test.reference = [columns, valid](const Arrays& in, Arrays& out) {
    reference(in, out, columns, valid);
  };
  return test;
}

/// The columns of one rank's logits.
struct RankColumns {
  std::string logits;  ///< name of the tensor
  std::int64_t first, columns, valid;
};

/// Vocabulary cut in equal parts, as the ranks of a tensor group hold it.
std::vector<RankColumns> cut_columns(std::int64_t ranks, std::int64_t columns, std::int64_t valid) {
  std::vector<RankColumns> parts;
  for (std::int64_t r = 0; r < ranks; ++r) {
    const std::int64_t first = r * columns;
    parts.push_back({fmt::format("logits{}", r), first, columns,
                     std::clamp<std::int64_t>(valid - first, 0, columns)});
  }
  return parts;
}

/// Statistics of one rank's columns and the whole row's loss; formulas of kernels/loss.h.
void parallel_reference(const Arrays& in, Arrays& out, const std::vector<RankColumns>& ranks) {
  constexpr double kNone = -std::numeric_limits<double>::infinity();
  const std::size_t rows = out["losses"].size();
  for (std::size_t r = 0; r < rows; ++r) {
    if (in.at("weights")[r] == 0) continue;
    const auto label = static_cast<std::int64_t>(in.at("labels")[r]);
    double all = 0, target = 0;  // small logits: no maximum needed
    for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
      const RankColumns& part = ranks[rank];
      const double* z = in.at(part.logits).data() + r * static_cast<std::size_t>(part.columns);
      double sum = 0, here = 0;
      for (std::int64_t j = 0; j < part.valid; ++j) {
        sum += std::exp(z[j]);
        if (part.first + j == label) here = z[j];
      }
      out["parts"][(rank * rows + r) * 2] = sum > 0 ? std::log(sum) : kNone;
      out["parts"][(rank * rows + r) * 2 + 1] = here;
      all += sum;
      target += here;
    }
    out["losses"][r] = std::log(all) - target;
  }
}

Tensor part_of(const OpTensors& v, std::size_t rank) {
  const auto at = static_cast<std::int64_t>(rank);
  const Tensor part = v["parts"].slice(at, at + 1);
  return part.reshape({part.shape[1], 2});
}

/// All ranks of a tensor group, one after the other: forward makes the statistics of each and the
/// losses, backward the gradients of each.
OpCase parallel_case(std::int64_t rows, std::int64_t ranks, std::int64_t columns,
                     std::int64_t valid, DType t, const LossOptions& o) {
  OpCase test{"cross_entropy",
              fmt::format("{} ranks {}x{} of {} {} to {}{}", ranks, rows, valid, ranks * columns,
                          name_of(o.logits), name_of(o.gradient), o.in_place ? " in place" : ""),
              t};
  const std::vector<RankColumns> parts = cut_columns(ranks, columns, valid);
  Array labels = whole_values(rows, 1, valid), weights = normal_values(rows, 2);
  for (std::size_t r = 0; r < weights.size(); ++r) {
    weights[r] = std::abs(weights[r]) + 0.1;
    if (rows < 1000 && r % 3 == 1) {
      weights[r] = 0;
      labels[r] = -1000000000;  // must not be read
    }
  }
  test.inputs = {{"labels", {rows}, DType::i32, labels}, {"weights", {rows}, DType::f32, weights}};
  const Shape shape{rows, columns};
  for (const RankColumns& part : parts) {
    test.inputs.push_back(
        {part.logits, shape, o.logits,
         some_values(shape, 3 + static_cast<std::uint64_t>(part.first), o.scale)});
    test.gradients.push_back(
        {part.logits, o.gradient, tolerance(o.gradient), o.in_place ? part.logits : "", ""});
  }
  test.outputs = {{"parts", {ranks, rows, 2}, DType::f64, 2e-6, "", false},
                  {"losses", {rows}, DType::f32, 2e-6, "", true, "weights"}};
  test.forward = [parts](const Backend& ops, Stream& s, const OpTensors& v) {
    for (std::size_t rank = 0; rank < parts.size(); ++rank) {
      ops.cross_entropy_partial(s, v[parts[rank].logits], v["labels"], v["weights"],
                                parts[rank].first, parts[rank].valid, part_of(v, rank));
    }
    const RankColumns& last = parts.back();
    ops.cross_entropy_combine(s, v[last.logits], v["labels"], v["weights"], last.first, last.valid,
                              v["parts"], v["losses"], {});
  };
  test.backward = [parts](const Backend& ops, Stream& s, const OpTensors& v) {
    for (const RankColumns& part : parts) {
      ops.cross_entropy_combine(s, v[part.logits], v["labels"], v["weights"], part.first,
                                part.valid, v["parts"], v["losses"], v["d_" + part.logits]);
    }
  };
  test.reference = [parts](const Arrays& in, Arrays& out) { parallel_reference(in, out, parts); };
  return test;
}

}  // namespace

std::vector<OpCase> loss_step_cases(DType t, const StepShape& shape) {
  const std::int64_t rows = shape.loss_rows, columns = shape.vocab, valid = shape.valid_vocab;
  if (t == DType::f32) {
    return {cross_entropy_case(rows, columns, valid, t, {t, t, true, 2.0}),
            parallel_case(rows, 2, columns / 2, valid, t, {t, t, true, 2.0})};
  }
  return {cross_entropy_case(rows, columns, valid, t, {DType::f32, t, false, 2.0}),
          cross_entropy_case(rows, columns, valid, t, {t, t, true, 2.0})};
}

std::vector<OpCase> loss_cases(DType t, CaseSize size) {
  if (size == CaseSize::gpt2) return loss_step_cases(t, {});
  std::vector<OpCase> cases = {
      cross_entropy_case(5, 37, 37, t, {t, t, false, 2.0}),
      cross_entropy_case(6, 48, 41, t, {t, t, true, 2.0}),
      cross_entropy_case(4, 33, 30, t, {t, t, false, 100.0}),
      cross_entropy_case(2, 130, 1, t, {t, t, true, 2.0}),
      cross_entropy_case(4, 5003, 4999, t, {t, t, true, 2.0}),  // several blocks
      cross_entropy_case(0, 33, 30, t, {t, t, false, 2.0}),
      cross_entropy_case(1, 1, 1, t, {t, t, false, 2.0}),
      cross_entropy_case(1, 17, 17, t, {t, t, true, 2.0}),
      parallel_case(5, 1, 37, 33, t, {t, t, false, 2.0}),
      parallel_case(7, 2, 33, 61, t, {t, t, true, 2.0}),
      parallel_case(5, 4, 16, 41, t, {t, t, false, 2.0}),  // the last rank holds padding only
      parallel_case(4, 3, 1, 2, t, {t, t, true, 2.0}),
      parallel_case(3, 2, 2500, 4999, t, {t, t, true, 2.0}),  // several blocks
      parallel_case(1, 2, 8, 16, t, {t, t, false, 2.0}),
      parallel_case(0, 2, 8, 15, t, {t, t, false, 2.0}),
  };
  if (t != DType::f32) {
    cases.push_back(cross_entropy_case(5, 40, 37, t, {DType::f32, t, false, 2.0}));
    cases.push_back(cross_entropy_case(5, 40, 37, t, {t, DType::f32, false, 2.0}));
    cases.push_back(parallel_case(5, 2, 20, 37, t, {DType::f32, t, false, 2.0}));
    cases.push_back(parallel_case(5, 2, 20, 37, t, {t, DType::f32, false, 2.0}));
  }
  return cases;
}

}  // namespace neox::testing
