#include "comm/nccl_domain.h"

#include <algorithm>
#include <chrono>

namespace neox {

NcclDomain::NcclDomain(NcclLibrary& nccl, Device on, const NcclOptions& with)
    : library(nccl), device(on), options(with), hook_([this] {
        // Its owner may hold the lock while it is stuck: a lock that doesn't come is left.
        std::unique_lock lock(groups_mutex_, std::chrono::milliseconds(300));
        if (!lock) return;
        for (NcclWatched* group : groups_) group->abort_now();
      }) {}

NcclDomain::~NcclDomain() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void NcclDomain::add(NcclWatched& group) {
  const std::lock_guard lock(groups_mutex_);
  groups_.push_back(&group);
  if (options.poll_seconds > 0 && !thread_.joinable()) thread_ = std::thread([this] { run(); });
}

void NcclDomain::remove(NcclWatched& group) {
  const std::lock_guard lock(groups_mutex_);
  std::erase(groups_, &group);
}

void NcclDomain::run() {
  const std::chrono::duration<double> pause(options.poll_seconds);
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, pause, [this] { return stop_; })) {
    lock.unlock();
    {
      const std::lock_guard groups(groups_mutex_);
      for (NcclWatched* group : groups_) group->inspect();
    }
    lock.lock();
  }
}

std::string NcclDomain::error(int code, const char* call, const std::string& group,
                              NcclHandle comm) const {
  return fmt::format("NCCL call {} of the {} group failed with {} ({}): {}", call, group,
                     nccl_result_name(code), code, library.error_text(code, comm));
}

void NcclDomain::check(int code, const char* call, const std::string& group,
                       NcclHandle comm) const {
  if (code != kNcclSuccess && code != kNcclInProgress) [[unlikely]]
    throw Error(error(code, call, group, comm));
}

int NcclDomain::state(NcclHandle comm) const {
  int state = kNcclSuccess;
  const int code = library.comm_get_async_error(comm, state);
  return code != kNcclSuccess ? code : state;
}

void NcclDomain::make_device_current() const {
  device_runtime(device.kind).make_current(device.index);
}

}  // namespace neox
