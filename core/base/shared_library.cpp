#include "core/base/shared_library.h"

#include <dlfcn.h>

#include "core/base/error.h"

namespace neox {

SharedLibrary::SharedLibrary(const char* name, const char* folder) : name_(name) {
  handle_ = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (handle_ != nullptr) return;
  const char* reason = dlerror();
  problem_ = reason != nullptr ? reason : fmt::format("{} cannot be opened", name);
  handle_ = dlopen(fmt::format("{}/{}", folder, name).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle_ != nullptr) problem_.clear();
}

void* SharedLibrary::look_up(const char* function) const {
  return handle_ == nullptr ? nullptr : dlsym(handle_, function);
}

void* SharedLibrary::address_of(const char* function) const {
  require(handle_ != nullptr,
          "{} is needed and cannot be loaded: {}; install it, or add its folder "
          "to LD_LIBRARY_PATH",
          name_, problem_);
  void* address = look_up(function);
  require(address != nullptr, "{} has no function {}: another version is needed", name_, function);
  return address;
}

}  // namespace neox
