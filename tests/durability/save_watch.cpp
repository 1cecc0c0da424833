#include "tests/durability/save_watch.h"

#include <array>
#include <filesystem>
#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "core/base/error.h"

namespace neox::testing {
namespace {

constexpr std::string_view kTemporary = ".tmp-step", kCheckpoint = "step";

}  // namespace

SaveWatch::SaveWatch(std::string directory) : directory_(std::move(directory)) {
  std::filesystem::create_directories(directory_);
  inotify_ = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  const int watch =
      inotify_add_watch(inotify_, directory_.c_str(), IN_CREATE | IN_MOVED_TO | IN_DELETE);
  require(inotify_ >= 0 && watch >= 0, "cannot watch {}", directory_);
}

SaveWatch::~SaveWatch() {
  if (inotify_ >= 0) close(inotify_);
}

void SaveWatch::update(double seconds) {
  pollfd waiting{inotify_, POLLIN, 0};
  if (poll(&waiting, 1, static_cast<int>(seconds * 1000)) <= 0) return;
  alignas(inotify_event) std::array<char, 16384> buffer{};
  while (true) {
    const ssize_t got = read(inotify_, buffer.data(), buffer.size());
    if (got <= 0) return;
    for (ssize_t at = 0; at < got;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer.data() + at);
      require((event->mask & IN_Q_OVERFLOW) == 0, "events of {} were lost", directory_);
      if (event->len > 0) take_in(event->mask, event->name);
      at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
    }
  }
}

void SaveWatch::take_in(std::uint32_t mask, const std::string& name) {
  const auto now = std::chrono::steady_clock::now();
  if ((mask & IN_CREATE) != 0 && name.starts_with(kTemporary)) {
    ++begun_;
    under_way_ = name;
    begun_at_ = now;
  } else if ((mask & IN_DELETE) != 0 && name == under_way_) {
    under_way_.clear();
  } else if ((mask & IN_MOVED_TO) != 0 && name.starts_with(kCheckpoint)) {
    committed_.insert(std::stoll(name.substr(kCheckpoint.size())));
    if (!under_way_.empty()) {
      durations_.push_back(std::chrono::duration<double>(now - begun_at_).count());
    }
    under_way_.clear();
  }
}

}  // namespace neox::testing
