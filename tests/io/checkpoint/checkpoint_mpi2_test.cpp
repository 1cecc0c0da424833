#include "tests/io/checkpoint/checkpoint_suite.h"
