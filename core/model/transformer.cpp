#include "core/model/transformer.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "core/base/trace.h"

namespace neox {
namespace {

constexpr const char* kTiedBlock = "word_embedding";

}  // namespace

// ---- construction -------------------------------------------------------------------------------

Transformer::Transformer(const ModelConfig& model, const ModelPartition& partition)
    : model_(model), partition_(partition) {
  check();
  if (partition_.chunks.empty()) {
    partition_.chunks = {{0, static_cast<int>(model_.num_layers), true, true}};
  }
  vocabulary_ = partition_.tensor_part(model_.padded_vocab_size());
  const auto some_chunk = [&](bool ModelChunk::*part) {
    return std::any_of(partition_.chunks.begin(), partition_.chunks.end(),
                       [&](const ModelChunk& c) { return c.*part; });
  };
  tied_across_stages_ = !model_.no_weight_tying &&
                        some_chunk(&ModelChunk::embedding) != some_chunk(&ModelChunk::head);
  for (const ModelChunk& chunk : partition_.chunks) {
    if (chunk.embedding) add_embedding();
    chunk_layers_.push_back({blocks_.size(), blocks_.size()});
    for (int layer = chunk.first_layer; layer < chunk.end_layer; ++layer) {
      store_.begin_block(fmt::format("layers.{}", layer));
      store_block_.push_back(store_.block_count() - 1);
      first_parameter_.push_back(store_.size());
      blocks_.emplace_back(store_, model_, partition_, layer);
    }
    chunk_layers_.back().end = blocks_.size();
    if (chunk.head) add_head();
  }
  unkept_.resize(blocks_.size());
}

ParameterId Transformer::add_word_table(const std::string& name, bool tied_copy) {
  ParameterSpec spec{name,
                     {model_.padded_vocab_size(), model_.hidden_size},
                     {{vocabulary_.begin, 0}, {vocabulary_.size, model_.hidden_size}},
                     {InitRule::Kind::random, model_.init_method},
                     true};
  spec.reserve = partition_.largest_tensor_part(model_.padded_vocab_size()) * model_.hidden_size;
  spec.counted = !tied_copy;
  spec.tied_across_stages = tied_across_stages_ && name == "embed_in.weight";
  return store_.add(std::move(spec));
}

void Transformer::add_embedding() {
  const bool positions = model_.pos_emb == PositionEmbedding::learned;
  const auto open_block = [&](const char* name) {
    store_.begin_block(name);
    embedding_blocks_.push_back(store_.block_count() - 1);
  };
  open_block(tied_across_stages_ ? kTiedBlock : "embedding");
  word_embedding_ = add_word_table("embed_in.weight", false);
  if (positions) {
    if (tied_across_stages_) open_block("embedding");
    const Shape shape{model_.max_position_embeddings + model_.opt_pos_emb_offset,
                      model_.hidden_size};
    ParameterSpec spec{"embed_positions.weight",
                       shape,
                       Slice::whole(shape),
                       {InitRule::Kind::random, model_.init_method},
                       true};
    spec.counted = partition_.tensor_rank == 0;
    position_embedding_ = store_.add(std::move(spec));
  }
  if (!model_.embedding_norm) return;
  // A block of its own, so that its backward asks for no word table.
  open_block("embedding_norm");
  embedding_norm_block_ = embedding_blocks_.back();
  embedding_norm_.emplace(store_, "embed_layer_norm", model_, partition_);
}

void Transformer::add_head() {
  const auto open_block = [&](const char* name) {
    store_.begin_block(name);
    head_blocks_.push_back(store_.block_count() - 1);
  };
  if (tied_across_stages_) {
    open_block(kTiedBlock);
    output_ = add_word_table("embed_in.weight", true);
  }
  open_block("head");
  final_norm_.emplace(store_, "final_layer_norm", model_, partition_);
  if (model_.no_weight_tying) {
    output_ = add_word_table("embed_out.weight", false);
  } else if (!tied_across_stages_) {
    store_.share(word_embedding_);
  }
}

void Transformer::check() const {
  const auto& m = model_;
  require(m.num_layers > 0 && m.hidden_size > 0 && m.num_attention_heads > 0,
          "a model needs num_layers, hidden_size and num_attention_heads (found {}, {}, {})",
          m.num_layers, m.hidden_size, m.num_attention_heads);
  require(m.hidden_size % m.num_attention_heads == 0,
          "hidden_size ({}) is not a multiple of num_attention_heads ({})", m.hidden_size,
          m.num_attention_heads);
  require(m.num_kv_heads > 0 && m.num_attention_heads % m.num_kv_heads == 0,
          "num_attention_heads ({}) is not a multiple of num_kv_heads ({})", m.num_attention_heads,
          m.num_kv_heads);
  require(m.vocab_size > 0,
          "the model's vocabulary size is not known: set model.vocab_size or "
          "tokenizer.vocab_file");
  require(m.intermediate_size > 0 && m.max_position_embeddings > 0,
          "internal error: the model configuration was not resolved");
  require(!m.gpt_j_tied || m.gpt_j_residual, "gpt_j_tied needs gpt_j_residual = true");
}

void Transformer::commit(const Backend& ops, Stream& stream, DType compute, StoreMode mode,
                         bool dry_run, const ShardPlan& plan) {
  store_.commit(ops.device(), compute, mode, dry_run, plan);
  if (model_.pos_emb == PositionEmbedding::rotary) {
    rotary_ = RotaryTables(model_, ops.device(), stream, dry_run);
  }
  norm_tables_ = NormTables(model_, ops, stream, compute, dry_run);
  patterns_ = BlockPatterns(model_, partition_heads(model_, partition_).query, ops.device(), stream,
                            dry_run);
  if (model_.pos_emb == PositionEmbedding::sinusoidal && word_embedding_ >= 0) {
    make_sinusoids(ops, stream, compute, dry_run);
  }
}

// GPT-NeoX's: sin(p f_i) of all i, then cos(p f_i), f_i = 10000^(-2i/h).
void Transformer::make_sinusoids(const Backend& ops, Stream& stream, DType compute, bool dry_run) {
  const Shape shape{model_.max_position_embeddings, model_.hidden_size};
  sinusoids_ = OwnedTensor(shape, compute, ops.device(), dry_run);
  if (dry_run) return;
  const std::int64_t h = model_.hidden_size, sines = (h + 1) / 2;
  std::vector<float> host;
  for (std::int64_t p = 0; p < model_.max_position_embeddings; ++p) {
    for (std::int64_t c = 0; c < h; ++c) {
      const auto i = static_cast<double>(c < sines ? c : c - sines);
      const double angle =
          static_cast<double>(p) * std::pow(10000.0, -2.0 * i / static_cast<double>(h));
      host.push_back(static_cast<float>(c < sines ? std::sin(angle) : std::cos(angle)));
    }
  }
  const OwnedTensor moved(shape, DType::f32, ops.device());
  copy(stream, host_view(host), moved);
  ops.cast(stream, moved, sinusoids_);
  stream.synchronize();
}

// ---- one call's circumstances
// ---------------------------------------------------------------------

Context Transformer::context(const Execution& run, const MicroBatchView& batch, bool training,
                             Arena& keep, Arena& gradients, Recompute recompute) const {
  require(batch.seq <= model_.max_position_embeddings,
          "a sequence of {} tokens exceeds max_position_embeddings = {}", batch.seq,
          model_.max_position_embeddings);
  return {run.ops,
          run.stream,
          store_,
          run.tensor,
          keep,
          run.scratch,
          gradients,
          batch,
          training,
          recompute == Recompute::selective,
          run.dropout_seed,
          run.step,
          training ? run.dropout_position : nullptr,
          &norm_tables_,
          &patterns_};
}

Recompute Transformer::recompute_of(const Execution& run, const ChunkLayers& layers,
                                    std::size_t block) const {
  const bool chosen = run.recompute_layers < 0 ||
                      block - layers.begin < static_cast<std::size_t>(run.recompute_layers);
  return chosen ? run.recompute_mode : Recompute::none;
}

Shape Transformer::residual_shape(const Execution& run, const MicroBatchView& batch) const {
  return {run.tensor.local_rows(batch.rows()), model_.hidden_size};
}

void Transformer::require_whole(const char* what) const {
  require(chunk_count() == 1 && chunk(0).embedding && chunk(0).head && partition_.tensor_size == 1,
          "internal error: {} of a model of which only a part is here", what);
}

namespace {

// Brackets the use of some blocks' weights.
class WeightsInUse {
 public:
  WeightsInUse(BlockObserver* observer, std::span<const int> blocks, bool backward)
      : observer_(observer), blocks_(blocks) {
    if (observer_ == nullptr) return;
    for (const int block : blocks_) observer_->weights_needed(block, backward);
  }
  ~WeightsInUse() {
    if (observer_ == nullptr) return;
    for (const int block : blocks_) observer_->weights_done(block);
  }
  WeightsInUse(const WeightsInUse&) = delete;
  WeightsInUse& operator=(const WeightsInUse&) = delete;

