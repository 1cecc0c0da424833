#pragma once

#include <cstdint>
#include <vector>

namespace neox {

/// How many transformer layers each virtual stage gets, [stages * chunks] in the order of the model
/// (index chunk * stages + stage; see schedule.h). The first virtual stage also computes the
/// embedding and the last one the output layer; their costs are given in units of one layer.
///
/// Minimizes the cost of the slowest stage, then shares each stage's layers among its chunks so
/// that the costliest chunk is smallest. Of equal stages the later ones get more, because they hold
/// fewer activations. Every virtual stage gets at least one layer. Throws Error when there are
/// fewer layers than virtual stages, or a number makes no sense.
std::vector<int> split_layers(int num_layers, int stages, int chunks, double embedding_cost,
                              double head_cost);

/// Cost of the output layer in layers: 2Vh / 24h^2 = vocabulary / (12 hidden) multiplications per
/// token (4.1 layers for a vocabulary of 200k tokens at h = 4096).
constexpr double head_cost_in_layers(std::int64_t vocabulary, std::int64_t hidden) {
  return static_cast<double>(vocabulary) / (12.0 * static_cast<double>(hidden));
}

}  // namespace neox
