#pragma once
// Libraries that are opened when they are first needed, so that programs start on machines without
// them.

#include <string>

namespace neox {

class SharedLibrary {
 public:
  /// Opens `name` ("libcublasLt.so.13") where the dynamic linker looks (LD_LIBRARY_PATH, its
  /// cache), else in `folder`, where it was when this program was built. It stays open until the
  /// program ends.
  SharedLibrary(const char* name, const char* folder);

  /// Why it could not be opened, in a few words; "" when it was.
  const std::string& problem() const { return problem_; }
  /// The function of this name. Throws Error when the library, or the function in it, is missing.
  template <class Function>
  void find(const char* function, Function*& result) const {
    result = reinterpret_cast<Function*>(address_of(function));
  }
  /// False instead of throwing.
  template <class Function>
  bool try_find(const char* function, Function*& result) const {
    result = reinterpret_cast<Function*>(look_up(function));
    return result != nullptr;
  }

 private:
  void* address_of(const char* function) const;
  void* look_up(const char* function) const;

  const char* name_;
  void* handle_ = nullptr;
  std::string problem_;
};

}  // namespace neox
