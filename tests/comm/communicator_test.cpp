#include "tests/comm/communicator_suite.h"
