// The options of [model].
#include <array>

#include "core/config/attention_kinds.h"
#include "core/config/field.h"

namespace neox {

using namespace detail;

namespace {

constexpr Choice kNorms[] = {
    {"layernorm", "(x - mean) / sqrt(var + layernorm_epsilon) * weight + bias"},
    {"rmsnorm", "x / sqrt(mean(x^2) + rms_norm_epsilon) * weight"},
    {"scalenorm", "x / sqrt(sum(x^2) + scalenorm_epsilon^2) * weight, one number"},
    {"non_parametric_layernorm", "(x - mean) / sqrt(var + layernorm_epsilon)"}};

constexpr Choice kPositions[] = {
    {"rotary", "rotates the first rotary_pct of each head's channels; half-split pairs"},
    {"learned", "a table of max_position_embeddings rows, added to the token embedding"},
    {"sinusoidal", "sines of position * 10000^(-2i/h), then cosines, added to the token embedding"},
    {"alibi", "a penalty on attention scores that grows with the distance, by head"},
    {"none", "no position information beyond the causal mask"}};

constexpr Choice kRopeScalings[] = {
    {"none", "as trained"},
    {"linear", "positions divided by rope_scaling_factor"},
    {"ntk", "base * factor^(d / (d - 2)), d the rotated channels"},
    {"yarn", "by wavelength between linear and none; scores scaled (YaRN)"},
    {"llama3", "by wavelength between linear and none, as Llama 3.1"}};

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
constexpr ActivationWord kActivationWords[] = {{"gelu", Activation::gelu, false},
                                               {"gelu_tanh", Activation::gelu_tanh, false},
                                               {"silu", Activation::silu, false},
                                               {"relu", Activation::relu, false},
                                               {"squared_relu", Activation::squared_relu, false},
                                               {"mish", Activation::mish, false},
                                               {"softsign", Activation::softsign, false},
                                               {"geglu", Activation::gelu, true},
                                               {"geglu_tanh", Activation::gelu_tanh, true},
                                               {"swiglu", Activation::silu, true},
                                               {"reglu", Activation::relu, true},
                                               {"glu", Activation::sigmoid, true},
                                               {"bilinear", Activation::identity, true}};

constexpr Choice kActivations[] = {
    {"gelu", "x/2 (1 + erf(x / sqrt 2))"},
    {"gelu_tanh", "tanh form; what GPT-NeoX computes with bias_gelu_fusion",
     "gelu_fast gelu_new gelu_pytorch_tanh"},
    {"silu", "x sigmoid(x)", "swish"},
    {"relu", "max(x, 0)"},
    {"squared_relu", "max(x, 0)^2", "relu2"},
    {"mish", "x tanh(log(1 + e^x))"},
    {"softsign", "x / (1 + |x|)"},
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

std::string validate_attention(const Config& c) {
  return check_attention_kinds(c.model.attention_config);
}

std::vector<Option> attention_options() {
  return {
      {.name = "attention_config",
       .field = at<&ModelConfig::attention_config>(),
       .doc = "Kinds of attention of the layers, over and over (docs/attention.md)",
       .architecture = true,
       .validate = validate_attention},
      {.name = "sliding_window_width",
       .field = at<&ModelConfig::sliding_window_width>(),
       .doc =
           "Keys before its own that a query sees in layers of kind window; without any, in global",
       .unit = "tokens",
       .default_means = "no window",
       .range = count(0),
       .architecture = true},
      {.name = "sparse_block",
       .field = at<&ModelConfig::sparse_block>(),
       .doc = "Positions of a block of block-sparse attention; a multiple of 16",
       .unit = "tokens",
       .range = count(16),
       .architecture = true},
      {.name = "sparse_num_local_blocks",
       .field = at<&ModelConfig::sparse_num_local_blocks>(),
       .doc = "sparse_fixed: blocks of a local window; local: half as many before the query's own",
       .range = count(1),
       .architecture = true},
      {.name = "sparse_num_global_blocks",
       .field = at<&ModelConfig::sparse_num_global_blocks>(),
       .doc =
           "sparse_fixed: blocks of a window that all later ones see; bigbird: the first so many",
       .range = count(0),
       .architecture = true},
      {.name = "sparse_num_different_global_patterns",
       .field = at<&ModelConfig::sparse_num_different_global_patterns>(),
       .doc = "sparse_fixed: heads take turns with so many choices of a window's global blocks",
       .range = count(1),
       .architecture = true},
      {.name = "sparse_num_random_blocks",
       .field = at<&ModelConfig::sparse_num_random_blocks>(),
       .doc = "sparse_variable, bigbird: random earlier blocks that each block sees",
       .default_means = "1 for bigbird, else none",
       .range = count(-1),
       .architecture = true},
      {.name = "sparse_num_sliding_window_blocks",
       .field = at<&ModelConfig::sparse_num_sliding_window_blocks>(),
       .doc = "bigbird, bslongformer: half as many blocks before the query's own",
       .range = count(1),
       .architecture = true},
      {.name = "sparse_local_window_blocks",
       .field = at<&ModelConfig::sparse_local_window_blocks>(),
       .doc = "sparse_variable: blocks of the first, second, ... window; the last for all others",
       .range = count(1),
       .architecture = true},
      {.name = "sparse_global_block_indices",
       .field = at<&ModelConfig::sparse_global_block_indices>(),
       .doc = "sparse_variable, bslongformer: blocks that all later ones see",
       .range = count(0),
       .architecture = true},
      {.name = "sparse_global_block_end_indices",
       .field = at<&ModelConfig::sparse_global_block_end_indices>(),
       .doc = "With it, blocks from each of sparse_global_block_indices up to, without, this",
       .default_means = "one block each",
       .range = count(1),
       .architecture = true},
      {.name = "sparse_different_layout_per_head",
       .field = at<&ModelConfig::sparse_different_layout_per_head>(),
       .doc = "Each head has its own random blocks, and its own of the different global patterns",
       .architecture = true},
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
      {.name = "scalenorm_epsilon",
       .field = at<&ModelConfig::scalenorm_epsilon>(),
       .doc = "Lower bound of the length by which scalenorm divides",
       .range = kPositive,
       .architecture = true},
      {.name = "use_qk_layernorm",
       .field = at<&ModelConfig::use_qk_layernorm>(),
       .doc = "Norm of each head's queries and keys (rmsnorm where norm is that, else layernorm)",
       .architecture = true},
      {.name = "embedding_norm",
       .field = at<&ModelConfig::embedding_norm>(),
       .doc = "Norm behind the embedding, as BLOOM",
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
      {.name = "rope_scaling",
       .field = enum_at<&ModelConfig::rope_scaling, kRopeScalings>(),
       .doc = "Stretches rotary embedding to longer sequences than it was trained on",
       .choices = kRopeScalings,
       .architecture = true},
      {.name = "rope_scaling_factor",
       .field = at<&ModelConfig::rope_scaling_factor>(),
       .doc = "How many times longer",
       .range = {.min = 1},
       .architecture = true},
      {.name = "rope_original_max_position",
       .field = at<&ModelConfig::rope_original_max_position>(),
       .doc = "yarn, llama3: length of the sequences before the stretching",
       .unit = "tokens",
       .default_means = "max_position_embeddings / rope_scaling_factor",
       .range = count(0),
       .architecture = true},
      {.name = "rope_low_freq_factor",
       .field = at<&ModelConfig::rope_low_freq_factor>(),
       .doc = "llama3: wavelengths above the original length / this are stretched in full",
       .range = kPositive,
       .architecture = true},
      {.name = "rope_high_freq_factor",
       .field = at<&ModelConfig::rope_high_freq_factor>(),
       .doc = "llama3: wavelengths below the original length / this stay",
       .range = kPositive,
       .architecture = true},
      {.name = "rope_beta_fast",
       .field = at<&ModelConfig::rope_beta_fast>(),
       .doc = "yarn: channels with more turns than this over the original length stay",
       .range = kPositive,
       .architecture = true},
      {.name = "rope_beta_slow",
       .field = at<&ModelConfig::rope_beta_slow>(),
       .doc = "yarn: channels with fewer turns than this are stretched in full",
       .range = kPositive,
       .architecture = true},
      {.name = "rope_attention_factor",
       .field = at<&ModelConfig::rope_attention_factor>(),
       .doc = "yarn: multiplies rotated queries and keys",
       .default_means = "0.1 ln(rope_scaling_factor) + 1",
       .range = {.min = 0},
       .architecture = true},
      {.name = "opt_pos_emb_offset",
       .field = at<&ModelConfig::opt_pos_emb_offset>(),
       .doc = "Rows of the learned position table before the first position's (OPT: 2)",
       .range = count(0, 1e6),
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
  for (auto* more : {&block_options, &attention_options, &start_options}) {
    const std::vector<Option> group = more();
    all.insert(all.end(), group.begin(), group.end());
  }
  return all;
}

}  // namespace neox
