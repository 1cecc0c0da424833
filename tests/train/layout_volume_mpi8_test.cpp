// What every group sends in a step equals the least that the algorithm needs, for every way to
// divide the work (formulas of Thakur et al. 2005 for collectives; Korthikanti et al. 2022 for
// tensor parallelism; Rajbhandari et al. 2020 for ZeRO).

#include <cmath>
#include <cstdio>

#include <gtest/gtest.h>

#include "comm/mpi.h"
#include "tests/train/altered_communicator.h"
#include "tests/train/layout_run.h"

namespace neox::testing {
namespace {

constexpr int kSteps = 2;
// One bucket per block: padding is to a multiple of 64 x data ranks per block.
constexpr RunSize kSize{.batch = 12, .hidden = 64, .bucket_mb = 4.0};
constexpr double kTolerance = 0.01;

using Volumes = std::map<CallKind, double>;  // bytes sent by this rank in one step

/// What the rank at this place of the layout must send.
class Formulas {
 public:
  Formulas(const Layout& layout, LayoutRun& run)
      : layout_(layout), config_(run.config()), store_(run.engine().model().parameters()) {
    const Transformer& model = run.engine().model();
    here_ = run.engine().topology().coordinates();
    for (int c = 0; c < model.chunk_count(); ++c) {
      const ModelChunk& chunk = model.chunk(c);
      layers_ += chunk.end_layer - chunk.first_layer;
      embedding_ |= chunk.embedding;
      head_ |= chunk.head;
      forward_messages_ += chunk.head ? 0 : 1;
      backward_messages_ += chunk.embedding ? 0 : 1;
    }
    passes_ = static_cast<double>(config_.batch.gradient_accumulation_steps);
    rows_ = static_cast<double>(layout.micro_batch * config_.model.seq_length);
    stream_ = rows_ * static_cast<double>(config_.model.hidden_size) * 4.0;
  }

  Volumes volumes() {
    add_data();
    add_tensor();
    add_pipeline();
    const auto n = static_cast<double>(layout_.ranks());
    add("world", Purpose::norm, Collective::all_reduce, 2.0 * (n - 1) / n * 16.0);
    return volumes_;
  }

 private:
  void add(const char* group, Purpose purpose, Collective collective, double bytes) {
    if (bytes > 0.0) volumes_[{group, purpose, collective}] += bytes;
  }

  // Bytes of the parameters held here, f32, whose block's name is accepted.
  template <class Chosen>
  double parameter_bytes(Chosen&& chosen) const {
    double elements = 0.0;
    for (ParameterId id = 0; id < store_.size(); ++id) {
      const bool take = chosen(store_.block_name(store_.block_of(id)));
      if (take) elements += static_cast<double>(store_.spec(id).slice.extent.numel());
    }
    return 4.0 * elements;
  }

  // With G bytes of gradients, W of weights and m micro-batches, d ranks:
  //   stage 0: all-reduce 2 (d-1)/d G
  //   stage 1: reduce-scatter (d-1)/d G, all-gather (d-1)/d W
  //   stage 2: reduce-scatter m (d-1)/d G, all-gather (d-1)/d W
  //   stage 3: reduce-scatter m (d-1)/d G; all-gather (d-1)/d times the weights of each block once
  //            per forward and per backward, except where two resident blocks save it: the head
  //            is used only once, the last layer goes straight back, the first layer is still there
  //            when the next micro-batch begins; the embedding's backward needs no weights.
  void add_data() {
    const auto d = static_cast<double>(layout_.data);
    const double share = (d - 1) / d;
    const double all = parameter_bytes([](const std::string&) { return true; });
    if (layout_.zero == 0) {
      return add("data", Purpose::gradients, Collective::all_reduce, 2.0 * share * all);
    }
    const double reductions = layout_.zero == 1 ? 1.0 : passes_;
    add("data", Purpose::gradients, Collective::reduce_scatter, reductions * share * all);
    double gathered = all;
    if (layout_.zero == 3) {
      const auto block = [&](std::int64_t layer) {
        const std::string name = fmt::format("layers.{}", layer);
        return parameter_bytes([&](const std::string& b) { return b == name; });
      };
      const double layers =
          parameter_bytes([](const std::string& b) { return b.starts_with("layers."); });
      gathered =
          passes_ * (all + layers - block(config_.model.num_layers - 1)) - (passes_ - 1) * block(0);
    }
    add("data", Purpose::parameters, Collective::all_gather, share * gathered);
  }

