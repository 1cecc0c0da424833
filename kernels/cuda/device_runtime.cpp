#include "kernels/cuda/device_runtime.h"

#include <array>
#include <cstdlib>
#include <cuda_profiler_api.h>

#include "core/base/error.h"
#include "core/base/format.h"
#include "core/tensor/device_tools.h"
#include "kernels/cuda/internal.h"
#include "kernels/cuda/nvtx.h"

namespace neox {
namespace {

constexpr int kLeastCapability = 8;  // Ampere: the oldest architecture that kernels are built for

class CudaStream final : public Stream {
 public:
  CudaStream(int device_index, StreamPriority priority) : index_(device_index) {
    const DeviceGuard guard(index_);
    int normal = 0, highest = 0;
    cuda_check(cudaDeviceGetStreamPriorityRange(&normal, &highest),
               "cudaDeviceGetStreamPriorityRange");
    // Non-blocking: the legacy default stream would order itself against every other stream.
    cuda_check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking,
                                            priority == StreamPriority::high ? highest : normal),
               "cudaStreamCreateWithPriority");
  }
  ~CudaStream() override { static_cast<void>(cudaStreamDestroy(stream_)); }
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  Device device() const override { return {DeviceKind::cuda, index_}; }
  void synchronize() override {
    cuda_check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  }
  void* native() const override { return stream_; }

 private:
  int index_;
  cudaStream_t stream_ = nullptr;
};

class CudaEvent final : public Event {
 public:
  explicit CudaEvent(int device_index) {
    const DeviceGuard guard(device_index);
    cuda_check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming),
               "cudaEventCreateWithFlags");
  }
  ~CudaEvent() override { static_cast<void>(cudaEventDestroy(event_)); }
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;

  void record(Stream& stream) override {
    cuda_check(cudaEventRecord(event_, cuda_stream(stream)), "cudaEventRecord");
  }
  void make_wait(Stream& stream) override {
    cuda_check(cudaStreamWaitEvent(cuda_stream(stream), event_, 0), "cudaStreamWaitEvent");
  }
  bool done() const override {
    const cudaError_t code = cudaEventQuery(event_);
    if (code == cudaErrorNotReady) {
      cudaGetLastError();  // no failure, but CUDA remembers it as one
      return false;
    }
    cuda_check(code, "cudaEventQuery");
    return true;
  }
  void synchronize() override { cuda_check(cudaEventSynchronize(event_), "cudaEventSynchronize"); }

 private:
  cudaEvent_t event_ = nullptr;
};

class CudaTimeMark final : public TimeMark {
 public:
  explicit CudaTimeMark(int device_index) {
    const DeviceGuard guard(device_index);
    cuda_check(cudaEventCreate(&event_), "cudaEventCreate");
  }
  ~CudaTimeMark() override { static_cast<void>(cudaEventDestroy(event_)); }
  CudaTimeMark(const CudaTimeMark&) = delete;
  CudaTimeMark& operator=(const CudaTimeMark&) = delete;

