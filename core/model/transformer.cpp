#include "core/model/transformer.h"

#include <algorithm>

namespace neox {
namespace {

class NoObserver final : public BlockObserver {
 public:
  void weights_needed(int, bool) override {}
  void weights_done(int) override {}
  void gradients_needed(int) override {}
  void gradients_done(int) override {}
};

NoObserver nobody;

}  // namespace

Transformer::Transformer(const ModelConfig& model) : model_(model) {
  check();
  const std::int64_t vocab = model_.padded_vocab_size(), h = model_.hidden_size;
  const auto table = [&](const std::string& name, std::int64_t rows) {
    const Shape shape{rows, h};
    return store_.add(
        {name, shape, Slice::whole(shape), {InitRule::Kind::random, model_.init_method}, true});
  };
  store_.begin_block("embedding");
  word_embedding_ = table("embed_in.weight", vocab);
  if (model_.pos_emb == PositionEmbedding::learned) {
    position_embedding_ = table("embed_positions.weight", model_.max_position_embeddings);
  }
  for (int layer = 0; layer < model_.num_layers; ++layer) {
    store_.begin_block(fmt::format("layers.{}", layer));
    blocks_.emplace_back(store_, model_, layer);
  }
  store_.begin_block("head");
  final_norm_.emplace(store_, "final_layer_norm", model_);
  if (model_.no_weight_tying) {
    output_ = table("embed_out.weight", vocab);
  } else {
    store_.share(word_embedding_);
  }
  saved_.resize(blocks_.size());
  inputs_.resize(blocks_.size() + 1);
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
  if (model_.pos_emb == PositionEmbedding::rotary && !dry_run) {
    rotary_ = RotaryTables(model_.max_position_embeddings, model_.rotary_dim(),
                           model_.rotary_emb_base, ops.device(), stream);
  }
}

Context Transformer::context(const Execution& run, const MicroBatchView& batch, bool training,
                             Arena& keep) const {
  require(batch.seq <= model_.max_position_embeddings,
          "a sequence of {} tokens exceeds max_position_embeddings = {}", batch.seq,
          model_.max_position_embeddings);
  return {run.ops,  run.stream,     store_,           keep,    run.scratch, batch,
          training, run.accumulate, run.dropout_seed, run.step};
}

ConstTensor Transformer::output_weight() const {
  return store_.weight(output_ < 0 ? word_embedding_ : output_);
}

void Transformer::embed(const Context& ctx, Tensor y) const {
  const bool learned = position_embedding_ >= 0;
  ctx.ops.embedding(ctx.stream, ctx.batch.ids, store_.weight(word_embedding_), 0,
                    learned ? ctx.batch.positions : ConstTensor{},
                    learned ? ConstTensor(store_.weight(position_embedding_)) : ConstTensor{}, y);
  const Dropout dropout = ctx.dropout(model_.hidden_dropout, RngPurpose::embedding_dropout, 0);
  if (dropout.p > 0.0f) ctx.ops.dropout(ctx.stream, y, dropout, y);
}

void Transformer::embed_backward(const Context& ctx, Tensor dy) const {
  const Dropout dropout = ctx.dropout(model_.hidden_dropout, RngPurpose::embedding_dropout, 0);
  if (dropout.p > 0.0f) ctx.ops.dropout(ctx.stream, dy, dropout, dy);
  const Tensor dwords = store_.grad(word_embedding_);
  // With tied weights the output layer has written this gradient already.
  if (!ctx.accumulates(word_embedding_) && output_ >= 0) fill_zero(ctx.stream, dwords);
  ctx.ops.embedding_backward(ctx.stream, ctx.batch.ids, dy, 0, dwords);
  if (position_embedding_ >= 0) {
    const Tensor dpositions = store_.grad(position_embedding_);
    if (!ctx.accumulates(position_embedding_)) fill_zero(ctx.stream, dpositions);
    ctx.ops.embedding_backward(ctx.stream, ctx.batch.positions, dy, 0, dpositions);
  }
}

void Transformer::head_loss(const Context& ctx, ConstTensor x, std::int64_t chunk, Tensor losses,
                            Tensor dx) {
  const ArenaScope scope(ctx.scratch);
  const std::int64_t rows = x.rows(), vocab = model_.padded_vocab_size();
  const bool backward = static_cast<bool>(dx);
  chunk = std::min(chunk, rows);
  Norm::Saved saved;
  const Tensor u = ctx.scratch.take(x.shape, ctx.dtype());
  final_norm_->forward(ctx, x, u, saved);
  const Tensor du = backward ? ctx.scratch.take(x.shape, ctx.dtype()) : Tensor{};
  const Tensor logits = ctx.scratch.take({chunk, vocab}, DType::f32);
  const bool in_place = ctx.dtype() == DType::f32;
  const Tensor dlogits = !backward  ? Tensor{}
                         : in_place ? logits
                                    : ctx.scratch.take({chunk, vocab}, ctx.dtype());
  const ConstTensor weight = output_weight();
  const ParameterId output = output_ < 0 ? word_embedding_ : output_;
  const Tensor dweight = backward ? store_.grad(output) : Tensor{};
  for (std::int64_t begin = 0; begin < rows; begin += chunk) {
    const std::int64_t end = std::min(begin + chunk, rows);
    const Tensor z = logits.slice(0, end - begin);
    const Tensor dz = backward ? dlogits.slice(0, end - begin) : Tensor{};
    ctx.ops.linear(ctx.stream, u.slice(begin, end), weight, {}, z);
    ctx.ops.cross_entropy(ctx.stream, z, ctx.batch.labels.slice(begin, end),
                          ctx.batch.weights.slice(begin, end), model_.vocab_size,
                          losses.slice(begin, end), dz);
    if (!backward) continue;
    ctx.ops.linear_backward_input(ctx.stream, dz, weight, du.slice(begin, end), false);
    ctx.ops.linear_backward_weight(ctx.stream, dz, u.slice(begin, end), dweight, {},
                                   ctx.accumulates(output) || begin > 0);
  }
  if (backward) final_norm_->backward(ctx, du, saved, {}, dx);
}

void Transformer::forward_backward(const Execution& run, const MicroBatchView& batch, Tensor losses,
                                   BlockObserver* observer) {
  BlockObserver& tell = observer != nullptr ? *observer : nobody;
  const ArenaScope keep_scope(run.keep), scratch_scope(run.scratch);
  const Context ctx = context(run, batch, true, run.keep);
  const Shape shape{batch.rows(), model_.hidden_size};
  Tensor x = run.keep.take(shape, ctx.dtype());
  tell.weights_needed(0, false);
  embed(ctx, x);
  tell.weights_done(0);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const int block = static_cast<int>(i) + 1;
    tell.weights_needed(block, false);
    inputs_[i] = x;
    const Tensor y = run.keep.take(shape, ctx.dtype());
    if (run.recompute_blocks) {
      const ArenaScope drop(run.recompute);
      const Context dropped = context(run, batch, true, run.recompute);
      blocks_[i].forward(dropped, rotary_, x, y, saved_[i]);
    } else {
      blocks_[i].forward(ctx, rotary_, x, y, saved_[i]);
    }
    tell.weights_done(block);
    x = y;
  }

