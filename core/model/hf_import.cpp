#include "core/model/hf_import.h"

#include <fstream>
#include <iterator>
#include <vector>

#include "io/safetensors.h"

namespace neox {
namespace {

ConstTensor host_view(const std::vector<float>& values) {
  return {reinterpret_cast<const std::byte*>(values.data()),
          Shape{static_cast<std::int64_t>(values.size())}, DType::f32, Device{}};
}

}  // namespace

HfModel read_hf_model(const std::string& directory) {
  const std::string path = directory + "/config.json";
  std::ifstream in(path, std::ios::binary);
  require(in.good(), "cannot read {}: {} is not a Hugging Face model folder", path, directory);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  return model_from_hf_config(text, path);
}

void load_hf_weights(const std::string& directory, HfFamily family, Transformer& model,
                     const Backend& ops, Stream& stream) {
  const SafetensorsReader reader(directory);
  ParameterStore& store = model.parameters();
  for (ParameterId id = 0; id < store.size(); ++id) {
    const ParameterSpec& spec = store.spec(id);
    require(spec.slice == Slice::whole(spec.global),
            "internal error: import into a sharded model ({})", spec.name);
    const std::vector<float> values =
        assemble_from_hf(family, model.config(), spec.name, spec.global,
                         [&](const std::string& tensor, const Shape& shape) {
                           return reader.read_f32(tensor, shape);
                         });
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