  void record(Stream& stream) override {
    cuda_check(cudaEventRecord(event_, cuda_stream(stream)), "cudaEventRecord");
  }
  void synchronize() override { cuda_check(cudaEventSynchronize(event_), "cudaEventSynchronize"); }
  double seconds_since(const TimeMark& earlier) const override {
    float milliseconds = 0.0f;
    cuda_check(cudaEventElapsedTime(&milliseconds,
                                    dynamic_cast<const CudaTimeMark&>(earlier).event_, event_),
               "cudaEventElapsedTime");
    return 1e-3 * static_cast<double>(milliseconds);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

class CudaGraph final : public WorkGraph {
 public:
  explicit CudaGraph(cudaGraph_t graph) {
    cuda_check(cudaGraphInstantiate(&executable_, graph, 0), "cudaGraphInstantiate");
  }
  /// CUDA keeps what still runs.
  ~CudaGraph() override { static_cast<void>(cudaGraphExecDestroy(executable_)); }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  void launch(Stream& stream) override {
    cuda_check(cudaGraphLaunch(executable_, cuda_stream(stream)), "cudaGraphLaunch");
  }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

class CudaRuntime final : public DeviceRuntime {
 public:
  void* allocate(std::size_t bytes, int device_index) override {
    const DeviceGuard guard(device_index);
    void* memory = nullptr;  // cudaMalloc aligns to 256 bytes at least
    const cudaError_t code = cudaMalloc(&memory, bytes);
    if (code == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      std::size_t free = 0, total = 0;
      cuda_check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
      fail("out of memory on {}: {} could not be allocated; {} of its {} are free",
           name_of({DeviceKind::cuda, device_index}), format_bytes(bytes), format_bytes(free),
           format_bytes(total));
    }
    cuda_check(code, "cudaMalloc");
    return memory;
  }

  /// Waits for the device's queued work. Runs in destructors, so it keeps silent: failed work is
  /// reported where somebody waits for it.
  void release(void* memory, std::size_t, int) override {
    static_cast<void>(cudaFree(memory));
    static_cast<void>(cudaGetLastError());
  }

  void* allocate_host(std::size_t bytes, int device_index) override {
    const DeviceGuard guard(device_index);
    void* memory = nullptr;  // whole pages; portable: page-locked for every device
    const cudaError_t code = cudaHostAlloc(&memory, bytes, cudaHostAllocPortable);
    if (code == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      fail(
          "out of memory: {} of page-locked host memory could not be allocated for {}; the host is "
          "short of memory, or a limit on locked memory is in force (see ulimit -l and the limits "
          "of the container)",
          format_bytes(bytes), name_of({DeviceKind::cuda, device_index}));
    }
    cuda_check(code, "cudaHostAlloc");
    return memory;
  }
  void release_host(void* memory, std::size_t, int) override {
    static_cast<void>(cudaFreeHost(memory));
    static_cast<void>(cudaGetLastError());
  }

  void copy(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes,
            Stream& stream) override {
    if (bytes == 0) return;
    const cudaStream_t queue = cuda_stream(stream);
    const DeviceGuard guard(stream.device().index);
    if (!to_device.is_cpu() && !from_device.is_cpu() && to_device.index != from_device.index) {
      cuda_check(cudaMemcpyPeerAsync(to, to_device.index, from, from_device.index, bytes, queue),
                 "cudaMemcpyPeerAsync");
      return;
    }
    const cudaMemcpyKind kind =
        to_device.is_cpu()
            ? (from_device.is_cpu() ? cudaMemcpyHostToHost : cudaMemcpyDeviceToHost)
            : (from_device.is_cpu() ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToDevice);
    cuda_check(cudaMemcpyAsync(to, from, bytes, kind, queue), "cudaMemcpyAsync");
  }

  void fill_zero(void* memory, std::size_t bytes, Stream& stream) override {
    if (bytes == 0) return;
    const cudaStream_t queue = cuda_stream(stream);
    const DeviceGuard guard(stream.device().index);
    cuda_check(cudaMemsetAsync(memory, 0, bytes, queue), "cudaMemsetAsync");
  }

  std::unique_ptr<Stream> make_stream(int device_index, StreamPriority priority) override {
    return std::make_unique<CudaStream>(device_index, priority);
  }
  std::unique_ptr<Event> make_event(int device_index) override {
    return std::make_unique<CudaEvent>(device_index);
  }

  int device_count() override {
    int devices = 0;
    cuda_check(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
    return devices;
  }
  void make_current(int device_index) override {
    cuda_check(cudaSetDevice(device_index), fmt::format("cudaSetDevice({})", device_index));
  }
  std::string physical_name(int device_index) override {
    std::array<char, 32> text{};
    cuda_check(cudaDeviceGetPCIBusId(text.data(), static_cast<int>(text.size()), device_index),
               "cudaDeviceGetPCIBusId");
    return text.data();
  }
};

/// What core/tensor/device_tools.h says, by CUDA.
class CudaTools final : public DeviceTools {
 public:
  std::unique_ptr<TimeMark> make_time_mark(int device_index) override {
    return std::make_unique<CudaTimeMark>(device_index);
  }
  std::optional<DeviceMemory> memory(int device_index) override {
    const DeviceGuard guard(device_index);
    DeviceMemory memory;
    cuda_check(cudaMemGetInfo(&memory.free, &memory.total), "cudaMemGetInfo");
    return memory;
  }

  std::string why_no_graphs() const override { return ""; }
  void begin_capture(Stream& stream) override {
    // Of this thread only: others (the watchdog, a save that is being written) go on as they like.
    cuda_check(cudaStreamBeginCapture(cuda_stream(stream), cudaStreamCaptureModeThreadLocal),
               "cudaStreamBeginCapture");
  }
  std::unique_ptr<WorkGraph> end_capture(Stream& stream) override {
    const DeviceGuard guard(stream.device().index);
    cudaGraph_t graph = nullptr;
    cuda_check(cudaStreamEndCapture(cuda_stream(stream), &graph), "cudaStreamEndCapture");
    struct Template {
      cudaGraph_t graph;
      ~Template() { static_cast<void>(cudaGraphDestroy(graph)); }
    } const owned{graph};
    return std::make_unique<CudaGraph>(graph);
  }
  void drop_capture(Stream& stream) noexcept override {
    cudaGraph_t graph = nullptr;
    static_cast<void>(cudaStreamEndCapture(static_cast<cudaStream_t>(stream.native()), &graph));
    if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
    static_cast<void>(cudaGetLastError());
  }

  bool start_profiler() override {
    cuda_check(cudaProfilerStart(), "cudaProfilerStart");
    return true;
  }
  bool stop_profiler() override {
    cuda_check(cudaProfilerStop(), "cudaProfilerStop");
    return true;
  }
  bool show_ranges() override {
    show_nvtx_ranges();
    return true;
  }
};

/// "13.0" of 13000
std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

/// Why counting the devices failed.
std::string reason_of(cudaError_t code) {
  cudaGetLastError();
  if (code == cudaErrorNoDevice) {
    return "no CUDA device is visible (none in this machine, or CUDA_VISIBLE_DEVICES hides it)";
  }
  if (code == cudaErrorInsufficientDriver) {  // also when there is no driver at all
    int driver = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
      return "no CUDA driver is installed";
    }
    return fmt::format("the CUDA driver supports CUDA {}, this program needs {}",
                       version_text(driver), version_text(CUDART_VERSION));
  }
  return fmt::format("the CUDA driver answers {}: {}", cudaGetErrorName(code),
                     cudaGetErrorString(code));
}

}  // namespace

std::string register_cuda_runtime() {
  // Before the first CUDA call. The 8 hardware queues of the default are fewer than the streams of
  // a run: a stream behind another one's waiting receive would wait with it, for no reason or for
  // ever.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
  int devices = 0;
  cudaError_t code = cudaGetDeviceCount(&devices);
  if (code == cudaSuccess && devices == 0) code = cudaErrorNoDevice;
  if (code != cudaSuccess) return reason_of(code);
  for (int index = 0; index < devices; ++index) {
    int major = 0;
    code = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
    if (code != cudaSuccess) return reason_of(code);
    if (major < kLeastCapability) {
      return fmt::format(
          "cuda:{} has compute capability {}.x, the kernels need {}.0 or later (hide it with "
          "CUDA_VISIBLE_DEVICES to use others)",
          index, major, kLeastCapability);
    }
  }
  register_device_runtime(DeviceKind::cuda, std::make_unique<CudaRuntime>());
  register_device_tools(DeviceKind::cuda, std::make_unique<CudaTools>());
  return "";
}

}  // namespace neox
