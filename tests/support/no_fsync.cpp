// A library for LD_PRELOAD that leaves out every request to make data durable: with it, a power
// loss must lose checkpoints, or the test of power losses proves nothing.

#include <sys/types.h>

extern "C" {

int fsync(int) {
  return 0;
}
int fdatasync(int) {
  return 0;
}
int syncfs(int) {
  return 0;
}
int sync_file_range(int, off_t, off_t, unsigned) {
  return 0;
}
void sync() {}

}  // extern "C"
