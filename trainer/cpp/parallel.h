// at::parallel_for, with its threads: without OpenMP it would be a loop on one, and nothing would say so.
#pragma once

#include <ATen/Parallel.h>

#if !defined(_OPENMP) && !defined(DISTILLERY_ONE_THREAD)
#error "at::parallel_for uses one thread without OpenMP: see build.rs"
#endif
