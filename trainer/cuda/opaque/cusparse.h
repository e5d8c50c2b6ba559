// The types of cuSPARSE that libtorch's headers name, for machines without its headers, which come with a library of
// hundreds of megabytes. The plugin only passes by what is declared with them.
#pragma once

typedef struct cusparseContext *cusparseHandle_t;
typedef enum { CUSPARSE_STATUS_SUCCESS = 0 } cusparseStatus_t;
