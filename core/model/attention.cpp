#include <cmath>
#include <vector>

#include "core/config/attention_kinds.h"
#include "core/model/block_patterns.h"
#include "core/model/layers.h"
#include "core/model/rotary_frequencies.h"

namespace neox {
namespace {

// With one K/V head per query head, the projection is GPT-NeoX's fused query_key_value, rows
// grouped per head as [q, k, v]. Grouped-query models keep three tensors, adjacent in memory, so
// that any split by heads is a plain slice of each.
bool fused_per_head(const ModelConfig& model) {
  return model.num_kv_heads == model.num_attention_heads;
}

std::vector<Linear::Part> projection_parts(const std::string& name, const ModelConfig& model,
                                           const HeadPartition& held) {
  const std::int64_t d = model.head_dim();
  const auto rows = [&](AxisRange heads, std::int64_t rows_per_head) {
    return AxisRange{heads.begin * rows_per_head, heads.size * rows_per_head};
  };
  if (fused_per_head(model)) {
    return {
        {name + ".query_key_value", 3 * model.num_attention_heads * d, rows(held.query, 3 * d)}};
  }
  const std::int64_t kv_rows = model.num_kv_heads * d;
  const AxisRange key_value = rows(held.key_value, d);
  return {{name + ".query", model.num_attention_heads * d, rows(held.query, d)},
          {name + ".key", kv_rows, key_value, held.key_value_holders},
          {name + ".value", kv_rows, key_value, held.key_value_holders}};
}

}  // namespace

RotaryTables::RotaryTables(const ModelConfig& model, Device device, Stream& stream, bool dry_run)
    : cos({model.max_position_embeddings, model.rotary_dim() / 2}, DType::f32, device, dry_run),
      sin({model.max_position_embeddings, model.rotary_dim() / 2}, DType::f32, device, dry_run) {
  if (dry_run) return;
  const RotaryFrequencies frequencies = rotary_frequencies(model);
  std::vector<float> host_cos, host_sin;
  for (std::int64_t p = 0; p < model.max_position_embeddings; ++p) {
    for (const double per_position : frequencies.angle) {
      const double angle = static_cast<double>(p) * per_position;
      host_cos.push_back(static_cast<float>(frequencies.amplitude * std::cos(angle)));
      host_sin.push_back(static_cast<float>(frequencies.amplitude * std::sin(angle)));
    }
  }
  copy(stream, host_view(host_cos), cos);
  copy(stream, host_view(host_sin), sin);
  stream.synchronize();
}

namespace {

std::optional<Norm> head_norm(ParameterStore& store, const std::string& name,
                              const ModelConfig& model, const ModelPartition& partition) {
  if (!model.use_qk_layernorm) return std::nullopt;
  const NormKind kind = model.norm == NormKind::rmsnorm ? NormKind::rmsnorm : NormKind::layernorm;
  // Each tensor rank sees its own heads only.
  return Norm(store, name, model, kind, model.head_dim(), partition, GradientSum::tensor);
}

}  // namespace

Attention::Attention(ParameterStore& store, const std::string& name, const ModelConfig& model,
                     const ModelPartition& partition, int layer)
    : partition_(partition_heads(model, partition)),
      heads_(partition_.query.size),
      kv_heads_(partition_.key_value.size),
      global_heads_(model.num_attention_heads),
      head_dim_(model.head_dim()),
      rotary_(model.pos_emb == PositionEmbedding::rotary),
      alibi_(model.pos_emb == PositionEmbedding::alibi),
      fused_per_head_(fused_per_head(model)),
      layer_(layer),
      kind_(attention_kinds(model)[static_cast<std::size_t>(layer)]),
      window_(model.sliding_window_width),
      dropout_(model.attention_dropout),
      qkv_(store, projection_parts(name, model, partition_), model.hidden_size,
           model.has_qkv_bias(), model.init_method, partition),
      dense_(store, name + ".dense", model.hidden_size, global_heads_ * head_dim_,
             {partition_.query.begin * head_dim_, heads_ * head_dim_},
             model.use_bias_in_attn_linear, model.output_layer_init_method, partition),
      q_norm_(head_norm(store, name + ".query_layernorm", model, partition)),
      k_norm_(head_norm(store, name + ".key_layernorm", model, partition)) {}

Attention::Offsets Attention::offsets() const {
  if (fused_per_head_) return {0, head_dim_, 2 * head_dim_, 3 * head_dim_};
  return {0, heads_ * head_dim_, (heads_ + kv_heads_) * head_dim_, head_dim_};
}

AttentionProblem Attention::problem(const Context& ctx, std::int64_t key_length) const {
  AttentionProblem p;
  p.batch = ctx.batch.batch;
  p.query_length = ctx.batch.seq;
  p.key_length = key_length;
  p.heads = heads_;
  p.kv_heads = kv_heads_;
  if (alibi_) p.alibi = {partition_.query.begin, global_heads_};
  p.head_dim = head_dim_;
  p.scale = 1.0f / std::sqrt(static_cast<float>(head_dim_));
  p.mask.documents = ctx.batch.documents;
  if (kind_ == AttentionKind::window) p.mask.window = window_;
  if (is_sparse(kind_)) p.mask.pattern = ctx.patterns->of(kind_);
  if (ctx.training && dropout_ > 0.0) {
    p.dropout = {static_cast<float>(dropout_),
                 ctx.dropout_key(RngPurpose::attention_dropout, layer_),
                 ctx.batch.first_sample,
                 partition_.query.begin,
                 global_heads_,
                 ctx.dropout_position};
  }
  return p;
}

Attention::QueryKeyValue Attention::heads_of(const Context& ctx, Tensor qkv) const {
  const auto at = offsets();
  const auto heads = [&](std::int64_t offset) {
    return Heads(qkv, ctx.batch.seq, offset, at.head_stride);
  };
  return {heads(at.q), heads(at.k), heads(at.v)};
}

void Attention::rotate(const Context& ctx, const RotaryTables& rotary, const QueryKeyValue& heads,
                       bool inverse) const {
  if (!rotary_) return;
  const auto& b = ctx.batch;
  ctx.ops.rotary(ctx.stream, heads.q, b.batch, b.seq, heads_, b.positions, rotary.cos, rotary.sin,
                 inverse);
  ctx.ops.rotary(ctx.stream, heads.k, b.batch, b.seq, kv_heads_, b.positions, rotary.cos,
                 rotary.sin, inverse);
}

// ---- QK-norm ------------------------------------------------------------------------------------

Tensor Attention::packed(const Context& ctx, ConstHeads from, std::int64_t heads) const {
  const auto& b = ctx.batch;
  const Tensor x = ctx.scratch.take({b.rows(), heads * head_dim_}, ctx.dtype());
  ctx.ops.copy_heads(ctx.stream, from, Heads(x, b.seq, 0, head_dim_), b.batch, b.seq, heads,
                     head_dim_);
  return x.reshape({b.rows() * heads, head_dim_});
}

Tensor Attention::normalise(const Context& ctx, const Norm& norm, ConstHeads from,
                            std::int64_t heads, Arena& arena, Norm::Saved& saved) const {
  const Tensor y = arena.take({ctx.batch.rows(), heads * head_dim_}, ctx.dtype());
  const ArenaScope scope(ctx.scratch);
  norm.forward(ctx, packed(ctx, from, heads), y.reshape({ctx.batch.rows() * heads, head_dim_}),
               saved);
  saved.x = {};  // packed again in backward
  return y;
}

Attention::QueryKeyValue Attention::normalised(const Context& ctx, Tensor qkv, Arena& arena,
                                               Saved& saved) const {
  QueryKeyValue heads = heads_of(ctx, qkv);
  if (!q_norm_) return heads;
  const Tensor q = normalise(ctx, *q_norm_, heads.q, heads_, arena, saved.q_norm);
  const Tensor k = normalise(ctx, *k_norm_, heads.k, kv_heads_, arena, saved.k_norm);
  saved.q = q;
  saved.k = k;
  heads.q = Heads(q, ctx.batch.seq, 0, head_dim_);
  heads.k = Heads(k, ctx.batch.seq, 0, head_dim_);
  return heads;
}

void Attention::norm_backward(const Context& ctx, const Norm& norm, ConstTensor dy, ConstHeads x,
                              Heads dx, std::int64_t heads, const Norm::Saved& saved) const {
  const ArenaScope scope(ctx.scratch);
  const auto& b = ctx.batch;
  const Shape shape{b.rows() * heads, head_dim_};
  const Tensor gradient = ctx.scratch.take(shape, ctx.dtype());
  norm.backward(ctx, dy.reshape(shape), {packed(ctx, x, heads), saved.mean, saved.rstd}, {},
                gradient);
  const Tensor rows = gradient.reshape({b.rows(), heads * head_dim_});
  ctx.ops.copy_heads(ctx.stream, Heads(rows, b.seq, 0, head_dim_), dx, b.batch, b.seq, heads,
                     head_dim_);
}

// ---- forward and backward -----------------------------------------------------------------------

void Attention::forward(const Context& ctx, const RotaryTables& rotary, ConstTensor u, Tensor y,
                        Saved& saved) const {
  const auto& b = ctx.batch;
  const Tensor qkv = ctx.keep.take({b.rows(), qkv_.out()}, ctx.dtype());
  const Tensor out = ctx.keep.take({b.rows(), heads_ * head_dim_}, ctx.dtype());
  const Tensor lse = ctx.keep.take({b.batch, heads_, b.seq}, DType::f32);
  qkv_.forward(ctx, u, qkv);
  const QueryKeyValue heads = normalised(ctx, qkv, ctx.keep, saved);
  rotate(ctx, rotary, heads, false);
  ctx.ops.attention(ctx.stream, problem(ctx, b.seq), heads.q, heads.k, heads.v, out, lse);
  dense_.forward(ctx, out, y);
  saved.qkv = qkv;
  saved.out = out;
  saved.lse = lse;
}

void Attention::forward_cached(const Context& ctx, const RotaryTables& rotary, ConstTensor u,
                               Tensor y, KvCache& cache) const {
  const ArenaScope scope(ctx.scratch);
  const auto& b = ctx.batch;
  const Tensor qkv = ctx.scratch.take({b.rows(), qkv_.out()}, ctx.dtype());
  const Tensor out = ctx.scratch.take({b.rows(), heads_ * head_dim_}, ctx.dtype());
  const Tensor lse = ctx.scratch.take({b.batch, heads_, b.seq}, DType::f32);
  qkv_.forward(ctx, u, qkv);
  Saved unused;
  const QueryKeyValue heads = normalised(ctx, qkv, ctx.scratch, unused);
  rotate(ctx, rotary, heads, false);
  const std::int64_t capacity = cache.keys.shape[1];
  require(cache.length + b.seq <= capacity, "internal error: the KV cache holds {} positions",
          capacity);
  const auto cached = [&](const Tensor& t, std::int64_t first_position) {
    return Heads(t.reshape({b.batch * capacity, kv_heads_ * head_dim_}), capacity,
                 first_position * kv_heads_ * head_dim_, head_dim_);
  };
  ctx.ops.copy_heads(ctx.stream, heads.k, cached(cache.keys, cache.length), b.batch, b.seq,
                     kv_heads_, head_dim_);
  ctx.ops.copy_heads(ctx.stream, heads.v, cached(cache.values, cache.length), b.batch, b.seq,
                     kv_heads_, head_dim_);
  cache.length += b.seq;
  ctx.ops.attention(ctx.stream, problem(ctx, cache.length), heads.q, cached(cache.keys, 0),
                    cached(cache.values, 0), out, lse);
  dense_.forward(ctx, out, y);
}

void Attention::backward_input(const Context& ctx, const RotaryTables& rotary, ConstTensor dy,
                               const Saved& saved, Tensor du, bool accumulate_du,
                               Gradients& gradients) const {
  const auto& b = ctx.batch;
  const auto at = offsets();
  const AttentionProblem p = problem(ctx, b.seq);
  const Tensor dqkv = ctx.gradients.take(saved.qkv.shape, ctx.dtype());
  const auto saved_heads = [&](std::int64_t offset) {
    return ConstHeads(saved.qkv, b.seq, offset, at.head_stride);
  };
  const QueryKeyValue into = heads_of(ctx, dqkv);
  QueryKeyValue grads = into;  // of what attention was given
  ConstHeads q = saved_heads(at.q), k = saved_heads(at.k);
  gradients = {dy, dqkv, {}, {}};
  if (q_norm_) {
    const Tensor dq = ctx.gradients.take(saved.q.shape, ctx.dtype());
    const Tensor dk = ctx.gradients.take(saved.k.shape, ctx.dtype());
    gradients.q = dq;
    gradients.k = dk;
    grads.q = Heads(dq, b.seq, 0, head_dim_);
    grads.k = Heads(dk, b.seq, 0, head_dim_);
    q = ConstHeads(saved.q, b.seq, 0, head_dim_);
    k = ConstHeads(saved.k, b.seq, 0, head_dim_);
  }
  {
    const ArenaScope scope(ctx.scratch);
    const Tensor dout = ctx.scratch.take(saved.out.shape, ctx.dtype());
    dense_.backward_input(ctx, dy, dout, false);
    const Tensor workspace = ctx.scratch.take(
        {static_cast<std::int64_t>(ctx.ops.attention_backward_workspace(p, ctx.dtype()))},
        DType::u8);
    ctx.ops.attention_backward(ctx.stream, p, q, k, saved_heads(at.v), saved.out, saved.lse, dout,
                               grads.q, grads.k, grads.v, workspace);
  }
  rotate(ctx, rotary, grads, true);
  if (q_norm_) {
    norm_backward(ctx, *q_norm_, gradients.q, saved_heads(at.q), into.q, heads_, saved.q_norm);
    norm_backward(ctx, *k_norm_, gradients.k, saved_heads(at.k), into.k, kv_heads_, saved.k_norm);
  }
  qkv_.backward_input(ctx, dqkv, du, accumulate_du);
}

void Attention::backward_weight(const Context& ctx, ConstTensor u, const Saved& saved,
                                const Gradients& gradients) const {
  dense_.backward_weight(ctx, gradients.y, saved.out);
  qkv_.backward_weight(ctx, gradients.qkv, u);
  if (!q_norm_ || !ctx.split_backward()) return;  // else done with the input's gradient
  const auto at = offsets();
  const auto add = [&](const Norm& norm, std::int64_t offset, std::int64_t heads, ConstTensor dy,
                       const Norm::Saved& of) {
    const ArenaScope scope(ctx.scratch);
    const Tensor x =
        packed(ctx, ConstHeads(saved.qkv, ctx.batch.seq, offset, at.head_stride), heads);
    norm.backward_weight(ctx, dy.reshape(x.shape), {x, of.mean, of.rstd});
  };
  add(*q_norm_, at.q, heads_, gradients.q, saved.q_norm);
  add(*k_norm_, at.k, kv_heads_, gradients.k, saved.k_norm);
}

}  // namespace neox
