#include "tests/io/checkpoint/disk_faults_suite.h"
