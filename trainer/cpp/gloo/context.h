// What libtorch's ProcessGroupGloo.hpp names of Gloo, whose own headers libtorch does not bring. Only pointers to these
// pass through here: nothing makes one or looks into it.
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
