// The types of Gloo that libtorch's ProcessGroupGloo.hpp names. libtorch does not ship Gloo's headers, and only
// pointers to these types are used here.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace gloo {
class Context {
   public:
    void setTimeout(std::chrono::milliseconds timeout);
};
namespace transport {
class Device;
class UnboundBuffer;
}  // namespace transport
}  // namespace gloo
