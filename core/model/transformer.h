#pragma once
// A whole decoder: embedding, blocks, final norm and output layer, built from configuration alone:
// GPT-NeoX, GPT-2 and LLaMA-style models differ only in their keys.

#include <cstdint>
#include <optional>
#include <vector>

#include "core/model/block.h"
#include "core/model/block_graphs.h"
#include "core/model/block_observer.h"
#include "core/model/block_patterns.h"

namespace neox {

/// Where a model runs and what the current call is. Arenas may be measuring (with a dry-run
/// backend).
struct Execution {
  const Backend& ops;
  Stream& stream;
  Arena& keep;       ///< residual streams of a call that keeps nothing (evaluation, logits)
  Arena& recompute;  ///< activations of one block that is being recomputed
  Arena& scratch;    ///< temporaries
  TensorParallel tensor{};
  BlockObserver* observer = nullptr;
  Recompute recompute_mode = Recompute::none;
  int recompute_layers = -1;       ///< of each chunk, from its first; -1: all
  std::int64_t loss_chunk = 1024;  ///< tokens whose logits are in memory at once
  std::uint64_t dropout_seed = 0;
  std::int64_t step = 0;
  /// With graphs, blocks of chunks that train are launched from recordings, and dropout reads where
  /// it is in device memory.
  BlockGraphs* graphs = nullptr;
  const DropoutPosition* dropout_position = nullptr;
};

/// One micro-batch in one chunk, between the start of its forward and the end of its backward.
struct ChunkPass {
  explicit ChunkPass(Device device, bool dry_run = false) : keep(device, dry_run) {}
  /// The micro-batch is through: memory is free for the next one.
  void clear() {
    keep.release(0);
    if (gradients != nullptr) gradients->release(0);
  }
  /// Weight gradients are computed by a call of their own.
  bool split() const { return gradients != nullptr; }

  Arena keep;  ///< activations that wait for backward
  /// Set before backward: what weight gradients of a split backward wait for; null: not split.
  Arena* gradients = nullptr;
  /// Residual streams [local rows, h] at the chunk's borders.
  Tensor input{}, output{}, output_gradient{}, input_gradient{};
  Norm::Saved embedding_norm{};
  std::vector<ConstTensor> inputs{};  ///< of each block
  std::vector<Block::Saved> saved{};
  std::vector<Block::Gradients> block_gradients{};
};

class Transformer {
 public:
  /// `model` must be resolved (core/config): no derived value left open. Throws Error on sizes that
  /// don't fit together or can't be divided.
  explicit Transformer(const ModelConfig& model, const ModelPartition& partition = {});

  /// Allocates the parameters; they are undefined until initialised or loaded.
  void commit(const Backend& ops, Stream& stream, DType compute, StoreMode mode,
              bool dry_run = false, const ShardPlan& plan = {});

  const ModelConfig& config() const { return model_; }
  const ModelPartition& partition() const { return partition_; }
  ParameterStore& parameters() { return store_; }
  const ParameterStore& parameters() const { return store_; }
  /// Bytes of what is neither parameter nor activation: tables of positions and norms.
  std::size_t table_bytes() const {
    return rotary_.bytes() + norm_tables_.bytes() + patterns_.bytes() +
           (sinusoids_.tensor ? sinusoids_.tensor.bytes() : 0);
  }
  int chunk_count() const { return static_cast<int>(partition_.chunks.size()); }
  const ModelChunk& chunk(int index) const {
    return partition_.chunks.at(static_cast<std::size_t>(index));
  }

  // ---- training, one chunk at a time ----------------------------------------------------------
  /// Takes memory for the chunk's input, into which the caller then receives it. Only for chunks
  /// that don't begin with the embedding.
  void take_input(const Execution& run, const MicroBatchView& batch, ChunkPass& pass) const;
  /// From pass.input (or the batch's ids) to pass.output. A chunk with the head leaves the loss to
  /// backward, where its logits are used at once.
  void forward(const Execution& run, const MicroBatchView& batch, int chunk, ChunkPass& pass);
  /// From pass.output_gradient (or the loss), which is overwritten, to pass.input_gradient;
  /// gradients of parameters are
  /// written or added, those of blocks only in backward_weight when the backward is split. losses
  /// f32 [rows]: cross-entropy of each token; gradients are those of sum(weights * losses).
  void backward(const Execution& run, const MicroBatchView& batch, int chunk, ChunkPass& pass,
                Tensor losses);
  /// The second half of a split backward.
  void backward_weight(const Execution& run, const MicroBatchView& batch, int chunk,
                       ChunkPass& pass);

  /// Forward and backward of a model that is one chunk.
  void forward_backward(const Execution& run, const MicroBatchView& batch, ChunkPass& pass,
                        Tensor losses);

