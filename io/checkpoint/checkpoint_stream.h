#pragma once
// A checkpoint written tensor by tensor by one process, so that a model need not be in memory at
// once: for conversion. Runs save with CheckpointSave; equal contents give equal files.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/checkpoint/checkpoint.h"

namespace neox {

/// What a tensor of the file will be.
struct CheckpointTensorSpec {
  std::string path;  ///< "/model/embed_in/weight"
  DType dtype = DType::f32;
  Shape shape;
  Attributes attributes{};
};

class CheckpointStream {
 public:
  /// Lays out <directory>/step<info.step>.h5 under a temporary name. Throws Error on duplicate
  /// paths, tensors without elements, or no space.
  CheckpointStream(const std::string& directory, std::vector<CheckpointTensorSpec> tensors,
                   const CheckpointInfo& info);
  /// What was not committed leaves no file.
  ~CheckpointStream();
  CheckpointStream(const CheckpointStream&) = delete;
  CheckpointStream& operator=(const CheckpointStream&) = delete;

  /// In order of paths; write() takes them in any order.
  std::span<const CheckpointTensorSpec> tensors() const;
  /// All elements of one tensor: host memory, type and shape as announced. Throws Error on a second
  /// time.
  void write(const std::string& path, ConstTensor tensor);
  /// Makes the file durable and gives it its name, which is returned. Throws Error when tensors are
  /// missing.
  std::string commit();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace neox
