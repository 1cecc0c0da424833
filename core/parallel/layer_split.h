#pragma once

#include <cstdint>
#include <vector>

namespace neox {

/// How many transformer layers each virtual stage gets, [stages * chunks] in the order of the model
/// (index chunk * stages + stage; see schedule.h). The first virtual stage also computes the
/// embedding and the last one the output layer; their costs are given in units of one layer.
///
/// Minimizes the cost of the slowest stage (the sum over its chunks), then that of the slowest
/// virtual stage; among equals, layers lie as evenly as possible and earlier virtual stages get
/// more. Every virtual stage gets at least one layer. Throws Error when there are fewer layers than
/// virtual stages, or a number makes no sense.
std::vector<int> split_layers(int num_layers, int stages, int chunks, double embedding_cost,
                              double head_cost);

/// Cost of the output layer in layers: 2Vh / 24h^2 = vocabulary / (12 hidden) multiplications per
/// token (frontier of published splits: a head of 200k tokens at h = 4096 weighs 4.1 layers).
constexpr double head_cost_in_layers(std::int64_t vocabulary, std::int64_t hidden) {
  return static_cast<double>(vocabulary) / (12.0 * static_cast<double>(hidden));
}

}  // namespace neox