  // ---- no dropout, nothing kept ---------------------------------------------------------------
  /// input, output: residual streams [local rows, h]; input is not read by a chunk with the
  /// embedding; a chunk with the head writes losses f32 [rows] instead of output.
  void evaluate(const Execution& run, const MicroBatchView& batch, int chunk, ConstTensor input,
                Tensor output, Tensor losses);
  /// Of a model that is one chunk.
  void evaluate(const Execution& run, const MicroBatchView& batch, Tensor losses) {
    evaluate(run, batch, 0, {}, {}, losses);
  }

  /// All logits f32 [rows, padded vocabulary], no dropout; `residuals`, if given, receives the
  /// residual stream after each block [layers][rows, h] (for tests and tools). Of a whole model.
  void logits(const Execution& run, const MicroBatchView& batch, Tensor out,
              std::vector<Tensor>* residuals = nullptr);

  /// Logits f32 [batch, padded vocabulary] of the last position of each sequence; the new positions
  /// are appended to `caches` (one per block). Of a whole model.
  void next_token_logits(const Execution& run, const MicroBatchView& batch,
                         std::vector<KvCache>& caches, Tensor out);

 private:
  struct ChunkLayers {
    std::size_t begin = 0, end = 0;  // in blocks_
  };
  /// How one block is run.
  Recompute recompute_of(const Execution& run, const ChunkLayers& layers, std::size_t block) const;
  Context context(const Execution& run, const MicroBatchView& batch, bool training, Arena& keep,
                  Arena& gradients, Recompute recompute = Recompute::none) const;
  /// Does `work`, a call of block i of a pass, as run.graphs says.
  template <class Work>
  void run_block(const Execution& run, const MicroBatchView& batch, BlockCall::Part part,
                 std::size_t i, std::size_t at, ChunkPass& pass, ConstTensor input,
                 ConstTensor output, Work&& work);
  Shape residual_shape(const Execution& run, const MicroBatchView& batch) const;
  void add_embedding();
  void add_head();
  ParameterId add_word_table(const std::string& name, bool tied_copy);

  void embed(const Context& ctx, BlockObserver* observer, Tensor y, Norm::Saved& saved) const;
  void embed_backward(const Execution& run, const Context& ctx, Tensor dy,
                      const Norm::Saved& saved) const;
  /// The table that positions are looked up in, empty without one.
  ConstTensor position_table() const;
  void make_sinusoids(const Backend& ops, Stream& stream, DType compute, bool dry_run);
  /// The residual stream after the chunk's last block, without dropout; lies in ctx.keep or is
  /// `input`.
  ConstTensor forward_only(const Context& ctx, BlockObserver* observer, int chunk,
                           ConstTensor input, std::vector<Tensor>* residuals);
  /// Final norm, output layer and loss, `run.loss_chunk` tokens at a time; with dx also their
  /// backward.
  void head_loss(const Execution& run, const Context& ctx, ConstTensor x, Tensor losses, Tensor dx);
  void loss_of_rows(const Context& ctx, std::int64_t begin, std::int64_t end, Tensor logits,
                    Tensor losses, Tensor dlogits) const;
  ParameterId output_table() const { return output_ < 0 ? word_embedding_ : output_; }
  /// The head computes with the embedding block's table.
  bool output_in_embedding() const { return output_ < 0; }
  void check() const;
  void require_whole(const char* what) const;

  ModelConfig model_;
  ModelPartition partition_;
  ParameterStore store_;
  AxisRange vocabulary_;  // rows of the word tables held here
  ParameterId word_embedding_ = -1, position_embedding_ = -1;
  ParameterId output_ = -1;  // -1: the word embedding
  bool tied_across_stages_ = false;
  std::vector<Block> blocks_;
  std::vector<int> store_block_;              // of each of blocks_
  std::vector<ParameterId> first_parameter_;  // likewise
  std::vector<ChunkLayers> chunk_layers_;
  // Of the store. The head's include its own copy of a table that is shared across stages, which is
  // a block by itself there and on the first stage, so that its gradient lies alike on both.
  std::vector<int> embedding_blocks_, head_blocks_;
  std::optional<Norm> final_norm_;
  std::vector<Block::Saved> unkept_;
  std::optional<Norm> embedding_norm_;
  int embedding_norm_block_ = -1;
  RotaryTables rotary_;
  NormTables norm_tables_;
  BlockPatterns patterns_;
  OwnedTensor sinusoids_;  ///< of the first stage: T [max_position_embeddings, h]
};

/// Parameters of the whole model.
std::int64_t count_parameters(const ModelConfig& model);

/// FLOPs of one training token (forward and backward): 6 N + 12 L h s, with N all parameters but
/// the embedding tables, plus the output layer; attention counted in full, not causally halved.
double flops_per_token(const ModelConfig& model, std::int64_t seq);

}  // namespace neox
