#include "tests/io/checkpoint/corruption_suite.h"
