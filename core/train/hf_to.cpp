// Checkpoint -> Hugging Face folder.

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/base/format.h"
#include "core/config/resolve.h"
#include "core/model/hf_import.h"
#include "core/train/hf_check.h"
#include "core/train/hf_convert.h"
#include "core/train/hf_files.h"
#include "core/train/run_state.h"

namespace neox {
namespace {

const char* torch_name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "float32";
    case DType::bf16:
      return "bfloat16";
    case DType::f16:
      return "float16";
    default:
      fail("internal error: no export as {}", name_of(dtype));
  }
}

/// `from` as type `to`, to nearest even. Throws Error when a value is too large for it.
std::vector<std::byte> converted(const std::vector<std::byte>& from, DType from_type, DType to,
                                 const std::string& name) {
  const std::size_t count = from.size() / size_of(from_type);
  std::vector<std::byte> out(count * size_of(to));
  visit_float(from_type, [&](auto source) {
    visit_float(to, [&](auto target) {
      using From = decltype(source);
      using To = decltype(target);
      for (std::size_t i = 0; i < count; ++i) {
        From value;
        std::memcpy(&value, from.data() + i * sizeof(From), sizeof(From));
        const auto wide = static_cast<float>(value);
        const auto narrow = static_cast<To>(wide);
        if (std::isfinite(wide) && !std::isfinite(static_cast<float>(narrow))) {
          fail("{} holds {}, which is too large for {}; choose bfloat16 or float32", name, wide,
               torch_name(to));
        }
        std::memcpy(out.data() + i * sizeof(To), &narrow, sizeof(To));
      }
    });
  });
  return out;
}

// The checkpoint's parameters, without the vocabulary's padding.
class Parameters {
 public:
  /// Main weights are taken for an export that is wider than the model's compute type.
  Parameters(CheckpointReader& reader, DType dtype) : reader_(reader), dtype_(dtype) {}

  std::string path_of(const std::string& parameter) const {
    const std::string main = checkpoint_path("/optimizer/master", parameter);
    if (dtype_ == DType::f32 && reader_.find(main) != nullptr) return main;
    return checkpoint_path("/model", parameter);
  }
  std::vector<std::byte> read(const HfLink& link) {
    const std::string path = path_of(link.parameter);
    const StoredTensor* stored = reader_.find(path);
    require(stored != nullptr, "the checkpoint {} has no tensor {}", reader_.path(), path);
    std::vector<std::byte> values(static_cast<std::size_t>(link.shape.numel()) *
                                  size_of(stored->dtype));
    Shape begin = link.shape;
    for (int axis = 0; axis < begin.rank(); ++axis) begin.set(axis, 0);
    CheckpointTensor wanted;
    wanted.path = path;
    wanted.shard = {link.parameter,
                    stored->dtype,
                    stored->shape,
                    {begin, link.shape},
                    Tensor(values.data(), link.shape, stored->dtype, Device{})};
    wanted.write_end = link.shape.numel();
    reader_.read(std::span(&wanted, 1));
    if (stored->dtype == dtype_) return values;
    return converted(values, stored->dtype, dtype_, link.parameter);
  }

 private:
  CheckpointReader& reader_;
  DType dtype_;
};

/// Where an HF tensor comes from.
struct Source {
  const HfLink* link = nullptr;
  std::size_t part = 0;  // of link->tensors
};

struct Shards {
  std::vector<std::vector<SafetensorsSpec>> files;
  std::map<std::string, Source> sources;
  std::int64_t bytes = 0;
};

Shards plan_shards(std::span<const HfLink> links, DType dtype, std::int64_t most) {
  Shards shards;
  std::int64_t in_file = 0;
  for (const HfLink& link : links) {
    for (std::size_t part = 0; part < link.tensors.size(); ++part) {
      const HfTensor& tensor = link.tensors[part];
      const std::int64_t bytes = tensor.shape.numel() * static_cast<std::int64_t>(size_of(dtype));
      if (shards.files.empty() || in_file + bytes > most) {
        shards.files.emplace_back();
        in_file = 0;
      }
      shards.files.back().push_back({tensor.name, dtype, tensor.shape});
      shards.sources[tensor.name] = {&link, part};
      in_file += bytes;
      shards.bytes += bytes;
    }
  }
  return shards;
}

void write_shard(const std::string& path, const std::vector<SafetensorsSpec>& tensors,
                 const Shards& shards, Parameters& parameters) {
  SafetensorsWriter writer(path, tensors);
  for (const SafetensorsSpec& spec : writer.order()) {
    const Source& source = shards.sources.at(spec.name);
    const HfLink& link = *source.link;
    const std::size_t element = size_of(spec.dtype);
    std::vector<std::byte> values = parameters.read(link);
    if (link.transposed || link.heads != 0) {
      std::vector<std::byte> theirs(values.size());
      ours_to_hf(link, element, values.data(), theirs.data());
      values = std::move(theirs);
    }
    std::size_t begin = 0;
    for (std::size_t i = 0; i < source.part; ++i) {
      begin += static_cast<std::size_t>(link.tensors[i].shape.numel()) * element;
    }
    writer.append(spec.name, ConstTensor(values.data() + begin, spec.shape, spec.dtype, Device{}));
  }
  writer.commit();
}

