#include "core/train/signals.h"

#include <cerrno>
#include <system_error>

#include "core/base/error.h"

namespace neox {
namespace {

constexpr std::array kSignals = {SIGTERM, SIGUSR1};

volatile std::sig_atomic_t last_signal = 0;
bool in_use = false;

extern "C" void remember_signal(int signal) {
  last_signal = signal;
}

}  // namespace

StopSignals::StopSignals() {
  require(!in_use, "stop signals are taken over twice");
  last_signal = 0;
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    struct sigaction action {};
    action.sa_handler = remember_signal;
    action.sa_flags = SA_RESTART;  // reads and writes in progress go on
    sigemptyset(&action.sa_mask);
    saved_[i].number = kSignals[i];
    require(::sigaction(kSignals[i], &action, &saved_[i].action) == 0, "cannot handle {}: {}",
            name_of(kSignals[i]), std::generic_category().message(errno));
  }
  in_use = true;
}

StopSignals::~StopSignals() {
  for (const auto& saved : saved_) ::sigaction(saved.number, &saved.action, nullptr);
  in_use = false;
}

int StopSignals::received() const {
  return last_signal;
}

const char* StopSignals::name_of(int signal) {
  switch (signal) {
    case SIGTERM:
      return "SIGTERM";
    case SIGUSR1:
      return "SIGUSR1";
    default:
      return "signal";
  }
}

}  // namespace neox
