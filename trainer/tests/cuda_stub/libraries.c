// cuBLAS, cuDNN and NVRTC.
#include "stub.h"

#include <stdint.h>
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

const char *cudnnGetErrorString(int status) {
    switch (status) {
    case 0: return "CUDNN_STATUS_SUCCESS";
    case 1001: return "CUDNN_STATUS_NOT_INITIALIZED";
    case 3000: return "CUDNN_STATUS_NOT_SUPPORTED";
    case 4003: return "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED";
    case 4004: return "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED";
    default: return "CUDNN_STATUS_EXECUTION_FAILED";
    }
}

// Its graphs, with which libtorch computes convolutions, have one engine, which needs no memory.
int cudnnBackendCreateDescriptor(int kind, pointer *made) {
    (void)kind;
    *made = calloc(1, 256);
    return 0;
}

int cudnnBackendDestroyDescriptor(pointer descriptor) {
    free(descriptor);
    return 0;
}

int cudnnBackendSetAttribute(pointer descriptor, int attribute, int kind, int64_t count, const void *given) {
    enum { OPERATIONS = 801 };
    (void)descriptor, (void)kind, (void)given;
    return attribute == OPERATIONS && count > 1 ? fails("fused") : 0;
}

int cudnnBackendFinalize(pointer descriptor) {
    (void)descriptor;
    return fails("cudnnBackendFinalize");
}

int cudnnBackendGetAttribute(pointer descriptor, int attribute, int kind, int64_t wanted, int64_t *count, int64_t *found) {
    enum { ENGINES = 202, SIZE_OF_WORKSPACE = 402 };
    (void)descriptor, (void)kind, (void)wanted;
    const int is_known = attribute == ENGINES || attribute == SIZE_OF_WORKSPACE;
    if (count) *count = is_known;
    if (found && attribute == SIZE_OF_WORKSPACE) *found = 0;
    return 0;
}

int cudnnBackendExecute(pointer handle, pointer plan, pointer arguments) {
    (void)handle, (void)plan, (void)arguments;
    return fails("cudnnBackendExecute");
}

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

// --- NVRTC, which makes programs of no size --------------------------------------------------------------------------

int nvrtcCompileProgram(void) { return fails("nvrtcCompileProgram"); }
