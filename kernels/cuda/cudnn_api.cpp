// The functions of cuDNN that cudnn-frontend and we call, under their own names: each passes its
// arguments on to the library, which is opened at the first call. So programs start, and link,
// without cuDNN. (cudnn-frontend can load libraries by itself, but then takes a second CUDA runtime
// beside our static one, of whatever version it finds first.)
#include "kernels/cuda/device_facts.h"

#ifdef NEOX_HAS_CUDNN

#include <nvrtc.h>

#include <cuda_runtime_api.h>
#include <cudnn.h>
#include <fmt/format.h>

#include "core/base/shared_library.h"
#include "kernels/cuda/cudnn_graph.h"

#define NEOX_TEXT2(x) #x
#define NEOX_TEXT(x) NEOX_TEXT2(x)

namespace neox {
namespace {

const SharedLibrary& cudnn() {
  static const SharedLibrary library("libcudnn.so." NEOX_TEXT(CUDNN_MAJOR), NEOX_CUDA_LIBRARY_DIR);
  return library;
}

/// cudnn-frontend names it in code for another operation than attention.
const SharedLibrary& nvrtc() {
  static_assert(CUDART_VERSION / 1000 == 13, "name the library of this toolkit");
  static const SharedLibrary library("libnvrtc.so.13", NEOX_CUDA_LIBRARY_DIR);
  return library;
}

template <class Function>
Function* find(const SharedLibrary& library, const char* name) {
  Function* function = nullptr;
  library.find(name, function);
  return function;
}

}  // namespace

const std::string& cudnn_problem() {
  return cudnn().problem();
}

std::string cudnn_version() {
  if (!cudnn_problem().empty()) return "";
  const std::size_t version = cudnnGetVersion();  // 91300: 9.13.0
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

}  // namespace neox

// Results, parameters and arguments are those of the headers, or these would not compile.
#define NEOX_PASS_ON(library, result, name, parameters, arguments)                   \
  extern "C" result name parameters {                                                \
    static const auto function = neox::find<decltype(name)>(neox::library(), #name); \
    return function arguments;                                                       \
  }

NEOX_PASS_ON(cudnn, size_t, cudnnGetVersion, (), ())
NEOX_PASS_ON(cudnn, cudnnStatus_t, cudnnCreate, (cudnnHandle_t * handle), (handle))
NEOX_PASS_ON(cudnn, cudnnStatus_t, cudnnDestroy, (cudnnHandle_t handle), (handle))
NEOX_PASS_ON(cudnn, cudnnStatus_t, cudnnSetStream, (cudnnHandle_t handle, cudaStream_t stream),
             (handle, stream))
NEOX_PASS_ON(cudnn, cudnnStatus_t, cudnnGetStream, (cudnnHandle_t handle, cudaStream_t* stream),
             (handle, stream))
NEOX_PASS_ON(cudnn, const char*, cudnnGetErrorString, (cudnnStatus_t status), (status))
NEOX_PASS_ON(cudnn, void, cudnnGetLastErrorString, (char* message, size_t size), (message, size))
NEOX_PASS_ON(cudnn, cudnnStatus_t, cudnnBackendCreateDescriptor,
             (cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* descriptor),
             (type, descriptor))
NEOX_PASS_ON(cudnn, cudnnStatus_t, cudnnBackendDestroyDescriptor,
             (cudnnBackendDescriptor_t descriptor), (descriptor))
NEOX_PASS_ON(cudnn, cudnnStatus_t, cudnnBackendFinalize, (cudnnBackendDescriptor_t descriptor),
             (descriptor))
NEOX_PASS_ON(cudnn, cudnnStatus_t, cudnnBackendSetAttribute,
             (cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t attribute,
              cudnnBackendAttributeType_t type, int64_t count, const void* elements),
             (descriptor, attribute, type, count, elements))
NEOX_PASS_ON(cudnn, cudnnStatus_t, cudnnBackendGetAttribute,
             (cudnnBackendDescriptor_t const descriptor, cudnnBackendAttributeName_t attribute,
              cudnnBackendAttributeType_t type, int64_t room, int64_t* count, void* elements),
             (descriptor, attribute, type, room, count, elements))
NEOX_PASS_ON(cudnn, cudnnStatus_t, cudnnBackendExecute,
             (cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack),
             (handle, plan, pack))
NEOX_PASS_ON(cudnn, cudnnStatus_t, cudnnCreateFilterDescriptor, (cudnnFilterDescriptor_t * filter),
             (filter))
NEOX_PASS_ON(cudnn, cudnnStatus_t, cudnnDestroyFilterDescriptor, (cudnnFilterDescriptor_t filter),
             (filter))
NEOX_PASS_ON(cudnn, cudnnStatus_t, cudnnSetFilterNdDescriptor,
             (cudnnFilterDescriptor_t filter, cudnnDataType_t type, cudnnTensorFormat_t format,
              int dimensions, const int extents[]),
             (filter, type, format, dimensions, extents))
NEOX_PASS_ON(cudnn, cudnnStatus_t, cudnnReorderFilterAndBias,
             (cudnnHandle_t handle, const cudnnFilterDescriptor_t filter, cudnnReorderType_t order,
              const void* data, void* reordered, int with_bias, const void* bias,
              void* reordered_bias),
             (handle, filter, order, data, reordered, with_bias, bias, reordered_bias))

NEOX_PASS_ON(nvrtc, nvrtcResult, nvrtcCreateProgram,
             (nvrtcProgram * program, const char* source, const char* name, int headers,
              const char* const* texts, const char* const* names),
             (program, source, name, headers, texts, names))
NEOX_PASS_ON(nvrtc, nvrtcResult, nvrtcDestroyProgram, (nvrtcProgram * program), (program))
NEOX_PASS_ON(nvrtc, nvrtcResult, nvrtcCompileProgram,
             (nvrtcProgram program, int count, const char* const* options),
             (program, count, options))
NEOX_PASS_ON(nvrtc, nvrtcResult, nvrtcGetCUBIN, (nvrtcProgram program, char* code), (program, code))
NEOX_PASS_ON(nvrtc, nvrtcResult, nvrtcGetCUBINSize, (nvrtcProgram program, size_t* size),
             (program, size))
NEOX_PASS_ON(nvrtc, nvrtcResult, nvrtcGetProgramLog, (nvrtcProgram program, char* log),
             (program, log))
NEOX_PASS_ON(nvrtc, nvrtcResult, nvrtcGetProgramLogSize, (nvrtcProgram program, size_t* size),
             (program, size))

#else

std::string neox::cudnn_version() {
  return "";
}

#endif  // NEOX_HAS_CUDNN
