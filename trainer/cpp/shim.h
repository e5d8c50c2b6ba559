// What the files here share: no exception leaves them.
#pragma once

#if !defined(_OPENMP) && !defined(DISTILLERY_ONE_THREAD)
#error "at::parallel_for uses one thread without OpenMP: see build.rs"
#endif

#include <cstring>
#include <exception>

// Null, or the message of what was thrown, which the caller frees.
template <class Work>
char *guarded(Work work) {
    try {
        work();
        return nullptr;
    } catch (const std::exception &error) {
        return strdup(error.what());
    }
}
