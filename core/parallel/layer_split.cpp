#include "core/parallel/layer_split.h"

#include <algorithm>
#include <cmath>
#include <queue>
#include <utility>

#include "core/base/error.h"

namespace neox {
namespace {

// Gives `units` to the parts, one at a time to the cheapest; the last of equals first. Every part
// has `least` to begin with. With steps of one this minimizes the largest sum.
std::vector<int> share(int units, int least, const std::vector<double>& fixed_costs) {
  std::vector<int> out(fixed_costs.size(), least);
  std::priority_queue<std::pair<double, std::size_t>> cheapest;  // (-cost, part)
  for (std::size_t i = 0; i < out.size(); ++i) cheapest.push({-(least + fixed_costs[i]), i});
  const auto parts = static_cast<int>(out.size());
  for (int left = units - least * parts; left > 0; --left) {
    const auto [cost, part] = cheapest.top();
    cheapest.pop();
    ++out[part];
    cheapest.push({-(out[part] + fixed_costs[part]), part});
  }
  return out;
}

}  // namespace

std::vector<int> split_layers(int num_layers, int stages, int chunks, double embedding_cost,
                              double head_cost) {
  require(stages >= 1 && chunks >= 1,
          "split of layers over {} stages with {} chunks: expected 1 or more", stages, chunks);
  require(
      num_layers / stages >= chunks,
      "{} layers cannot be split over {} stages x {} chunks: each needs at least one layer; use "
      "at most {} stages with {} chunks, or more layers",
      num_layers, stages, chunks, std::max(1, num_layers / chunks), chunks);
  require(std::isfinite(embedding_cost) && std::isfinite(head_cost) && embedding_cost >= 0 &&
              head_cost >= 0,
          "costs of embedding {} and output layer {} in layers: expected 0 or more", embedding_cost,
          head_cost);
  const auto p = static_cast<std::size_t>(stages), v = static_cast<std::size_t>(chunks);
  std::vector<double> stage_costs(p, 0.0);
  stage_costs.front() += embedding_cost;
  stage_costs.back() += head_cost;
  const std::vector<int> of_stage = share(num_layers, chunks, stage_costs);
  std::vector<int> out(p * v);
  for (std::size_t stage = 0; stage < p; ++stage) {
    std::vector<double> chunk_costs(v, 0.0);
    if (stage == 0) chunk_costs.front() += embedding_cost;
    if (stage + 1 == p) chunk_costs.back() += head_cost;
    const std::vector<int> of_chunk = share(of_stage[stage], 1, chunk_costs);
    for (std::size_t chunk = 0; chunk < v; ++chunk) out[chunk * p + stage] = of_chunk[chunk];
  }
  return out;
}

}  // namespace neox
