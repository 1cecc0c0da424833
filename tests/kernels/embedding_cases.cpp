#include <optional>

#include "tests/kernels/op_cases.h"

namespace neox::testing {
namespace {

/// The ids [first, first + count) of the vocabulary.
struct IdSlice {
  std::int64_t first, count;
};

/// `vocab` smaller than rows: ids repeat.
OpCase embedding_case(std::int64_t rows, std::int64_t vocab, std::int64_t h, DType t,
                      bool positions, std::optional<IdSlice> part = {}) {
  const IdSlice held = part.value_or(IdSlice{0, vocab});
  OpCase test{
      "embedding",
      fmt::format("{} of {}x{}{}{}", rows, vocab, h,
                  part ? fmt::format(" from {} to {}", held.first, held.first + held.count) : "",
                  positions ? " positions" : ""),
      t};
  const Shape table{held.count, h};
  constexpr std::int64_t kPlaces = 9;
  const std::int64_t places = std::max(kPlaces, rows / 4);
  test.inputs = {{"ids", {rows}, DType::i32, whole_values(rows, 1, vocab)},
                 {"table", table, t, some_values(table, 2)},
                 {"dtable0", table, DType::f32, some_values(table, 3)}};
  if (positions) {
    test.inputs.push_back({"positions", {rows}, DType::i32, whole_values(rows, 4, places)});
    test.inputs.push_back({"places", {places, h}, t, some_values({places, h}, 5)});
    test.inputs.push_back({"dplaces0", {places, h}, DType::f32, some_values({places, h}, 6)});
  }
  test.outputs = {{"y", {rows, h}, t, positions ? tolerance(t, 1e-6) : 0.0}};
  test.gradients = {{"table", DType::f32, 1e-5, "dtable0", "dtable0"}};
  if (positions) test.gradients.push_back({"places", DType::f32, 1e-5, "dplaces0", "dplaces0"});
  test.forward = [positions, held](const Backend& ops, Stream& s, const OpTensors& v) {
    if (positions) {
      ops.embedding(s, v["ids"], v["table"], held.first, v["positions"], v["places"], v["y"]);
    } else {
      ops.embedding(s, v["ids"], v["table"], held.first, {}, {}, v["y"]);
    }
  };
  test.backward = [positions, held](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.embedding_backward(s, v["ids"], v["d_y"], held.first, v["d_table"]);
    if (positions) ops.embedding_backward(s, v["positions"], v["d_y"], 0, v["d_places"]);
  };
  test.reference = [h, positions, held](const Arrays& in, Arrays& out) {
    const auto width = static_cast<std::size_t>(h);
    for (std::size_t i = 0; i < out["y"].size(); ++i) {
      const std::size_t row = i / width, column = i % width;
      const auto id = static_cast<std::int64_t>(in.at("ids")[row]) - held.first;
      if (id >= 0 && id < held.count) {
        out["y"][i] = in.at("table")[static_cast<std::size_t>(id) * width + column];
      }
      if (!positions) continue;
      const auto place = static_cast<std::size_t>(in.at("positions")[row]);
      out["y"][i] += in.at("places")[place * width + column];
    }
  };
  return test;
}

}  // namespace

std::vector<OpCase> embedding_step_cases(DType t, const StepShape& shape) {
  const std::int64_t rows = shape.rows(), vocab = shape.vocab, h = shape.hidden();
  return {embedding_case(rows, vocab, h, t, false), embedding_case(rows, vocab, h, t, true),
          embedding_case(rows, vocab, h, t, true, IdSlice{vocab / 2, vocab / 2})};
}

std::vector<OpCase> embedding_cases(DType t, CaseSize size) {
  if (size == CaseSize::gpt2) return embedding_step_cases(t, {});
  return {embedding_case(11, 6, 37, t, false), embedding_case(13, 40, 32, t, true),
          embedding_case(200, 5, 130, t, true), embedding_case(0, 5, 8, t, true),
          embedding_case(1, 1, 1, t, true), embedding_case(1, 3, 17, t, false),
          // One rank's slice of the vocabulary: first, middle, last; one that no id touches.
          embedding_case(50, 40, 37, t, false, IdSlice{0, 13}),
          embedding_case(50, 40, 37, t, true, IdSlice{13, 14}),
          embedding_case(50, 40, 130, t, true, IdSlice{27, 13}),
          embedding_case(20, 40, 16, t, true, IdSlice{40, 8}),
          embedding_case(20, 40, 16, t, false, IdSlice{40, 8})};
}

}  // namespace neox::testing
