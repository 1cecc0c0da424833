#pragma once
// Mixing datasets by weight, in GPT-NeoX's order (BlendableDataset).

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/data/index_cache.h"

namespace neox {

/// Weights divided by their sum. Throws Error naming the first that is not positive and finite.
std::vector<double> normalize_weights(std::span<const double> weights);

/// weight_by_num_documents: p_d = documents_d / sum, w_d ~ p_d^alpha (1 - p_d); one dataset gets 1.
/// (GPT-NeoX: for two datasets alpha = 1 gives exactly 1/2, 1/2.) alpha > 0; counts > 0.
std::vector<double> weights_by_num_documents(std::span<const std::int64_t> documents, double alpha);

/// Samples that a dataset of normalised weight w is asked for: ceil(num_samples w 1.005). The blend
/// never takes more: it takes at most ceil(num_samples w).
std::int64_t weighted_num_samples(std::int64_t num_samples, double weight);

/// For each sample of the blend: the dataset, and which of its samples. Sample s goes to the
/// dataset with the largest w_d max(s, 1) - taken_d; the first wins ties.
class BlendMap {
 public:
  /// `weights` normalised; at most 65535 datasets.
  static BlendMap make(std::span<const double> weights, std::int64_t num_samples,
                       const std::string& cache_dir = "", const std::string& name = "blend");

  std::int64_t size() const { return size_; }
  int dataset(std::int64_t s) const;
  std::int64_t sample(std::int64_t s) const;
  /// Samples taken from each dataset in all.
  const std::vector<std::int64_t>& taken() const { return taken_; }

 private:
  std::int64_t size_ = 0;
  std::vector<std::int64_t> taken_;
  ArrayImage image_;
};

}  // namespace neox
