// Turns exceptions into messages, because Rust cannot catch them.
#pragma once

#include <cstring>
#include <exception>

// Returns null, or the message of the exception that `work` threw, which the caller frees.
template <class Work>
char *guarded(Work work) {
    try {
        work();
        return nullptr;
    } catch (const std::exception &error) {
        return strdup(error.what());
    }
}
