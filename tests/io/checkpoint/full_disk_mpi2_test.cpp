#include "tests/io/checkpoint/full_disk_suite.h"
