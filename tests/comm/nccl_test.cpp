#include "tests/comm/nccl_suite.h"
