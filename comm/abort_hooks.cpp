#include "comm/abort_hooks.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace neox {
namespace {

struct Registry {
  std::timed_mutex mutex;
  std::vector<AbortHook*> hooks;
};
// Never destroyed: a thread of run_abort_hooks may outlive main().
Registry& registry() {
  static auto* the_registry = new Registry;
  return *the_registry;
}

struct Done {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
};

}  // namespace

AbortHook::AbortHook(std::function<void()> action) : action_(std::move(action)) {
  const std::lock_guard lock(registry().mutex);
  registry().hooks.push_back(this);
}

AbortHook::~AbortHook() {
  const std::lock_guard lock(registry().mutex);
  std::erase(registry().hooks, this);
}

void run_abort_hooks(double seconds) {
  const auto limit = std::chrono::duration<double>(seconds);
  const auto done = std::make_shared<Done>();
  std::thread([done, limit] {
    std::unique_lock lock(registry().mutex, limit);
    if (lock) {
      for (AbortHook* hook : registry().hooks) {
        try {
          hook->action_();
        } catch (const std::exception&) {  // the job ends anyway, with the message that led here
        }
      }
    }
    const std::lock_guard notify(done->mutex);
    done->done = true;
    done->changed.notify_one();
  }).detach();
  std::unique_lock lock(done->mutex);
  done->changed.wait_for(lock, limit, [&] { return done->done; });
}

}  // namespace neox
