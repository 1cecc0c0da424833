#include "core/model/hf_import.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <system_error>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace neox {
namespace {

namespace fs = std::filesystem;

SafetensorsReader open_weights(const std::string& directory) {
  std::error_code error;
  const auto has = [&](const char* name) { return fs::exists(fs::path(directory) / name, error); };
  require(has("model.safetensors") || has("model.safetensors.index.json") ||
              !(has("pytorch_model.bin") || has("pytorch_model.bin.index.json")),
          "{} holds its weights as pytorch_model.bin, which only Python can read; save the model "
          "as safetensors first (transformers: save_pretrained)",
          directory);
  return SafetensorsReader(directory);
}

std::vector<float> to_f32(const std::vector<std::byte>& bytes, DType dtype) {
  std::vector<float> values(bytes.size() / size_of(dtype));
  visit_float(dtype, [&](auto zero) {
    using T = decltype(zero);
    for (std::size_t i = 0; i < values.size(); ++i) {
      T value;
      std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
      values[i] = static_cast<float>(value);
    }
  });
  return values;
}

}  // namespace

HfModel read_hf_model(const std::string& directory) {
  const std::string path = directory + "/config.json";
  std::ifstream in(path, std::ios::binary);
  require(in.good(), "cannot read {}: {} is not a Hugging Face model folder", path, directory);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  return model_from_hf_config(text, path);
}

std::vector<HfLink> hf_links(HfFamily family, const ModelConfig& model) {
  const Transformer blueprint(model);
  const ParameterStore& store = blueprint.parameters();
  std::vector<HfLink> links;
  for (ParameterId id = 0; id < store.size(); ++id) {
    const ParameterSpec& spec = store.spec(id);
    Shape shape = spec.global;
    if (spec.name == "embed_in.weight" || spec.name == "embed_out.weight") {
      shape.set(0, model.vocab_size);
    }
    links.push_back(hf_link(family, model, spec.name, shape));
  }
  return links;
}

// ---- HfWeights ----------------------------------------------------------------------------------

HfWeights::HfWeights(const std::string& directory, HfFamily family)
    : family_(family), reader_(open_weights(directory)) {}

std::string HfWeights::name_of(const std::string& tensor) const {
  if (reader_.find(tensor) != nullptr) return tensor;
  std::string bare = hf_bare_name(family_, tensor);
  return reader_.find(bare) != nullptr ? bare : tensor;
}

void HfWeights::check_tied_output() const {
  const std::string output = hf_output_tensor(family_);
  const SafetensorsEntry* copy = reader_.find(output);
  if (copy == nullptr) return;
  const ModelConfig any;
  const HfLink link = hf_link(family_, any, "embed_in.weight", {1, 1});
  const SafetensorsEntry& table = reader_.at(name_of(link.tensors.front().name));
  const bool equal = copy->dtype == table.dtype && copy->shape == table.shape &&
                     std::memcmp(copy->data.data(), table.data.data(), table.data.size()) == 0;
  reader_.release(copy->name);
  reader_.release(table.name);
  require(equal,
          "config.json says that the output layer is the embedding (tie_word_embeddings), but "
          "tensor '{}' differs from '{}'; set tie_word_embeddings to false if it is a layer of its "
          "own",
          copy->name, table.name);
}

void HfWeights::check(std::span<const HfLink> links, bool tied) const {
  std::set<std::string> expected;
  for (const HfLink& link : links) {
    for (const HfTensor& tensor : link.tensors) {
      const SafetensorsEntry& entry = reader_.at(name_of(tensor.name));
      const std::string& file = reader_.files()[entry.file];
      require(entry.shape == tensor.shape,
              "'{}': tensor '{}' has shape {}, but config.json asks for {}", file, entry.name,
              entry.shape.str(), tensor.shape.str());
      require(is_float(entry.dtype), "'{}': tensor '{}' holds {}, expected floating point", file,
              entry.name, neox::name_of(entry.dtype));
      expected.insert(entry.name);
    }
  }
  std::vector<std::string> unknown;
  for (const SafetensorsEntry& entry : reader_.entries()) {
    const bool known = expected.contains(entry.name) || is_hf_buffer(family_, entry.name) ||
                       (tied && entry.name == hf_output_tensor(family_));
    if (!known && unknown.size() < 4) unknown.push_back(entry.name);
  }
  require(unknown.empty(),
          "'{}' holds tensors that the model of config.json does not have: {}{}. This program "
          "would leave them out",
          reader_.files().front(), fmt::join(unknown, ", "), unknown.size() == 4 ? ", …" : "");
  if (tied) check_tied_output();
}

void HfWeights::read(const HfLink& link, DType dtype, std::vector<std::byte>& out) const {
  const std::size_t element = size_of(dtype);
  std::vector<std::byte> theirs(static_cast<std::size_t>(link.shape.numel()) * element);
  std::byte* at = theirs.data();
  for (const HfTensor& tensor : link.tensors) {
    const std::string name = name_of(tensor.name);
    reader_.read(name, Tensor(at, tensor.shape, dtype, Device{}));
    reader_.release(name);
    at += static_cast<std::size_t>(tensor.shape.numel()) * element;
  }
  if (link.tensors.size() == 1 && !link.transposed && link.heads == 0) {
    out = std::move(theirs);
    return;
  }
  out.resize(theirs.size());
  hf_to_ours(link, element, theirs.data(), out.data());
}

// ---- into a model -------------------------------------------------------------------------------

void load_hf_weights(const std::string& directory, HfFamily family, Transformer& model,
                     const Backend& ops, Stream& stream, DType round_to) {
  const HfWeights weights(directory, family);
  ParameterStore& store = model.parameters();
  for (ParameterId id = 0; id < store.size(); ++id) {
    const ParameterSpec& spec = store.spec(id);
    require(spec.slice == Slice::whole(spec.global),
            "internal error: import into a sharded model ({})", spec.name);
    const HfLink link = hf_link(family, model.config(), spec.name, spec.global);
    std::vector<std::byte> bytes;
    weights.read(link, round_to, bytes);
    const std::vector<float> values = to_f32(bytes, round_to);
    const OwnedTensor staged(Shape{static_cast<std::int64_t>(values.size())}, DType::f32,
                             store.device());
    copy(stream, host_view(values), staged);
    for (const ParameterPiece& piece : store.update_pieces(id)) {
      ops.cast(stream, staged.tensor.slice(piece.begin, piece.begin + piece.piece.size),
               store.piece(State::main, piece.piece));
    }
    stream.synchronize();
  }
  store.refresh_weights(ops, stream);
}

}  // namespace neox
