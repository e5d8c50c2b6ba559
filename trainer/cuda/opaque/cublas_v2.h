// The types of cuBLAS that libtorch's headers name, for machines without its headers, which come with a library of
// hundreds of megabytes. The plugin only passes by what is declared with them.
#pragma once

typedef struct cublasContext *cublasHandle_t;
typedef enum { CUBLAS_STATUS_SUCCESS = 0 } cublasStatus_t;
