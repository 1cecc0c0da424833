#include <cmath>
#include <vector>

#include "core/model/layers.h"

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

RotaryTables::RotaryTables(std::int64_t max_position, std::int64_t rotary_dim, double base,
                           Device device, Stream& stream, bool dry_run)
    : cos({max_position, rotary_dim / 2}, DType::f32, device, dry_run),
      sin({max_position, rotary_dim / 2}, DType::f32, device, dry_run) {
  if (dry_run) return;
  const std::int64_t half = rotary_dim / 2;
  std::vector<float> host_cos(static_cast<std::size_t>(max_position * half));
  std::vector<float> host_sin(host_cos.size());
  for (std::int64_t p = 0; p < max_position; ++p) {
    for (std::int64_t i = 0; i < half; ++i) {
      const double angle =
          static_cast<double>(p) *
          std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim));
      const auto at = static_cast<std::size_t>(p * half + i);
      host_cos[at] = static_cast<float>(std::cos(angle));
      host_sin[at] = static_cast<float>(std::sin(angle));
    }
  }
  copy(stream, host_view(host_cos), cos);
  copy(stream, host_view(host_sin), sin);
  stream.synchronize();
}

Attention::Attention(ParameterStore& store, const std::string& name, const ModelConfig& model,
                     const ModelPartition& partition, int layer)
    : partition_(partition_heads(model, partition)),
      heads_(partition_.query.size),
      kv_heads_(partition_.key_value.size),
      global_heads_(model.num_attention_heads),
      head_dim_(model.head_dim()),
      rotary_(model.pos_emb == PositionEmbedding::rotary),
      fused_per_head_(fused_per_head(model)),
      layer_(layer),
      dropout_(model.attention_dropout),
      qkv_(store, projection_parts(name, model, partition_), model.hidden_size,
           model.has_qkv_bias(), model.init_method, partition),
      dense_(store, name + ".dense", model.hidden_size, global_heads_ * head_dim_,
             {partition_.query.begin * head_dim_, heads_ * head_dim_},
             model.use_bias_in_attn_linear, model.output_layer_init_method, partition) {}

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
  p.head_dim = head_dim_;
  p.scale = 1.0f / std::sqrt(static_cast<float>(head_dim_));
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

void Attention::rotate(const Context& ctx, const RotaryTables& rotary, Tensor qkv,
                       bool inverse) const {
  if (!rotary_) return;
  const auto at = offsets();
  const auto& b = ctx.batch;
  ctx.ops.rotary(ctx.stream, Heads(qkv, b.seq, at.q, at.head_stride), b.batch, b.seq, heads_,
                 b.positions, rotary.cos, rotary.sin, inverse);
  ctx.ops.rotary(ctx.stream, Heads(qkv, b.seq, at.k, at.head_stride), b.batch, b.seq, kv_heads_,
                 b.positions, rotary.cos, rotary.sin, inverse);
}

void Attention::forward(const Context& ctx, const RotaryTables& rotary, ConstTensor u, Tensor y,
                        Saved& saved) const {
  const auto& b = ctx.batch;
  const auto at = offsets();
  const Tensor qkv = ctx.keep.take({b.rows(), qkv_.out()}, ctx.dtype());
  const Tensor out = ctx.keep.take({b.rows(), heads_ * head_dim_}, ctx.dtype());
  const Tensor lse = ctx.keep.take({b.batch, heads_, b.seq}, DType::f32);
  qkv_.forward(ctx, u, qkv);
  rotate(ctx, rotary, qkv, false);
  ctx.ops.attention(ctx.stream, problem(ctx, b.seq), Heads(qkv, b.seq, at.q, at.head_stride),
                    Heads(qkv, b.seq, at.k, at.head_stride),
                    Heads(qkv, b.seq, at.v, at.head_stride), out, lse);
  dense_.forward(ctx, out, y);
  saved = {qkv, out, lse};
}

void Attention::forward_cached(const Context& ctx, const RotaryTables& rotary, ConstTensor u,
                               Tensor y, KvCache& cache) const {
  const ArenaScope scope(ctx.scratch);
  const auto& b = ctx.batch;
  const auto at = offsets();
  const Tensor qkv = ctx.scratch.take({b.rows(), qkv_.out()}, ctx.dtype());
  const Tensor out = ctx.scratch.take({b.rows(), heads_ * head_dim_}, ctx.dtype());
  const Tensor lse = ctx.scratch.take({b.batch, heads_, b.seq}, DType::f32);
  qkv_.forward(ctx, u, qkv);
  rotate(ctx, rotary, qkv, false);
  const std::int64_t capacity = cache.keys.shape[1];
  require(cache.length + b.seq <= capacity, "internal error: the KV cache holds {} positions",
          capacity);
  const auto cached = [&](const Tensor& t, std::int64_t first_position) {
    return Heads(t.reshape({b.batch * capacity, kv_heads_ * head_dim_}), capacity,
                 first_position * kv_heads_ * head_dim_, head_dim_);
  };
  ctx.ops.copy_heads(ctx.stream, Heads(qkv, b.seq, at.k, at.head_stride),
                     cached(cache.keys, cache.length), b.batch, b.seq, kv_heads_, head_dim_);
  ctx.ops.copy_heads(ctx.stream, Heads(qkv, b.seq, at.v, at.head_stride),
                     cached(cache.values, cache.length), b.batch, b.seq, kv_heads_, head_dim_);
  cache.length += b.seq;
  ctx.ops.attention(ctx.stream, problem(ctx, cache.length), Heads(qkv, b.seq, at.q, at.head_stride),
                    cached(cache.keys, 0), cached(cache.values, 0), out, lse);
  dense_.forward(ctx, out, y);
}

void Attention::backward_input(const Context& ctx, const RotaryTables& rotary, ConstTensor dy,
                               const Saved& saved, Tensor du, bool accumulate_du,
                               Gradients& gradients) const {
  const auto& b = ctx.batch;
  const auto at = offsets();
  const AttentionProblem p = problem(ctx, b.seq);
  const Tensor dqkv = ctx.gradients.take(saved.qkv.shape, ctx.dtype());
  gradients = {dy, dqkv};
  {
    const ArenaScope scope(ctx.scratch);
    const Tensor dout = ctx.scratch.take(saved.out.shape, ctx.dtype());
    dense_.backward_input(ctx, dy, dout, false);
    const Tensor workspace = ctx.scratch.take(
        {static_cast<std::int64_t>(ctx.ops.attention_backward_workspace(p, ctx.dtype()))},
        DType::u8);
    const auto heads = [&](ConstTensor t, std::int64_t offset) {
      return ConstHeads(t, b.seq, offset, at.head_stride);
    };
    ctx.ops.attention_backward(ctx.stream, p, heads(saved.qkv, at.q), heads(saved.qkv, at.k),
                               heads(saved.qkv, at.v), saved.out, saved.lse, dout,
                               Heads(dqkv, b.seq, at.q, at.head_stride),
                               Heads(dqkv, b.seq, at.k, at.head_stride),
                               Heads(dqkv, b.seq, at.v, at.head_stride), workspace);
  }
  rotate(ctx, rotary, dqkv, true);
  qkv_.backward_input(ctx, dqkv, du, accumulate_du);
}

void Attention::backward_weight(const Context& ctx, ConstTensor u, const Saved& saved,
                                const Gradients& gradients) const {
  dense_.backward_weight(ctx, gradients.y, saved.out);
  qkv_.backward_weight(ctx, gradients.qkv, u);
}

}  // namespace neox
