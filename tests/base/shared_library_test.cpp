#include "core/base/shared_library.h"

#include <gtest/gtest.h>

#include "core/base/error.h"

namespace neox {
namespace {

TEST(SharedLibrary, SaysWhatIsMissing) {
  const SharedLibrary none("libneox_no_such_library.so.1", "/nowhere");
  EXPECT_NE(none.problem(), "");
  int (*function)() = nullptr;
  try {
    none.find("anything", function);
    FAIL() << "no exception";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("libneox_no_such_library.so.1 is needed"), std::string::npos) << text;
    EXPECT_NE(text.find("LD_LIBRARY_PATH"), std::string::npos) << text;
  }
  const SharedLibrary mathematics("libm.so.6", "");
  EXPECT_EQ(mathematics.problem(), "");
  double (*cosine)(double) = nullptr;
  mathematics.find("cos", cosine);
  EXPECT_EQ(cosine(0.0), 1.0);
  EXPECT_FALSE(mathematics.try_find("no_such_function", function));
  EXPECT_THROW(mathematics.find("no_such_function", function), Error);
}

}  // namespace
}  // namespace neox
