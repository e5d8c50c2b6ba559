// cuBLAS and cuDNN.
#include "stub.h"

#include <stdlib.h>

#define MAKES(name)             \
    int name(pointer *made) {   \
        *made = calloc(1, 256); \
        return fails(#name);    \
    }

MAKES(cublasCreate_v2)
MAKES(cublasLtMatmulDescCreate)
MAKES(cublasLtMatmulPreferenceCreate)
MAKES(cublasLtMatrixLayoutCreate)
MAKES(cudnnCreate)
MAKES(cudnnCreateActivationDescriptor)
MAKES(cudnnCreateConvolutionDescriptor)
MAKES(cudnnCreateDropoutDescriptor)
MAKES(cudnnCreateFilterDescriptor)
MAKES(cudnnCreatePoolingDescriptor)
MAKES(cudnnCreateTensorDescriptor)

int cublasGetMathMode(pointer handle, int *mode) {
    (void)handle;
    *mode = 0;
    return 0;
}

int cublasGetPointerMode_v2(pointer handle, int *mode) { return cublasGetMathMode(handle, mode); }

int cublasLtMatmulAlgoGetHeuristic(pointer handle, pointer description, pointer a, pointer b, pointer c, pointer d,
                                   pointer preference, int wanted, pointer results, int *count) {
    (void)handle, (void)description, (void)a, (void)b, (void)c, (void)d, (void)preference, (void)wanted, (void)results;
    *count = 1;
    return 0;
}

size_t cublasLtGetVersion(void) { return 130100; }
size_t cudnnGetVersion(void) { return 91900; }
size_t cudnnGetCudartVersion(void) { return 13000; }
const char *cudnnGetErrorString(int status) { return status ? "CUDNN_STATUS_ALLOC_FAILED" : "CUDNN_STATUS_SUCCESS"; }

// The layout of cudnnConvolutionFwdAlgoPerf_t and of those of the gradients.
struct Algorithm {
    int algorithm, status;
    float time;
    size_t memory;
    int is_deterministic, math, reserved[3];
};

#define FINDS(name)                                                                              \
    int name(pointer handle, pointer a, pointer b, pointer c, pointer d, int wanted, int *count, \
             struct Algorithm *found) {                                                          \
        (void)handle, (void)a, (void)b, (void)c, (void)d, (void)wanted;                          \
        *found = (struct Algorithm){.algorithm = 1, .is_deterministic = 1};                      \
        *count = 1;                                                                              \
        return 0;                                                                                \
    }

FINDS(cudnnGetConvolutionForwardAlgorithm_v7)
FINDS(cudnnGetConvolutionBackwardDataAlgorithm_v7)
FINDS(cudnnGetConvolutionBackwardFilterAlgorithm_v7)

#define NEEDS_NO_WORKSPACE(name)                                                                       \
    int name(pointer handle, pointer a, pointer b, pointer c, pointer d, int algorithm, size_t *size) { \
        (void)handle, (void)a, (void)b, (void)c, (void)d, (void)algorithm;                             \
        *size = 0;                                                                                     \
        return 0;                                                                                      \
    }

NEEDS_NO_WORKSPACE(cudnnGetConvolutionForwardWorkspaceSize)
NEEDS_NO_WORKSPACE(cudnnGetConvolutionBackwardDataWorkspaceSize)
NEEDS_NO_WORKSPACE(cudnnGetConvolutionBackwardFilterWorkspaceSize)

int cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(pointer handle, int mode, int operations, pointer x,
                                                             pointer z, pointer y, pointer scale,
                                                             pointer activation, size_t *size) {
    (void)handle, (void)mode, (void)operations, (void)x, (void)z, (void)y, (void)scale, (void)activation;
    *size = 0;
    return 0;
}

int cudnnGetBatchNormalizationBackwardExWorkspaceSize(pointer handle, int mode, int operations, pointer x, pointer y,
                                                      pointer dy, pointer dz, pointer dx, pointer scale,
                                                      pointer activation, size_t *size) {
    (void)handle, (void)mode, (void)operations, (void)x, (void)y, (void)dy, (void)dz, (void)dx, (void)scale;
    (void)activation;
    *size = 0;
    return 0;
}

int cudnnGetBatchNormalizationTrainingExReserveSpaceSize(pointer handle, int mode, int operations, pointer activation,
                                                         pointer x, size_t *size) {
    (void)handle, (void)mode, (void)operations, (void)activation, (void)x;
    *size = 0;
    return 0;
}
