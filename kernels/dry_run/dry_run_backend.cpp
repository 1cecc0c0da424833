#include "kernels/dry_run/dry_run_backend.h"

namespace neox {
namespace {

/// Bytes of all tensors; empty ones count nothing.
template <class... Tensors>
std::int64_t bytes_of(const Tensors&... tensors) {
  return (std::int64_t{0} + ... + (tensors ? static_cast<std::int64_t>(tensors.bytes()) : 0));
}

/// Bytes of a tensor that is only read under a condition.
std::int64_t bytes_if(bool read, const ConstTensor& tensor) {
  return read ? bytes_of(tensor) : 0;
}

std::int64_t heads_bytes(const ConstHeads& heads, std::int64_t elements) {
  return elements * static_cast<std::int64_t>(size_of(heads.dtype));
}

std::int64_t query_elements(const AttentionProblem& p) {
  return p.batch * p.query_length * p.heads * p.head_dim;
}
std::int64_t key_elements(const AttentionProblem& p) {
  return p.batch * p.key_length * p.kv_heads * p.head_dim;
}

/// Of q k^T and probabilities v over the (query, key) pairs that causality and a sliding window
/// leave. Documents are not known here, and all blocks of a pattern count.
double attention_flops(const AttentionProblem& p) {
  const auto queries = static_cast<double>(p.query_length);
  const auto past = static_cast<double>(p.key_length - p.query_length);
  double pairs = queries * past + queries * (queries + 1) / 2;
  if (p.mask.window > 0) {
    // Queries at positions behind the window lose the keys in front of it.
    const double last = static_cast<double>(p.key_length - 1 - p.mask.window);
    const double first = std::max(past - static_cast<double>(p.mask.window), 0.0);
    if (last > 0) pairs -= (last * (last + 1) - first * (first - 1)) / 2;
  }
  return 4.0 * static_cast<double>(p.batch * p.heads * p.head_dim) * pairs;
}

double product_flops(std::int64_t rows, std::int64_t in, std::int64_t out) {
  return 2.0 * static_cast<double>(rows) * static_cast<double>(in) * static_cast<double>(out);
}

/// Rows of an embedding table that `ids` selects, counting repeats.
std::int64_t gathered_bytes(const ConstTensor& ids, const ConstTensor& table) {
  return ids ? ids.numel() * table.cols() * static_cast<std::int64_t>(size_of(table.dtype)) : 0;
}

}  // namespace

std::string_view name_of(OperatorFamily family) {
  static constexpr std::array<std::string_view, kOperatorFamilies> kNames = {
      "linear", "norm", "attention", "elementwise", "embedding", "loss", "optimizer", "hash"};
  return kNames.at(static_cast<std::size_t>(family));
}

OperatorCounts& OperatorCounts::operator+=(const OperatorCounts& other) {
  calls += other.calls;
  flops += other.flops;
  bytes_read += other.bytes_read;
  bytes_written += other.bytes_written;
  return *this;
}

OperatorCounts DryRunBackend::total() const {
  OperatorCounts sum;
  for (const OperatorCounts& family : counts_) sum += family;
  return sum;
}

void DryRunBackend::count(OperatorFamily family, std::int64_t read, std::int64_t written,
                          double flops) const {
  counts_[static_cast<std::size_t>(family)] += {1, flops, read, written};
}

void DryRunBackend::linear(Stream&, ConstTensor x, ConstTensor w, ConstTensor bias,
                           Tensor y) const {
  count(OperatorFamily::linear, bytes_of(x, w, bias), bytes_of(y),
        product_flops(x.rows(), w.cols(), w.rows()));
}
void DryRunBackend::linear_backward_input(Stream&, ConstTensor dy, ConstTensor w, Tensor dx,
                                          bool accumulate) const {
  count(OperatorFamily::linear, bytes_of(dy, w) + bytes_if(accumulate, dx), bytes_of(dx),
        product_flops(dy.rows(), w.cols(), w.rows()));
}
void DryRunBackend::linear_backward_weight(Stream&, ConstTensor dy, ConstTensor x, Tensor dw,
                                           Tensor db, bool accumulate) const {
  count(OperatorFamily::linear,
        bytes_of(dy, x) + bytes_if(accumulate, dw) + bytes_if(accumulate, db), bytes_of(dw, db),
        product_flops(dy.rows(), x.cols(), dy.cols()));
}

void DryRunBackend::layer_norm(Stream&, ConstTensor x, ConstTensor w, ConstTensor b, float,
                               Tensor y, Tensor mean, Tensor rstd) const {
  count(OperatorFamily::norm, bytes_of(x, w, b), bytes_of(y, mean, rstd));
}
void DryRunBackend::layer_norm_backward(Stream&, ConstTensor dy, ConstTensor x, ConstTensor w,
                                        ConstTensor mean, ConstTensor rstd,
                                        ConstTensor residual_grad, Tensor dx, Tensor dw, Tensor db,
                                        bool accumulate) const {
  count(OperatorFamily::norm,
        bytes_of(dy, x, mean, rstd) + (dx ? bytes_of(w, residual_grad) : 0) +
            bytes_if(accumulate, dw) + bytes_if(accumulate, db),
        bytes_of(dx, dw, db));
}
void DryRunBackend::rms_norm(Stream&, ConstTensor x, ConstTensor w, float, Tensor y,
                             Tensor rstd) const {
  count(OperatorFamily::norm, bytes_of(x, w), bytes_of(y, rstd));
}
void DryRunBackend::rms_norm_backward(Stream&, ConstTensor dy, ConstTensor x, ConstTensor w,
                                      ConstTensor rstd, ConstTensor residual_grad, Tensor dx,
                                      Tensor dw, bool accumulate) const {
  count(OperatorFamily::norm,
        bytes_of(dy, x, rstd) + (dx ? bytes_of(w, residual_grad) : 0) + bytes_if(accumulate, dw),
        bytes_of(dx, dw));
}

void DryRunBackend::attention(Stream&, const AttentionProblem& problem, ConstHeads q, ConstHeads k,
                              ConstHeads v, Tensor out, Tensor lse) const {
  count(OperatorFamily::attention,
        heads_bytes(q, query_elements(problem)) + heads_bytes(k, key_elements(problem)) +
            heads_bytes(v, key_elements(problem)),
        bytes_of(out, lse), attention_flops(problem));
}
void DryRunBackend::attention_backward(Stream&, const AttentionProblem& problem, ConstHeads q,
                                       ConstHeads k, ConstHeads v, ConstTensor out, ConstTensor lse,
                                       ConstTensor dout, Heads dq, Heads dk, Heads dv,
                                       Tensor) const {
  const std::int64_t queries = query_elements(problem), keys = key_elements(problem);
  count(OperatorFamily::attention,
        heads_bytes(q, queries) + heads_bytes(k, keys) + heads_bytes(v, keys) +
            bytes_of(out, lse, dout),
        heads_bytes(dq, queries) + heads_bytes(dk, keys) + heads_bytes(dv, keys),
        2 * attention_flops(problem));
}
void DryRunBackend::rotary(Stream&, Heads x, std::int64_t batch, std::int64_t seq,
                           std::int64_t heads, ConstTensor positions, ConstTensor cos_table,
                           ConstTensor sin_table, bool) const {
  const std::int64_t rotated = heads_bytes(x, batch * seq * heads * 2 * cos_table.cols());
  count(OperatorFamily::attention,
        rotated + bytes_of(positions) + gathered_bytes(positions, cos_table) +
            gathered_bytes(positions, sin_table),
        rotated);
}
void DryRunBackend::copy_heads(Stream&, ConstHeads from, Heads, std::int64_t batch,
                               std::int64_t seq, std::int64_t heads, std::int64_t head_dim) const {
  const std::int64_t moved = heads_bytes(from, batch * seq * heads * head_dim);
  count(OperatorFamily::attention, moved, moved);
}

void DryRunBackend::activation(Stream&, Activation, ConstTensor x, Tensor y) const {
  count(OperatorFamily::elementwise, bytes_of(x), bytes_of(y));
}
void DryRunBackend::activation_backward(Stream&, Activation, ConstTensor x, ConstTensor dy,
                                        Tensor dx) const {
  count(OperatorFamily::elementwise, bytes_of(x, dy), bytes_of(dx));
}
void DryRunBackend::gated_activation(Stream&, Activation, ConstTensor x, Tensor y) const {
  count(OperatorFamily::elementwise, bytes_of(x), bytes_of(y));
}
void DryRunBackend::gated_activation_backward(Stream&, Activation, ConstTensor x, ConstTensor dy,
                                              Tensor dx) const {
  count(OperatorFamily::elementwise, bytes_of(x, dy), bytes_of(dx));
}
void DryRunBackend::residual_add(Stream&, ConstTensor residual, ConstTensor a, const Dropout&,
                                 ConstTensor b, const Dropout&, Tensor y) const {
  count(OperatorFamily::elementwise, bytes_of(residual, a, b), bytes_of(y));
}
void DryRunBackend::dropout(Stream&, ConstTensor x, const Dropout&, Tensor y) const {
  count(OperatorFamily::elementwise, bytes_of(x), bytes_of(y));
}
void DryRunBackend::cast(Stream&, ConstTensor x, Tensor y) const {
  count(OperatorFamily::elementwise, bytes_of(x), bytes_of(y));
}
void DryRunBackend::add_into(Stream&, ConstTensor x, Tensor y) const {
  count(OperatorFamily::elementwise, bytes_of(x, y), bytes_of(y));
}

// Of a slice of the vocabulary too: which ids lie in it only their values, not shapes, could tell.
void DryRunBackend::embedding(Stream&, ConstTensor ids, ConstTensor table, std::int64_t,
                              ConstTensor positions, ConstTensor position_table, Tensor y) const {
  count(OperatorFamily::embedding,
        bytes_of(ids, positions) + gathered_bytes(ids, table) +
            gathered_bytes(positions, position_table),
        bytes_of(y));
}
void DryRunBackend::embedding_backward(Stream&, ConstTensor ids, ConstTensor dy, std::int64_t,
                                       Tensor dtable) const {
  const std::int64_t rows = gathered_bytes(ids, dtable);
  count(OperatorFamily::embedding, bytes_of(ids, dy) + rows, rows);
}

void DryRunBackend::cross_entropy(Stream&, ConstTensor logits, ConstTensor labels,
                                  ConstTensor weights, std::int64_t, Tensor losses,
                                  Tensor dlogits) const {
  count(OperatorFamily::loss, bytes_of(logits, labels, weights), bytes_of(losses, dlogits));
}
void DryRunBackend::cross_entropy_partial(Stream&, ConstTensor logits, ConstTensor labels,
                                          ConstTensor weights, std::int64_t, std::int64_t,
                                          Tensor stats) const {
  count(OperatorFamily::loss, bytes_of(logits, labels, weights), bytes_of(stats));
}
void DryRunBackend::cross_entropy_combine(Stream&, ConstTensor logits, ConstTensor labels,
                                          ConstTensor weights, std::int64_t, std::int64_t,
                                          ConstTensor parts, Tensor losses, Tensor dlogits) const {
  // Without a gradient the parts say everything.
  count(OperatorFamily::loss,
        bytes_of(labels, weights, parts) + bytes_if(static_cast<bool>(dlogits), logits),
        bytes_of(losses, dlogits));
}

void DryRunBackend::optimizer_step(Stream&, const UpdateRule&, ConstTensor grad,
                                   ConstTensor grad_scale, Tensor main, const UpdateStates& states,
                                   Tensor weights) const {
  const std::int64_t kept = bytes_of(main, states[0], states[1], states[2]);
  count(OperatorFamily::optimizer, bytes_of(grad, grad_scale) + kept, kept + bytes_of(weights));
}
void DryRunBackend::square_sum(Stream&, ConstTensor x, Tensor out, bool accumulate) const {
  count(OperatorFamily::optimizer, bytes_of(x) + bytes_if(accumulate, out), bytes_of(out));
}
void DryRunBackend::clip_scale(Stream&, ConstTensor square_sum, float, float, Tensor scale) const {
  count(OperatorFamily::optimizer, bytes_of(square_sum), bytes_of(scale));
}
void DryRunBackend::sm3_maxima(Stream&, const Sm3&, const MatrixPart&, ConstTensor grad,
                               ConstTensor grad_scale, ConstTensor rows, ConstTensor columns,
                               Tensor new_rows, Tensor new_columns) const {
  // rows and columns are read and written whole at most, however small the part
  const std::int64_t factors = bytes_of(new_rows, new_columns);
  const std::int64_t passes = columns ? 2 : 1;
  count(OperatorFamily::optimizer,
        passes * bytes_of(grad) + bytes_of(grad_scale, rows, columns) + factors, factors);
}
void DryRunBackend::sm3_step(Stream&, const Sm3&, const MatrixPart&, ConstTensor grad,
                             ConstTensor grad_scale, ConstTensor rows, ConstTensor columns,
                             Tensor main, Tensor momentum, Tensor weights) const {
  const std::int64_t kept = bytes_of(main, momentum);
  count(OperatorFamily::optimizer, bytes_of(grad, grad_scale, rows, columns) + kept,
        kept + bytes_of(weights));
}

void DryRunBackend::hash(Stream&, ConstTensor x, Tensor out, bool accumulate) const {
  count(OperatorFamily::hash, bytes_of(x) + bytes_if(accumulate, out), bytes_of(out));
}

}  // namespace neox
