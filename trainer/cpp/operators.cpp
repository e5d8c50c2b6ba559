// All that includes libtorch's headers, as one translation unit: reading them takes most of the time of a compilation.
#include "context.cpp"
#include "inference.cpp"
#include "norm.cpp"
#include "optimizer.cpp"
#include "random.cpp"
#include "ranks.cpp"
#include "unfolded.cpp"
#include "winograd.cpp"
