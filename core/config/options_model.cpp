// The options of [model].
#include <array>

#include "core/config/field.h"

namespace neox {

using namespace detail;

namespace {

constexpr Choice kNorms[] = {
    {"layernorm", "(x - mean) / sqrt(var + layernorm_epsilon) * weight + bias"},
    {"rmsnorm", "x / sqrt(mean(x^2) + rms_norm_epsilon) * weight"}};

constexpr Choice kPositions[] = {
    {"rotary", "rotates the first rotary_pct of each head's channels; half-split pairs"},
    {"learned", "a table of max_position_embeddings rows, added to the token embedding"},
    {"none", "no position information beyond the causal mask"}};

constexpr Choice kInits[] = {
    {"normal", "N(0, s) with s = init_method_std"},
    {"scaled_normal", "N(0, s / sqrt(2 num_layers))"},
    {"single_residual_scaled_normal", "N(0, s / sqrt(num_layers))"},
    {"small_init", "N(0, sqrt(2 / (5 hidden_size)))"},
    {"wang_init", "N(0, 2 / (num_layers sqrt(hidden_size)))"},
    {"xavier_uniform", "U(-a, a) with a = sqrt(6 / (fan_in + fan_out)) of the whole matrix"},
    {"xavier_normal", "N(0, sqrt(2 / (fan_in + fan_out))) of the whole matrix"}};

struct ActivationWord {
  std::string_view word;
  Activation activation;
  bool gated;
};
constexpr ActivationWord kActivationWords[] = {
    {"gelu", Activation::gelu, false},  {"gelu_tanh", Activation::gelu_tanh, false},
    {"silu", Activation::silu, false},  {"relu", Activation::relu, false},
    {"geglu", Activation::gelu, true},  {"geglu_tanh", Activation::gelu_tanh, true},
    {"swiglu", Activation::silu, true}, {"reglu", Activation::relu, true},
    {"glu", Activation::sigmoid, true}, {"bilinear", Activation::identity, true}};

constexpr Choice kActivations[] = {
    {"gelu", "x/2 (1 + erf(x / sqrt 2))"},
    {"gelu_tanh", "tanh form; what GPT-NeoX computes with bias_gelu_fusion",
     "gelu_fast gelu_new gelu_pytorch_tanh"},
    {"silu", "x sigmoid(x)", "swish"},
    {"relu", "max(x, 0)"},
    {"geglu", "gated: gelu(gate) * up"},
    {"geglu_tanh", "gated: gelu_tanh(gate) * up"},
    {"swiglu", "gated: silu(gate) * up"},
    {"reglu", "gated: relu(gate) * up"},
    {"glu", "gated: sigmoid(gate) * up"},
    {"bilinear", "gated: gate * up"}};

std::string_view activation_word(const Config& c) {
  for (const ActivationWord& w : kActivationWords) {
    if (w.activation == c.model.activation && w.gated == c.model.gated) return w.word;
  }
  fail("no model.activation stands for activation {} with gated = {}",
       static_cast<int>(c.model.activation), c.model.gated);
}

void set_activation(Config& c, std::string_view word) {
  for (const ActivationWord& w : kActivationWords) {
    if (w.word != word) continue;
    c.model.activation = w.activation;
    c.model.gated = w.gated;
  }
}

std::vector<Option> shape_options() {
  return {
      {.name = "num_layers",
       .field = at<&ModelConfig::num_layers>(),
       .doc = "Transformer layers",
       .range = count(1, 1e5),
       .required = true,
       .architecture = true},
      {.name = "hidden_size",
       .field = at<&ModelConfig::hidden_size>(),
       .doc = "Width of the residual stream",
       .range = count(1, 1e6),
       .required = true,
       .architecture = true},
      {.name = "num_attention_heads",
       .field = at<&ModelConfig::num_attention_heads>(),
       .doc = "Query heads; divides hidden_size",
       .range = count(1, 1e5),
       .required = true,
       .architecture = true},
      {.name = "num_kv_heads",
       .field = at<&ModelConfig::num_kv_heads>(),
       .doc = "Key and value heads; divides num_attention_heads (grouped-query attention)",
       .default_means = "num_attention_heads",
       .range = count(0, 1e5),
       .architecture = true},
      {.name = "intermediate_size",
       .field = at<&ModelConfig::intermediate_size>(),
       .doc =
           "Inner width of the MLP, the real one also when gated (GPT-NeoX's key is 3 times that)",
       .default_means = "4 hidden_size; gated: 8/3 hidden_size rounded up to 64",
       .range = count(0, 1e7),
       .architecture = true},
      {.name = "seq_length",
       .field = at<&ModelConfig::seq_length>(),
       .doc = "Length of a training sample",
       .unit = "tokens",
       .range = count(1),
       .required = true},
      {.name = "max_position_embeddings",
       .field = at<&ModelConfig::max_position_embeddings>(),
       .doc = "Longest sequence the model takes; rows of the learned position table",
       .unit = "tokens",
       .default_means = "seq_length",
       .range = count(0),
       .architecture = true},
      {.name = "vocab_size",
       .field = at<&ModelConfig::vocab_size>(),
       .doc = "Tokens of the vocabulary, before padding",
       .unit = "tokens",
       .default_means = "from the tokenizer",
       .range = count(0),
       .architecture = true},
      {.name = "make_vocab_size_divisible_by",
       .field = at<&ModelConfig::make_vocab_size_divisible_by>(),
       .doc = "The embedding has vocab_size rounded up to this; the same for every layout",
       .unit = "tokens",
       .range = count(1, 1e6)},
  };
}

std::vector<Option> block_options() {
  return {
      {.name = "norm",
       .field = enum_at<&ModelConfig::norm, kNorms>(),
       .doc = "Normalisation before each sub-layer and at the end",
       .choices = kNorms,
       .architecture = true},
      {.name = "layernorm_epsilon",
       .field = at<&ModelConfig::layernorm_epsilon>(),
       .doc = "Added to the variance by layernorm",
       .range = kPositive,
       .architecture = true},
      {.name = "rms_norm_epsilon",
       .field = at<&ModelConfig::rms_norm_epsilon>(),
       .doc = "Added to the mean square by rmsnorm",
       .range = kPositive,
       .architecture = true},
      {.name = "pos_emb",
       .field = enum_at<&ModelConfig::pos_emb, kPositions>(),
       .doc = "How positions enter the model (GPT-NeoX's default is learned)",
       .choices = kPositions,
       .architecture = true},
      {.name = "rotary_pct",
       .field = at<&ModelConfig::rotary_pct>(),
       .doc = "Fraction of a head's channels that rotary embedding rotates",
       .range = {.min = 0, .max = 1, .above_min = true},
       .architecture = true},
      {.name = "rotary_emb_base",
       .field = at<&ModelConfig::rotary_emb_base>(),
       .doc = "Base of the rotary wavelengths (theta)",
       .range = {.min = 1, .above_min = true},
       .architecture = true},
      {.name = "no_weight_tying",
       .field = at<&ModelConfig::no_weight_tying>(),
       .doc = "Give the output head its own matrix instead of the embedding's",
       .architecture = true},
      {.name = "activation",
       .field = WordField{activation_word, set_activation},
       .doc = "Non-linearity of the MLP",
       .choices = kActivations,
       .architecture = true},
      {.name = "gpt_j_residual",
       .field = at<&ModelConfig::gpt_j_residual>(),
       .doc = "Parallel residual: x + attention(ln1 x) + mlp(ln2 x), as GPT-NeoX-20B and Pythia",
       .architecture = true},
      {.name = "gpt_j_tied",
       .field = at<&ModelConfig::gpt_j_tied>(),
       .doc = "Parallel residual with one norm for both branches; needs gpt_j_residual",
       .architecture = true},
      {.name = "use_bias_in_attn_linear",
       .field = at<&ModelConfig::use_bias_in_attn_linear>(),
       .doc = "Biases in the query/key/value and output projections",
       .architecture = true},
      {.name = "add_qkv_bias",
       .field = at<&ModelConfig::add_qkv_bias>(),
       .doc = "Query/key/value biases without use_bias_in_attn_linear: no output bias (Qwen2)",
       .architecture = true},
      {.name = "use_bias_in_mlp",
       .field = at<&ModelConfig::use_bias_in_mlp>(),
       .doc = "Biases in the MLP",
       .architecture = true},
      {.name = "use_bias_in_norms",
       .field = at<&ModelConfig::use_bias_in_norms>(),
       .doc = "Biases in layernorm",
       .architecture = true},
  };
}

std::vector<Option> start_options() {
  return {
      {.name = "init_method",
       .field = enum_at<&ModelConfig::init_method, kInits>(),
       .doc = "Initial values of embeddings, query/key/value, MLP input and output head",
       .choices = kInits},
      {.name = "output_layer_init_method",
       .field = enum_at<&ModelConfig::output_layer_init_method, kInits>(),
       .doc = "Initial values of the attention and MLP output projections",
       .choices = kInits},
      {.name = "init_method_std",
       .field = at<&ModelConfig::init_method_std>(),
       .doc = "Standard deviation of the normal rules",
       .range = kPositive},
      {.name = "hidden_dropout",
       .field = at<&ModelConfig::hidden_dropout>(),
       .doc = "Dropout on the embedding and on both branches of every layer",
       .unit = "probability",
       .range = {.min = 0, .max = 1, .below_max = true}},
      {.name = "attention_dropout",
       .field = at<&ModelConfig::attention_dropout>(),
       .doc = "Dropout on attention probabilities",
       .unit = "probability",
       .range = {.min = 0, .max = 1, .below_max = true}},
  };
}

}  // namespace

std::vector<Option> model_options() {
  std::vector<Option> all = shape_options();
  for (auto* more : {&block_options, &start_options}) {
    const std::vector<Option> group = more();
    all.insert(all.end(), group.begin(), group.end());
  }
  return all;
}

}  // namespace neox
