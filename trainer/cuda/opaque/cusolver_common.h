// The types of cuSOLVER that libtorch's headers name, for machines without its headers, which come with a library of
// hundreds of megabytes. The plugin only passes by what is declared with them.
#pragma once

typedef enum { CUSOLVER_STATUS_SUCCESS = 0 } cusolverStatus_t;