void write_weights(const std::string& directory, const Shards& shards, Parameters& parameters) {
  if (shards.files.size() == 1) {
    write_shard(directory + "/model.safetensors", shards.files[0], shards, parameters);
    return;
  }
  nlohmann::ordered_json map = nlohmann::ordered_json::object();
  std::map<std::string, std::string> file_of;
  for (std::size_t i = 0; i < shards.files.size(); ++i) {
    const std::string name =
        fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.files.size());
    write_shard(directory + "/" + name, shards.files[i], shards, parameters);
    for (const SafetensorsSpec& spec : shards.files[i]) file_of[spec.name] = name;
  }
  for (const auto& [tensor, file] : file_of) map[tensor] = file;
  const nlohmann::ordered_json index = {{"metadata", {{"total_size", shards.bytes}}},
                                        {"weight_map", map}};
  write_text_file(directory + "/model.safetensors.index.json", index.dump(2) + "\n");
}

// What the checkpoint computes (rounded as the export is) against what the folder does, read by its
// own config.json.
std::string check(CheckpointReader& reader, const ModelConfig& model, DType dtype,
                  const std::string& directory) {
  const std::vector<float> before =
      check_logits(model, [&](Transformer& transformer, const Backend& ops, Stream& stream) {
        Parameters parameters(reader, dtype);
        ParameterStore& store = transformer.parameters();
        for (ParameterId id = 0; id < store.size(); ++id) {
          const ParameterSpec& spec = store.spec(id);
          const HfLink whole{spec.name, spec.global, {}};
          const std::vector<std::byte> values =
              converted(parameters.read(whole), dtype, DType::f32, spec.name);
          const Tensor weight = store.weight(id);
          std::memcpy(weight.data, values.data(), values.size());
        }
        store.weights_changed(ops);
        stream.synchronize();
      });
  const HfModel hf = read_hf_model(directory);
  const std::vector<float> after =
      check_logits(hf.model, [&](Transformer& transformer, const Backend& ops, Stream& stream) {
        load_hf_weights(directory, hf.family, transformer, ops, stream);
      });
  return "self-check: " + compare_logits(before, after) + "\n";
}

DType stored_dtype(const CheckpointReader& reader) {
  const StoredTensor* any = reader.find("/model/embed_in/weight");
  require(any != nullptr, "the checkpoint {} has no tensor /model/embed_in/weight", reader.path());
  return any->dtype;
}

}  // namespace

std::int64_t parse_byte_count(const std::string& text) {
  static constexpr std::pair<std::string_view, double> kUnits[] = {
      {"", 1},      {"B", 1},      {"KB", 1e3},          {"MB", 1e6},          {"GB", 1e9},
      {"TB", 1e12}, {"KiB", 1024}, {"MiB", 1024 * 1024}, {"GiB", 1073741824.0}};
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  const auto* const found = std::find_if(std::begin(kUnits), std::end(kUnits),
                                         [&](const auto& u) { return u.first == unit; });
  const bool fits = error == std::errc() && found != std::end(kUnits) &&
                    number * found->second >= 1 && number * found->second < 9e18;
  require(fits, "'{}' is not a size; expected a number with B, KB, MB, GB, KiB, MiB or GiB, as 5GB",
          text);
  return static_cast<std::int64_t>(number * found->second);
}

std::string convert_to_hf(CheckpointReader& reader, const std::string& hf_directory,
                          const ToHfOptions& options) {
  const Config config = stored_config(reader);
  const ModelConfig model = with_derived_values(config.model);
  const HfFamily family = hf_family_of(model);
  const DType dtype = options.dtype.value_or(stored_dtype(reader));
  const std::vector<HfLink> links = hf_links(family, model);
  if (options.check) require_memory_for_check(model);

  NewFolder folder(hf_directory);
  const std::string& directory = folder.temporary();
  Parameters parameters(reader, dtype);
  const Shards shards = plan_shards(links, dtype, options.max_shard_bytes);
  write_weights(directory, shards, parameters);
  std::string tokenizer_note;
  const HfTokenIds ids =
      export_tokenizer(config.tokenizer, model, reader.path(), directory, tokenizer_note);
  const std::string generation = directory + "/generation_config.json";
  if (!std::filesystem::exists(generation)) {
    write_text_file(generation, generation_config_text(ids));
  }
  write_text_file(directory + "/config.json",
                  hf_config_text(family, model, torch_name(dtype), ids));
  std::string text = fmt::format(
      "{}: {} parameters as {}, vocabulary {}, {} in {} file{}\n", hf_directory,
      format_grouped(count_parameters(read_hf_model(directory).model)), torch_name(dtype),
      model.vocab_size, format_bytes(static_cast<std::uint64_t>(shards.bytes)), shards.files.size(),
      shards.files.size() == 1 ? "" : "s");
  if (!tokenizer_note.empty()) {
    text += fmt::format("note: the folder has no complete tokenizer: {}\n", tokenizer_note);
  }
  text += options.check ? check(reader, model, dtype, directory)
                        : "self-check: SKIPPED (--skip-check): the folder was not compared\n";
  folder.commit();
  return text;
}

}  // namespace neox
