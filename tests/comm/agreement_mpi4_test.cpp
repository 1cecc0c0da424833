#include "tests/comm/agreement_suite.h"