  const int head = store_.block_count() - 1;
  const Tensor gradient = run.scratch.take(shape, ctx.dtype());
  tell.weights_needed(head, false);
  tell.gradients_needed(head);
  head_loss(ctx, x, run.loss_chunk, losses, gradient);
  tell.gradients_done(head);
  tell.weights_done(head);
  for (std::size_t i = blocks_.size(); i-- > 0;) {
    const int block = static_cast<int>(i) + 1;
    tell.weights_needed(block, true);
    tell.gradients_needed(block);
    if (run.recompute_blocks) {
      const ArenaScope drop(run.recompute), output(run.scratch);
      const Context again = context(run, batch, true, run.recompute);
      blocks_[i].forward(again, rotary_, inputs_[i], run.scratch.take(shape, ctx.dtype()),
                         saved_[i]);
      blocks_[i].backward(again, rotary_, gradient, saved_[i], gradient);
    } else {
      blocks_[i].backward(ctx, rotary_, gradient, saved_[i], gradient);
    }
    tell.gradients_done(block);
    tell.weights_done(block);
  }
  tell.gradients_needed(0);
  embed_backward(ctx, gradient);
  tell.gradients_done(0);
}

Tensor Transformer::forward_only(const Context& ctx, std::vector<Tensor>* residuals,
                                 BlockObserver& observer) {
  const Shape shape{ctx.batch.rows(), model_.hidden_size};
  Tensor x = ctx.keep.take(shape, ctx.dtype()), y = ctx.keep.take(shape, ctx.dtype());
  observer.weights_needed(0, false);
  embed(ctx, x);
  observer.weights_done(0);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const ArenaScope drop(ctx.keep);
    const int block = static_cast<int>(i) + 1;
    observer.weights_needed(block, false);
    blocks_[i].forward(ctx, rotary_, x, y, saved_[i]);
    observer.weights_done(block);
    std::swap(x, y);
    if (residuals != nullptr) copy(ctx.stream, x, (*residuals)[i]);
  }
  return x;
}

