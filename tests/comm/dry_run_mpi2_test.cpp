#include "tests/comm/dry_run_suite.h"
