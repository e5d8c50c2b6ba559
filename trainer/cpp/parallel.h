// at::parallel_for. Without OpenMP it would silently use one thread.
#pragma once

#include <ATen/Parallel.h>

#if !defined(_OPENMP) && !defined(DISTILLERY_ONE_THREAD)
#error "at::parallel_for uses one thread without OpenMP: see build.rs"
#endif