 private:
  BlockObserver* observer_;
  std::span<const int> blocks_;
};

void begin_gradients(const Execution& run, std::span<const int> blocks) {
  if (run.observer == nullptr) return;
  for (const int block : blocks) run.observer->gradients_needed(block);
}

void end_gradients(const Execution& run, std::span<const int> blocks) {
  if (run.observer == nullptr) return;
  for (const int block : blocks) run.observer->gradients_done(block);
}

}  // namespace

// ---- embedding ----------------------------------------------------------------------------------

ConstTensor Transformer::position_table() const {
  if (position_embedding_ < 0) return sinusoids_.tensor;
  const ConstTensor table = store_.weight(position_embedding_);
  return table.slice(model_.opt_pos_emb_offset, table.rows());
}

void Transformer::embed(const Context& ctx, BlockObserver* observer, Tensor y,
                        Norm::Saved& saved) const {
  const WeightsInUse weights(observer, embedding_blocks_, false);
  const ArenaScope scope(ctx.scratch);
  // Each tensor rank looks up its part of the vocabulary; one of them adds the positions.
  const ConstTensor table = ctx.tensor.rank() == 0 ? position_table() : ConstTensor{};
  const Tensor sum = embedding_norm_ ? ctx.keep.take(y.shape, ctx.dtype()) : y;
  const Tensor part = ctx.tensor.partial(ctx.scratch, sum);
  ctx.ops.embedding(ctx.stream, ctx.batch.ids, store_.weight(word_embedding_), vocabulary_.begin,
                    table ? ctx.batch.positions : ConstTensor{}, table, part);
  ctx.tensor.reduce(ctx.stream, part, sum).wait(ctx.stream);
  if (embedding_norm_) embedding_norm_->forward(ctx, sum, y, saved);
  const Dropout dropout = ctx.dropout(model_.hidden_dropout, RngPurpose::embedding_dropout, 0);
  if (dropout.p > 0.0f) ctx.ops.dropout(ctx.stream, y, dropout, y);
}

void Transformer::embed_backward(const Execution& run, const Context& ctx, Tensor dy,
                                 const Norm::Saved& saved) const {
  const ArenaScope scope(ctx.scratch);
  begin_gradients(run, embedding_blocks_);
  const Dropout dropout = ctx.dropout(model_.hidden_dropout, RngPurpose::embedding_dropout, 0);
  if (dropout.p > 0.0f) ctx.ops.dropout(ctx.stream, dy, dropout, dy);
  if (embedding_norm_) {
    const WeightsInUse weights(run.observer, {&embedding_norm_block_, 1}, true);
    const Tensor dsum = ctx.scratch.take(dy.shape, ctx.dtype());
    embedding_norm_->backward(ctx, dy, saved, {}, dsum);
    if (ctx.split_backward()) embedding_norm_->backward_weight(ctx, dy, saved);
    dy = dsum;
  }
  const ConstTensor all = ctx.tensor.gather(ctx.stream, ctx.scratch, dy).wait(ctx.stream);
  const Tensor dwords = store_.grad(word_embedding_);
  // A head that shares the table has written this gradient already.
  const bool written = !head_blocks_.empty() && output_in_embedding();
  if (!store_.accumulates(word_embedding_) && !written) fill_zero(ctx.stream, dwords);
  ctx.ops.embedding_backward(ctx.stream, ctx.batch.ids, all, vocabulary_.begin, dwords);
  if (position_embedding_ >= 0) {
    const Tensor dpositions = store_.grad(position_embedding_);
    if (!store_.accumulates(position_embedding_)) fill_zero(ctx.stream, dpositions);
    ctx.ops.embedding_backward(ctx.stream, ctx.batch.positions, all, 0,
                               dpositions.slice(model_.opt_pos_emb_offset, dpositions.rows()));
  }
  end_gradients(run, embedding_blocks_);
}

// ---- head ---------------------------------------------------------------------------------------

void Transformer::loss_of_rows(const Context& ctx, std::int64_t begin, std::int64_t end,
                               Tensor logits, Tensor losses, Tensor dlogits) const {
  const ConstTensor labels = ctx.batch.labels.slice(begin, end);
  const ConstTensor weights = ctx.batch.weights.slice(begin, end);
  const Tensor part = losses.slice(begin, end);
  if (ctx.tensor.alone()) {
    ctx.ops.cross_entropy(ctx.stream, logits, labels, weights, model_.vocab_size, part, dlogits);
    return;
  }
  const ArenaScope scope(ctx.scratch);
  const std::int64_t valid =
      std::clamp<std::int64_t>(model_.vocab_size - vocabulary_.begin, 0, vocabulary_.size);
  const Tensor mine = ctx.scratch.take({end - begin, 2}, DType::f64);
  const Tensor every = ctx.scratch.take({ctx.tensor.size(), end - begin, 2}, DType::f64);
  ctx.ops.cross_entropy_partial(ctx.stream, logits, labels, weights, vocabulary_.begin, valid,
                                mine);
  ctx.tensor.gather_parts(ctx.stream, mine, every);
  ctx.ops.cross_entropy_combine(ctx.stream, logits, labels, weights, vocabulary_.begin, valid,
                                every, part, dlogits);
}

void Transformer::head_loss(const Execution& run, const Context& ctx, ConstTensor x, Tensor losses,
                            Tensor dx) {
  const bool backward = static_cast<bool>(dx);
  const WeightsInUse weights(run.observer, head_blocks_, backward);
  const ArenaScope scope(ctx.scratch);
  const Tensor normed = ctx.scratch.take(x.shape, ctx.dtype());
  Context temporary = {ctx.ops,     ctx.stream,  ctx.parameters, ctx.tensor,
                       ctx.scratch, ctx.scratch, ctx.scratch,    ctx.batch};
  temporary.norms = ctx.norms;
  Norm::Saved saved;
  final_norm_->forward(temporary, x, normed, saved);
  const ConstTensor u = ctx.tensor.gather(ctx.stream, ctx.scratch, normed).wait(ctx.stream);
  const Tensor du = backward ? ctx.scratch.take(x.shape, ctx.dtype()) : Tensor{};
  const Tensor du_part = backward ? ctx.tensor.partial(ctx.scratch, du) : Tensor{};
  if (backward) begin_gradients(run, head_blocks_);

  const std::int64_t rows = u.rows(), chunk = std::min(run.loss_chunk, rows);
  const Tensor logits = ctx.scratch.take({chunk, vocabulary_.size}, DType::f32);
  const bool in_place = ctx.dtype() == DType::f32;
  const Tensor dlogits = !backward  ? Tensor{}
                         : in_place ? logits
                                    : ctx.scratch.take({chunk, vocabulary_.size}, ctx.dtype());
  const ConstTensor table = store_.weight(output_table());
  const Tensor dtable = backward ? store_.grad(output_table()) : Tensor{};
  for (std::int64_t begin = 0; begin < rows; begin += chunk) {
    const std::int64_t end = std::min(begin + chunk, rows);
    const Tensor z = logits.slice(0, end - begin);
    const Tensor dz = backward ? dlogits.slice(0, end - begin) : Tensor{};
    ctx.ops.linear(ctx.stream, u.slice(begin, end), table, {}, z);
    loss_of_rows(ctx, begin, end, z, losses, dz);
    if (!backward) continue;
    ctx.ops.linear_backward_input(ctx.stream, dz, table, du_part.slice(begin, end), false);
    ctx.ops.linear_backward_weight(ctx.stream, dz, u.slice(begin, end), dtable, {},
                                   store_.accumulates(output_table()) || begin > 0);
  }
  if (!backward) return;
  ctx.tensor.reduce(ctx.stream, du_part, du).wait(ctx.stream);
  final_norm_->backward(temporary, du, saved, {}, dx);
  end_gradients(run, head_blocks_);
}

// ---- training -----------------------------------------------------------------------------------

template <class Work>
void Transformer::run_block(const Execution& run, const MicroBatchView& batch, BlockCall::Part part,
                            std::size_t i, std::size_t at, ChunkPass& pass, ConstTensor input,
                            ConstTensor output, Work&& work) {
  const trace::Range range("layer", blocks_[i].layer());
  if (run.graphs == nullptr) return work();
  BlockCall call;
  call.part = part;
  call.block = i;
  call.batch = batch.batch;
  call.seq = batch.seq;
  call.input = input.data;
  call.output = output.data;
  const ParameterId first = first_parameter_[i];
  call.weights = store_.weight(first).data;
  if (part == BlockCall::Part::backward && !pass.split()) {
    call.gradients = store_.grad(first).data;
    call.accumulates = store_.accumulates(first);
  }
  call.arenas = {&pass.keep, &run.recompute, &run.scratch, pass.gradients};
  call.saved = &pass.saved[at];
  call.block_gradients = &pass.block_gradients[at];
  run.graphs->run(call, work);
}

void Transformer::take_input(const Execution& run, const MicroBatchView& batch,
                             ChunkPass& pass) const {
  pass.input = pass.keep.take(residual_shape(run, batch), store_.compute_dtype());
}

void Transformer::forward(const Execution& run, const MicroBatchView& batch, int chunk,
                          ChunkPass& pass) {
  const ChunkLayers& layers = chunk_layers_.at(static_cast<std::size_t>(chunk));
  const ArenaScope scratch_scope(run.scratch);
  run.tensor.set_purpose(Purpose::tensor_forward);
  const Shape shape = residual_shape(run, batch);
  const std::size_t count = layers.end - layers.begin;
  pass.inputs.resize(count);
  pass.saved.resize(count);
  pass.block_gradients.resize(count);
  if (this->chunk(chunk).embedding) {
    pass.input = pass.keep.take(shape, store_.compute_dtype());
    embed(context(run, batch, true, pass.keep, run.scratch), run.observer, pass.input,
          pass.embedding_norm);
  }
  Tensor x = pass.input;
  for (std::size_t i = layers.begin; i < layers.end; ++i) {
    const std::size_t at = i - layers.begin;
    const WeightsInUse weights(run.observer, {&store_block_[i], 1}, false);
    const Recompute recompute = recompute_of(run, layers, i);
    const Tensor y = pass.keep.take(shape, store_.compute_dtype());
    pass.inputs[at] = x;
    run_block(run, batch, BlockCall::Part::forward, i, at, pass, x, y, [&] {
      if (recompute == Recompute::full) {
        const ArenaScope drop(run.recompute);
        const Context dropped = context(run, batch, true, run.recompute, run.scratch);
        blocks_[i].forward(dropped, rotary_, x, y, pass.saved[at]);
      } else {
        const Context ctx = context(run, batch, true, pass.keep, run.scratch, recompute);
        blocks_[i].forward(ctx, rotary_, x, y, pass.saved[at]);
      }
    });
    x = y;
  }
  pass.output = x;
}

void Transformer::backward(const Execution& run, const MicroBatchView& batch, int chunk,
                           ChunkPass& pass, Tensor losses) {
  const ChunkLayers& layers = chunk_layers_.at(static_cast<std::size_t>(chunk));
  const ArenaScope scratch_scope(run.scratch), recompute_scope(run.recompute);
  run.tensor.set_purpose(Purpose::tensor_backward);
  const Shape shape = residual_shape(run, batch);
  Arena& gradients = pass.split() ? *pass.gradients : run.scratch;
  if (this->chunk(chunk).head) {
    pass.output_gradient = pass.keep.take(shape, store_.compute_dtype());
    head_loss(run, context(run, batch, true, pass.keep, gradients), pass.output, losses,
              pass.output_gradient);
  }
  Tensor gradient = pass.output_gradient;
  for (std::size_t i = layers.end; i-- > layers.begin;) {
    const std::size_t at = i - layers.begin;
    const WeightsInUse weights(run.observer, {&store_block_[i], 1}, true);
    const Recompute recompute = recompute_of(run, layers, i);
    const Tensor dx = pass.split() ? pass.gradients->take(shape, store_.compute_dtype()) : gradient;
    // What is computed again must wait for the weight gradients too.
    Arena& again_keep = pass.split() ? *pass.gradients : run.recompute;
    const std::size_t mark = again_keep.mark();
    if (recompute == Recompute::full) {
      const ArenaScope output(run.scratch);
      const Tensor y = run.scratch.take(shape, store_.compute_dtype());
      run_block(run, batch, BlockCall::Part::again, i, at, pass, pass.inputs[at], y, [&] {
        const Context again = context(run, batch, true, again_keep, run.scratch);
        blocks_[i].forward(again, rotary_, pass.inputs[at], y, pass.saved[at]);
      });
    }
    const Context ctx = context(run, batch, true, pass.keep, gradients, recompute);
    if (!pass.split()) begin_gradients(run, {&store_block_[i], 1});
    run_block(run, batch, BlockCall::Part::backward, i, at, pass, gradient, dx, [&] {
      blocks_[i].backward(ctx, rotary_, gradient, pass.saved[at], dx, pass.block_gradients[at]);
    });
    if (!pass.split()) {
      again_keep.release(mark);
      end_gradients(run, {&store_block_[i], 1});
    }
    gradient = dx;
  }
  pass.input_gradient = gradient;
  if (this->chunk(chunk).embedding && !pass.split()) {
    embed_backward(run, context(run, batch, true, pass.keep, gradients), gradient,
                   pass.embedding_norm);
  }
}

void Transformer::backward_weight(const Execution& run, const MicroBatchView& batch, int chunk,
                                  ChunkPass& pass) {
  if (!pass.split()) return;
  const ChunkLayers& layers = chunk_layers_.at(static_cast<std::size_t>(chunk));
  const ArenaScope scratch_scope(run.scratch);
  run.tensor.set_purpose(Purpose::tensor_backward);
  for (std::size_t i = layers.end; i-- > layers.begin;) {
    const std::size_t at = i - layers.begin;
    const Recompute recompute = recompute_of(run, layers, i);
    // Outputs of norms that are computed again need the norms' weights.
    const WeightsInUse weights(recompute == Recompute::selective ? run.observer : nullptr,
                               {&store_block_[i], 1}, true);
    const Context ctx = context(run, batch, true, pass.keep, *pass.gradients, recompute);
    begin_gradients(run, {&store_block_[i], 1});
    blocks_[i].backward_weight(ctx, pass.saved[at], pass.block_gradients[at]);
    end_gradients(run, {&store_block_[i], 1});
  }
  if (this->chunk(chunk).embedding) {
    embed_backward(run, context(run, batch, true, pass.keep, *pass.gradients), pass.input_gradient,
                   pass.embedding_norm);
  }
}

void Transformer::forward_backward(const Execution& run, const MicroBatchView& batch,
                                   ChunkPass& pass, Tensor losses) {
  forward(run, batch, 0, pass);
  backward(run, batch, 0, pass, losses);
  backward_weight(run, batch, 0, pass);
  pass.clear();
}

// ---- no dropout, nothing kept -------------------------------------------------------------------

ConstTensor Transformer::forward_only(const Context& ctx, BlockObserver* observer, int chunk,
                                      ConstTensor input, std::vector<Tensor>* residuals) {
  const ChunkLayers& layers = chunk_layers_.at(static_cast<std::size_t>(chunk));
  const Shape shape{ctx.local_rows(), model_.hidden_size};
  Tensor y = ctx.keep.take(shape, ctx.dtype()), other = ctx.keep.take(shape, ctx.dtype());
  ConstTensor x = input;
  if (this->chunk(chunk).embedding) {
    Norm::Saved unused;
    embed(ctx, observer, other, unused);
    x = other;
  }
  for (std::size_t i = layers.begin; i < layers.end; ++i) {
    const WeightsInUse weights(observer, {&store_block_[i], 1}, false);
    const ArenaScope drop(ctx.keep);
    blocks_[i].forward(ctx, rotary_, x, y, unkept_[i]);
    x = y;
    std::swap(y, other);  // the next block may overwrite this one's input
    if (residuals != nullptr) copy(ctx.stream, x, (*residuals)[i]);
  }
  return x;
}

void Transformer::evaluate(const Execution& run, const MicroBatchView& batch, int chunk,
                           ConstTensor input, Tensor output, Tensor losses) {
  const ArenaScope keep_scope(run.keep), scratch_scope(run.scratch);
  run.tensor.set_purpose(Purpose::tensor_forward);
  const Context ctx = context(run, batch, false, run.keep, run.scratch);
  const ConstTensor x = forward_only(ctx, run.observer, chunk, input, nullptr);
  if (this->chunk(chunk).head) {
    head_loss(run, ctx, x, losses, {});
  } else {
    copy(run.stream, x, output);
  }
}

void Transformer::logits(const Execution& run, const MicroBatchView& batch, Tensor out,
                         std::vector<Tensor>* residuals) {
  require_whole("logits");
  const ArenaScope keep_scope(run.keep), scratch_scope(run.scratch);
  const Context ctx = context(run, batch, false, run.keep, run.scratch);
  const ConstTensor x = forward_only(ctx, nullptr, 0, {}, residuals);
  const Tensor normed = run.scratch.take(x.shape, ctx.dtype());
  Norm::Saved unused;
  final_norm_->forward(ctx, x, normed, unused);
  run.ops.linear(run.stream, normed, store_.weight(output_table()), {}, out);
}

void Transformer::next_token_logits(const Execution& run, const MicroBatchView& batch,
                                    std::vector<KvCache>& caches, Tensor out) {
  require_whole("next_token_logits");
  require(caches.size() == blocks_.size(), "internal error: {} KV caches for {} layers",
          caches.size(), blocks_.size());
  const ArenaScope keep_scope(run.keep), scratch_scope(run.scratch);
  const Context ctx = context(run, batch, false, run.keep, run.scratch);
  const Shape shape{batch.rows(), model_.hidden_size};
  Tensor x = run.keep.take(shape, ctx.dtype()), y = run.keep.take(shape, ctx.dtype());
  Norm::Saved unused;
  embed(ctx, nullptr, x, unused);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    blocks_[i].forward_cached(ctx, rotary_, x, y, caches[i]);
    std::swap(x, y);
  }
  // Only the last position of each sequence goes through the output layer.
  const Tensor last = run.scratch.take({batch.batch, model_.hidden_size}, ctx.dtype());
  for (std::int64_t b = 0; b < batch.batch; ++b) {
    copy(run.stream, x.slice((b + 1) * batch.seq - 1, (b + 1) * batch.seq), last.slice(b, b + 1));
  }
  const Tensor normed = run.scratch.take(last.shape, ctx.dtype());
  final_norm_->forward(ctx, last, normed, unused);
  run.ops.linear(run.stream, normed, store_.weight(output_table()), {}, out);
}

// ---- sizes --------------------------------------------------------------------------------------

std::int64_t count_parameters(const ModelConfig& model) {
  return Transformer(model).parameters().parameter_count();
}

double flops_per_token(const ModelConfig& model, std::int64_t seq) {
  const Transformer whole(model);
  const ParameterStore& store = whole.parameters();
  std::int64_t parameters = 0;
  for (ParameterId id = 0; id < store.size(); ++id) {
    const std::string& name = store.spec(id).name;
    const bool table =
        name == "embed_positions.weight" || (name == "embed_in.weight" && model.no_weight_tying);
    if (!table) parameters += store.spec(id).global.numel();
  }
  const double attention = 12.0 * static_cast<double>(model.num_layers) *
                           static_cast<double>(model.hidden_size) * static_cast<double>(seq);
  return 6.0 * static_cast<double>(parameters) + attention;
}

}  // namespace neox
