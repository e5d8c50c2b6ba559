// The types of cuBLASLt that libtorch's headers name, for machines without its headers, which come with a library of
// hundreds of megabytes. The plugin only passes by what is declared with them.
#pragma once

typedef struct cublasLtContext *cublasLtHandle_t;
