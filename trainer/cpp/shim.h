// What the files here share: no exception leaves them.
#pragma once

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