void Transformer::evaluate(const Execution& run, const MicroBatchView& batch, Tensor losses,
                           BlockObserver* observer) {
  BlockObserver& tell = observer != nullptr ? *observer : nobody;
  const ArenaScope keep_scope(run.keep);
  const Context ctx = context(run, batch, false, run.keep);
  const Tensor x = forward_only(ctx, nullptr, tell);
  const int head = store_.block_count() - 1;
  tell.weights_needed(head, false);
  head_loss(ctx, x, run.loss_chunk, losses, {});
  tell.weights_done(head);
}

void Transformer::logits(const Execution& run, const MicroBatchView& batch, Tensor out,
                         std::vector<Tensor>* residuals) {
  const ArenaScope keep_scope(run.keep), scratch_scope(run.scratch);
  const Context ctx = context(run, batch, false, run.keep);
  const Tensor x = forward_only(ctx, residuals, nobody);
  const Tensor normed = run.scratch.take(x.shape, ctx.dtype());
  Norm::Saved unused;
  final_norm_->forward(ctx, x, normed, unused);
  run.ops.linear(run.stream, normed, output_weight(), {}, out);
}

void Transformer::next_token_logits(const Execution& run, const MicroBatchView& batch,
                                    std::vector<KvCache>& caches, Tensor out) {
  require(caches.size() == blocks_.size(), "internal error: {} KV caches for {} layers",
          caches.size(), blocks_.size());
  const ArenaScope keep_scope(run.keep), scratch_scope(run.scratch);
  const Context ctx = context(run, batch, false, run.keep);
  const Shape shape{batch.rows(), model_.hidden_size};
  Tensor x = run.keep.take(shape, ctx.dtype()), y = run.keep.take(shape, ctx.dtype());
  embed(ctx, x);
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
  Norm::Saved unused;
  final_norm_->forward(ctx, last, normed, unused);
  run.ops.linear(run.stream, normed, output_weight(), {}, out);
}

double Transformer::flops_per_token(std::int64_t seq) const {
  std::int64_t parameters = 0;
  for (ParameterId id = 0; id < store_.size(); ++id) {
    if (id != word_embedding_ && id != position_embedding_) {
      parameters += store_.spec(id).global.numel();
    }
  }
  if (output_ < 0) parameters += store_.spec(word_embedding_).global.numel();
  const double attention = 12.0 * static_cast<double>(model_.num_layers) *
                           static_cast<double>(model_.hidden_size) * static_cast<double>(seq);
  return 6.0 * static_cast<double>(parameters) + attention;
}

}  // namespace neox