  // Per layer and micro-batch, S = bytes of a residual stream [rows, h], t ranks, s = (t-1)/t S:
  // sequential residual, rows replicated: 2 all-reduces forward and 2 backward, 2 s each. Parallel
  // residual: 1 forward (one reduction of both branches), 2 backward (two norms).
  // Rows sharded: an all-reduce becomes a reduce-scatter and an all-gather of s each; an input that
  // two branches have in common is gathered once, but their norms' outputs are two; in backward the
  // inputs of the two column-parallel products are gathered again. So forward 2 gathers and 2 (1)
  // scatters; backward 2 (1) + 2 gathers and 2 scatters. Full recomputation repeats the forward.
  // The embedding and the head are as one product each.
  void add_tensor() {
    const auto t = static_cast<double>(layout_.tensor);
    const double s = (t - 1) / t * stream_ * passes_;
    const double branches = config_.model.gpt_j_residual ? 1.0 : 2.0;
    const double embedding = embedding_ ? 1.0 : 0.0, head = head_ ? 1.0 : 0.0;
    const double again = layout_.recompute == "full" ? layers_ : 0.0;
    add("tensor", Purpose::loss, Collective::all_gather, head * (t - 1) * passes_ * rows_ * 16.0);
    if (!layout_.rows_sharded) {
      add("tensor", Purpose::tensor_forward, Collective::all_reduce,
          2.0 * s * (branches * layers_ + embedding));
      add("tensor", Purpose::tensor_backward, Collective::all_reduce,
          2.0 * s * (2.0 * layers_ + head + branches * again));
      return;
    }
    add("tensor", Purpose::tensor_forward, Collective::all_gather, s * 2.0 * layers_);
    add("tensor", Purpose::tensor_forward, Collective::reduce_scatter,
        s * (branches * layers_ + embedding));
    add("tensor", Purpose::tensor_backward, Collective::all_gather,
        s * ((branches + 2.0) * layers_ + head + embedding + 2.0 * again));
    add("tensor", Purpose::tensor_backward, Collective::reduce_scatter,
        s * (2.0 * layers_ + head + branches * again));
    // Norms (weight and bias) see a part of the rows: summed once a step, with ZeRO only the
    // elements that this rank owns; a vector may lie with one owner as a whole.
    double norms = (2.0 * layers_ + head) * 2.0 * static_cast<double>(kSize.hidden) * 4.0;
    if (layout_.zero > 0) norms = 4.0 * owned_norm_elements();
    add("tensor", Purpose::gradients, Collective::all_reduce, 2.0 * (t - 1) / t * norms);
  }

  double owned_norm_elements() const {
    double elements = 0.0;
    for (ParameterId id = 0; id < store_.size(); ++id) {
      if (store_.spec(id).name.find("norm") == std::string::npos) continue;
      for (const ParameterPiece& piece : store_.owned_pieces(id)) {
        elements += static_cast<double>(piece.piece.size);
      }
    }
    return elements;
  }

  // A stream, or this rank's rows of it, per micro-batch and border; the tied table once a step.
  void add_pipeline() {
    if (layout_.pipe == 1) return;
    const double message =
        stream_ / (layout_.rows_sharded ? static_cast<double>(layout_.tensor) : 1.0) * passes_;
    add("pipe_forward", Purpose::pipeline, Collective::send, forward_messages_ * message);
    add("pipe_backward", Purpose::pipeline, Collective::send, backward_messages_ * message);
    if (config_.model.no_weight_tying || !(embedding_ || head_)) return;
    const double table =
        parameter_bytes([](const std::string& b) { return b == "word_embedding"; });
    const double owned = layout_.zero == 0 ? 1.0 : 1.0 / static_cast<double>(layout_.data);
    add("embedding", Purpose::embedding, Collective::all_reduce, table * owned);  // 2 (2-1)/2
  }

