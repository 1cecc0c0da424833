#pragma once

#include <exception>
#include <string>

#include "comm/communicator.h"

namespace neox {

/// Runs f on every rank, then all agree: any rank's exception becomes the same Error everywhere.
/// Collective; f itself must not communicate.
template <class F>
void collectively(Communicator& group, const std::string& what, F&& f) {
  std::string error;
  try {
    f();
  } catch (const std::exception& failure) {
    error = failure.what();
    if (error.empty()) error = "unknown failure";
  }
  agree(group, what, error);
}

}  // namespace neox
