// The driver's own library, which libtorch and the doctor ask directly.
#include "stub.h"

#include <stdio.h>

int cuInit(unsigned flags) {
    (void)flags;
    return fails("cuInit");
}

int cuDriverGetVersion(int *version) {
    *version = version_of_driver();
    return 0;
}

int cuDeviceGet(int *device, int index) {
    *device = index;
    return 0;
}

int cuDeviceGetName(char *name, int length, int device) {
    (void)device;
    snprintf(name, (size_t)length, "%s", NAME);
    return 0;
}

// libtorch uses a GPU's memory only after asking whether this process uses the GPU at all.
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *is_active) {
    (void)device;
    *flags = 0;
    *is_active = 1;
    return 0;
}

int cuCtxGetCurrent(pointer *context) {
    static char current;
    *context = &current;
    return 0;
}

int cuModuleLoadData(pointer *module, const void *code) {
    (void)module, (void)code;
    return fails("cuModuleLoadData");
}

// Whether its arguments are right is not seen.
int cuLaunchKernel(void) { return fails("cuLaunchKernel"); }

int cuGetErrorString(int code, const char **text) {
    *text = cudaGetErrorString(code);
    return 0;
}

// --- the library for management, which libtorch asks when memory runs out --------------------------------------------

int nvmlInit_v2(void) { return fails("nvmlInit"); }

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    snprintf(version, length, "580.0");
    return 0;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) { return cuDriverGetVersion(version); }

int nvmlDeviceGetHandleByPciBusId_v2(const char *id, pointer *device) {
    static char all;
    (void)id;
    *device = &all;
    return 0;
}

int nvmlDeviceGetComputeRunningProcesses(pointer device, unsigned *count, pointer processes) {
    (void)device, (void)processes;
    *count = 0;
    return 0;
}

enum { NVML_NOT_SUPPORTED = 3 };

int nvmlDeviceGetNvLinkRemoteDeviceType(void) { return NVML_NOT_SUPPORTED; }
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void) { return NVML_NOT_SUPPORTED; }
int nvmlDeviceGetGpuFabricInfoV(void) { return NVML_NOT_SUPPORTED; }