  const Layout& layout_;
  const Config& config_;
  const ParameterStore& store_;
  Coordinates here_;
  double layers_ = 0.0, passes_ = 0.0, rows_ = 0.0, stream_ = 0.0;
  double forward_messages_ = 0.0, backward_messages_ = 0.0;
  bool embedding_ = false, head_ = false;
  Volumes volumes_;
};

Volumes measured(const CallRecord& record) {
  Volumes volumes;
  for (const auto& [series, traffic] : record.series) {
    if (series.kind.collective == Collective::recv) continue;
    volumes[series.kind] += traffic.link_bytes;
  }
  return volumes;
}

// clang-format off
const std::vector<Layout> kLayouts = {
    {Family::neox, 1, false, 1, "1f1b", 4, 0, 1, "none"},
    {Family::neox, 1, false, 1, "1f1b", 4, 1, 1, "none"},
    {Family::neox, 1, false, 1, "1f1b", 4, 2, 1, "none"},
    {Family::neox, 1, false, 1, "1f1b", 4, 3, 1, "none"},
    {Family::neox, 1, false, 1, "1f1b", 2, 3, 2, "none"},
    {Family::gpt2, 4, false, 1, "1f1b", 1, 0, 2, "none"},
    {Family::gpt2, 4, true, 1, "1f1b", 1, 0, 2, "none"},
    {Family::gpt2, 4, true, 1, "1f1b", 1, 0, 2, "full"},
    {Family::neox, 2, false, 1, "1f1b", 1, 0, 4, "none"},
    {Family::neox, 2, true, 1, "1f1b", 1, 0, 4, "none"},
    {Family::neox, 1, false, 4, "1f1b", 1, 0, 1, "none"},
    {Family::neox, 1, false, 4, "zb-h1", 1, 0, 2, "none"},
    {Family::neox, 1, false, 2, "interleaved", 1, 0, 2, "none"},
    {Family::gpt2, 1, false, 4, "gpipe", 2, 0, 1, "none"},
    {Family::gpt2, 2, true, 2, "1f1b", 2, 1, 1, "none"},
    {Family::gpt2, 2, true, 2, "zb-h1", 2, 2, 2, "none"},
};
// clang-format on

// "what measured expected ratio" for each kind of operation, the largest deviation of any rank.
TEST(LayoutVolume, EqualsTheFormulas) {
  const auto world = make_world_communicator();
  ASSERT_EQ(world->size(), 8);
  double worst = 0.0;
  for (const Layout& layout : kLayouts) {
    const auto group = world->split(
        [&](int rank) {
          return SplitPlace{rank < layout.ranks() ? 0 : -1, rank};
        },
        "world");
    std::string lines;
    if (world->rank() < layout.ranks()) {
      CallRecord record;
      const auto recorded = alter(*group, record);
      LayoutRun run(*recorded, layout, kSize);
      run.train(1);  // the first step learns the order of prefetches
      const Volumes before = measured(record);
      run.train(kSteps);
      Volumes found = measured(record);
      for (const auto& [kind, bytes] : before) found[kind] -= bytes;
      const Volumes expected = Formulas(layout, run).volumes();
      for (auto& [kind, bytes] : found) {
        bytes /= kSteps;
        const auto at = expected.find(kind);
        const double least = at == expected.end() ? 0.0 : at->second;
        const double error = std::abs(bytes / least - 1.0);
        EXPECT_LE(error, kTolerance)
            << layout.describe() << ", rank " << world->rank() << ": " << kind.describe() << ": "
            << bytes << " bytes, least " << least;
        lines +=
            fmt::format("    {:<48} {:>10.0f} bytes sent by rank 0, formula {:>10.0f}: {:+.2f} %\n",
                        kind.describe(), bytes, least, 100.0 * (bytes / least - 1.0));
        worst = std::max(worst, error);
      }
      for (const auto& [kind, bytes] : expected) {
        EXPECT_TRUE(found.contains(kind)) << layout.describe() << ", rank " << world->rank() << ": "
                                          << kind.describe() << " was never called";
      }
    }
    world->barrier();
    if (world->rank() == 0) std::printf("  %s\n%s", layout.describe().c_str(), lines.c_str());
  }
  world->host_all_reduce(std::span(&worst, 1), ReduceOp::max);
  if (world->rank() == 0) std::printf("  worst deviation on any rank %.2f %%\n", 100.0 * worst);
}

}  // namespace
}  // namespace neox::testing
